//! Pages in browsers: which may call, what they are told, and that no preflight reaches a service that has the gate answer.
//! Citations are of the Fetch standard, <https://fetch.spec.whatwg.org/>.

use super::support::*;

const PAGE: &str = "https://app.example";

fn service(issuer: &wicketgate::demo::Issuer, upstream: &Upstream, cors: &str) -> GateBuilder {
    let routes = "
      GET /forecast/{city}: read:weather
      PUT /forecast/{city}: write:weather
      POST /limited: { scopes: read:weather, rate_limit: 1 per 1h by client }
      /any/**: public
      GET /other: { access: public, cors: { origins: ['https://other.example'], credentials: true, expose: [X-Sum], max_age: 0s } }
      GET,OPTIONS /none: { access: public, cors: { origins: [] } }";
    gate(issuer, upstream).routes(routes).in_service(&format!("    cors: {cors}"))
}

fn preflight(gate: &Gate, path: &str, method: &str, origin: &str) -> Ask {
    let ask = gate.ask("OPTIONS", path).header(&format!("Origin: {origin}"));
    ask.header(&format!("Access-Control-Request-Method: {method}")).header("Access-Control-Request-Headers: authorization,x-a")
}

/// All `Access-Control-*` lines and `Vary`, sorted.
fn said(answer: &Answer) -> Vec<String> {
    let of_cors = |name: &str| name.starts_with("access-control-") || name == "vary";
    let mut lines: Vec<String> =
        answer.headers.iter().filter(|(name, _)| of_cors(name)).map(|(name, value)| format!("{name}: {value}")).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_token_and_never_reaches_the_upstream() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = service(&issuer, &upstream, "{ origins: [https://app.example] }").start().await;

    let answer = preflight(&gate, "/forecast/oslo", "PUT", PAGE).send().await;
    let any = preflight(&gate, "/any/x", "PROPFIND", PAGE).send().await;
    let other = preflight(&gate, "/other", "GET", "https://other.example").send().await;

    let expected = [
        "access-control-allow-headers: Authorization, Content-Type",
        "access-control-allow-methods: PUT",
        "access-control-allow-origin: https://app.example",
        "access-control-max-age: 600",
        "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    ];
    assert_eq!((answer.status, said(&answer)), (204, expected.map(str::to_owned).to_vec()));
    assert!(answer.header("x-request-id").is_some() && answer.header("www-authenticate").is_none());
    let methods = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, PROPFIND";
    assert_eq!(any.header("access-control-allow-methods").as_deref(), Some(methods));
    assert_eq!(other.header("access-control-allow-credentials").as_deref(), Some("true"));
    assert_eq!(other.header("access-control-max-age").as_deref(), Some("0"));
    assert!(upstream.received().is_empty());
    let counted = gate.admin("/metrics").await.text();
    let counted: Vec<&str> = counted.lines().filter(|line| line.starts_with("wicketgate_requests_total{")).collect();
    assert!(counted.iter().any(|line| line.contains("route=\"PUT /forecast/{city}\"") && line.contains("own")), "{counted:#?}");
}

#[tokio::test]
async fn a_preflight_to_nowhere_or_from_elsewhere_is_told_nothing() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = service(&issuer, &upstream, "{ origins: [https://app.example] }").start().await;

    let elsewhere = preflight(&gate, "/forecast/oslo", "PUT", "https://evil.example").send().await;
    let sibling = preflight(&gate, "/other", "GET", PAGE).send().await;
    let method = preflight(&gate, "/forecast/oslo", "DELETE", "https://evil.example").send().await;
    let lower = preflight(&gate, "/forecast/oslo", "put", PAGE).send().await;
    let path = preflight(&gate, "/nowhere", "GET", "https://evil.example").send().await;
    let traced = preflight(&gate, "/forecast/oslo", "TRACE", PAGE).send().await;

    for answer in [&elsewhere, &sibling] {
        assert_eq!((answer.status, answer.code().as_str()), (403, "origin_refused"));
        assert_eq!(said(answer), ["vary: Origin"]);
    }
    for (answer, code) in [(&method, "method_unknown"), (&lower, "method_unknown"), (&path, "route_unknown"), (&traced, "method_unknown")] {
        assert_eq!(answer.code(), code);
        assert_eq!(answer.header("access-control-allow-methods"), None);
    }
    assert!(upstream.received().is_empty());
    assert_eq!(gate.metric("wicketgate_refusals_total{reason=\"origin_refused\",service=\"weather\"}").await, Some(2.0));
}

#[tokio::test]
async fn a_page_can_read_every_answer_and_why_it_was_refused() {
    let issuer = issuer().await;
    let upstream = Upstream::answering_each(|request| match request.line.contains("broken") {
        true => b"no HTTP\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let gate = service(&issuer, &upstream, "{ origins: [https://app.example], expose: [Mcp-Session-Id] }").start().await;
    let (reader, writer) = (token(&issuer, "read:weather"), token(&issuer, "write:weather"));
    let from_page = |ask: Ask| ask.header(&format!("Origin: {PAGE}"));

    let answers = [
        (200, from_page(gate.get("/forecast/oslo")).token(&reader).send().await),
        (401, from_page(gate.get("/forecast/oslo")).send().await),
        (403, from_page(gate.get("/forecast/oslo")).token(&writer).send().await),
        (404, from_page(gate.get("/nowhere")).send().await),
        (405, from_page(gate.ask("DELETE", "/forecast/oslo")).send().await),
        (200, from_page(gate.ask("POST", "/limited")).token(&reader).send().await),
        (429, from_page(gate.ask("POST", "/limited")).token(&reader).send().await),
        (502, from_page(gate.get("/any/broken")).send().await),
    ];

    let expected = [
        "access-control-allow-origin: https://app.example",
        "access-control-expose-headers: WWW-Authenticate, X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, Mcp-Session-Id",
        "vary: Origin",
    ];
    for (status, answer) in &answers {
        assert_eq!((answer.status, said(answer)), (*status, expected.map(str::to_owned).to_vec()), "{status}");
    }
    // To anybody else the same answers say nothing, and that they are not the same for all.
    for origin in ["https://evil.example", "null", "https://app.example:8443", "HTTPS://APP.EXAMPLE"] {
        let answer = gate.get("/forecast/oslo").header(&format!("Origin: {origin}")).send().await;
        assert_eq!((answer.status, said(&answer)), (401, vec!["vary: Origin".to_owned()]), "{origin}");
    }
    let twice = gate.get("/forecast/oslo").header(&format!("Origin: {PAGE}")).header("Origin: https://evil.example").send().await;
    assert_eq!(said(&twice), ["vary: Origin"]);
    assert_eq!(said(&gate.get("/forecast/oslo").send().await), ["vary: Origin"]);
}

#[tokio::test]
async fn what_the_upstream_says_to_pages_is_replaced_where_the_gate_answers_them() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
          Access-Control-Expose-Headers: X-Secret\r\nVary: Accept-Encoding\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let gate = service(&issuer, &upstream, "{ origins: ['*'] }").start().await;
    let ask = |path: &str, origin: &str| gate.get(path).header(&format!("Origin: {origin}")).send();

    let all = ask("/any/x", "null").await;
    let other = ask("/other", "https://other.example").await;
    let refused = ask("/other", PAGE).await;
    let none = ask("/none", PAGE).await;

    let exposed = "access-control-expose-headers: WWW-Authenticate, X-Request-Id, Retry-After, RateLimit, RateLimit-Policy";
    assert_eq!(said(&all), ["access-control-allow-origin: *", exposed, "vary: Accept-Encoding"]);
    let lines = [
        "access-control-allow-credentials: true",
        "access-control-allow-origin: https://other.example",
        &format!("{exposed}, X-Sum"),
        "vary: Accept-Encoding",
        "vary: Origin",
    ];
    assert_eq!(said(&other), lines);
    assert_eq!(said(&refused), ["vary: Accept-Encoding", "vary: Origin"]);
    assert_eq!(none.header("access-control-expose-headers").as_deref(), Some("X-Secret"));
}

#[tokio::test]
async fn without_cors_the_upstream_answers_for_itself() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(
        b"HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: https://app.example\r\nAccess-Control-Allow-Methods: PUT\r\n\r\n",
    )
    .await;
    let gate = service(&issuer, &upstream, "{ origins: [] }").start().await;

    let passed = preflight(&gate, "/none", "GET", PAGE).send().await;
    let unnamed = preflight(&gate, "/forecast/oslo", "PUT", PAGE).send().await;
    let refused = gate.get("/forecast/oslo").header(&format!("Origin: {PAGE}")).send().await;

    assert_eq!((passed.status, said(&passed).len()), (204, 2));
    assert_eq!(upstream.only().one("access-control-request-method"), Some("GET"));
    assert_eq!((unnamed.status, said(&unnamed)), (405, Vec::new()));
    // As ever: an agent in a browser must read the challenge to go on.
    assert_eq!(refused.header("access-control-allow-origin").as_deref(), Some("*"));
}

#[tokio::test]
async fn an_options_request_that_is_no_preflight_goes_its_way() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = service(&issuer, &upstream, "{ origins: [https://app.example] }").start().await;

    let no_origin = gate.ask("OPTIONS", "/any/x").header("Access-Control-Request-Method: PUT").send().await;
    let no_method = gate.ask("OPTIONS", "/any/x").header(&format!("Origin: {PAGE}")).send().await;

    assert_eq!((no_origin.status, no_method.status, upstream.received().len()), (200, 200, 2));
    assert_eq!(no_method.header("access-control-allow-origin").as_deref(), Some(PAGE));
}
