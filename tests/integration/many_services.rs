//! Several services behind one gate: each with its own audience, its own document and its own issuers.

use serde_json::{Value, json};
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::TokenRequest;

use super::support::*;

const MCP: &str = "https://api.weather.example/mcp";
const MCP_ROUTES: &str = "\n      /mcp/**: use:tools";
const MAPS: &str = "https://maps.example";
const DOCUMENT: &str = "/.well-known/oauth-protected-resource";

fn token_for(issuer: &Issuer, resource: &str) -> String {
    let scope = Some("read:weather use:tools read:maps".to_owned());
    issuer.token(TokenRequest { resource: resource.to_owned(), scope, ..TokenRequest::default() })
}

/// The weather service, with an MCP server below `/mcp` of the same host.
fn by_path(issuer: &Issuer, weather: &Upstream, mcp: &Upstream) -> GateBuilder {
    gate(issuer, weather).service("mcp", MCP, &mcp.url(), MCP_ROUTES).in_service("    path: /mcp")
}

/// The weather service and a service of maps, each under its own name.
fn by_host(issuer: &Issuer, weather: &Upstream, maps: &Upstream) -> GateBuilder {
    gate(issuer, weather)
        .in_service("    hosts: [api.weather.example, weather.internal]")
        .service("maps", MAPS, &maps.url(), "\n      GET /tiles/{tile}: read:maps")
        .in_service("    hosts: [maps.example]")
}

#[tokio::test]
async fn a_token_for_one_service_is_refused_at_the_other_although_it_is_remembered() {
    let (issuer, weather, mcp) = (issuer().await, Upstream::friendly().await, Upstream::friendly().await);
    let gate = by_path(&issuer, &weather, &mcp).start().await;
    let places = [("/forecast/oslo", token_for(&issuer, RESOURCE)), ("/mcp/tools", token_for(&issuer, MCP))];

    for _ in 0..2 {
        for (own, (path, token)) in places.iter().enumerate() {
            let (other, _) = &places[1 - own];
            assert_eq!(gate.get(path).token(token).send().await.status, 200, "{path}");
            let refused = gate.get(other).token(token).send().await;
            assert_eq!((refused.status, refused.code().as_str()), (401, "audience_wrong"), "{other}");
        }
    }

    let lines = |upstream: &Upstream| upstream.received().into_iter().map(|request| request.line).collect::<Vec<_>>();
    assert_eq!(lines(&weather), ["GET /forecast/oslo HTTP/1.1"; 2]);
    assert_eq!(lines(&mcp), ["GET /mcp/tools HTTP/1.1"; 2]);
    assert_eq!(gate.metric("wicketgate_token_checks_total{cache=\"hit\"}").await, Some(2.0));
}

#[tokio::test]
async fn a_service_below_a_path_has_whole_segments_and_nothing_else() {
    let (issuer, weather, mcp) = (issuer().await, Upstream::friendly().await, Upstream::friendly().await);
    let routes = "\n      /mcpx: public\n      /public/**: public\n      /: public";
    let gate = gate(&issuer, &weather).routes(routes).service("mcp", MCP, &mcp.url(), MCP_ROUTES).in_service("    path: /mcp");
    let gate = gate.start().await;

    assert_eq!(gate.get("/mcpx").send().await.status, 200);
    for path in ["/mcp", "/mcp/", "/mcp/x?a"] {
        let refused = gate.get(path).send().await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "token_missing"), "{path}");
        assert!(refused.header("www-authenticate").unwrap().contains(&format!("https://api.weather.example{DOCUMENT}/mcp\"")));
    }
    for path in ["/public/../mcp/x", "/mcp%2fx", "//mcp/x", "/public/mcp/../../mcp"] {
        assert_eq!(gate.get(path).send().await.status, 400, "{path}");
    }

    assert!(mcp.received().is_empty());
}

/// RFC 9728 §3.1.
#[tokio::test]
async fn each_service_has_its_document_at_its_own_place_and_nowhere_near() {
    let (issuer, weather, mcp) = (issuer().await, Upstream::friendly().await, Upstream::friendly().await);
    let gate = by_path(&issuer, &weather, &mcp).start().await;

    for (below, resource, name, scopes) in
        [("", RESOURCE, "weather", json!(["read:weather", "write:weather"])), ("/mcp", MCP, "mcp", json!(["use:tools"]))]
    {
        let path = format!("{DOCUMENT}{below}");
        let answer = gate.get(&path).send().await;
        let expected = json!({
            "resource": resource, "authorization_servers": [issuer.url()], "scopes_supported": scopes,
            "bearer_methods_supported": ["header"], "resource_name": name,
        });
        assert_eq!((answer.status, answer.json()), (200, expected));
        assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
        assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("*"));
        // Any query is ignored, and a token changes nothing.
        assert_eq!(gate.get(&format!("{path}?a=b")).token("x").send().await.status, 200);
        // So does a closing slash.
        assert_eq!(gate.get(&format!("{path}/")).send().await.json()["resource"], resource);
    }
    for near in ["/mcp/tools", "/MCP", "/weather", "x"] {
        assert_eq!(gate.get(&format!("{DOCUMENT}{near}")).send().await.status, 404, "{near}");
    }

    assert!(weather.received().is_empty() && mcp.received().is_empty());
}

#[tokio::test]
async fn a_document_can_be_read_from_any_page_and_not_be_written() {
    let (issuer, weather, mcp) = (issuer().await, Upstream::friendly().await, Upstream::friendly().await);
    let gate = by_path(&issuer, &weather, &mcp).start().await;
    let path = format!("{DOCUMENT}/mcp");

    let head = gate.ask("HEAD", &path).send().await;
    let preflight = gate.ask("OPTIONS", &path).header("Origin: https://inspector.example");
    let preflight = preflight.header("Access-Control-Request-Headers: mcp-protocol-version").send().await;

    assert_eq!((head.status, head.header("content-type").as_deref()), (200, Some("application/json")));
    assert_eq!((preflight.status, preflight.text().as_str()), (204, ""));
    assert_eq!(preflight.header("access-control-allow-origin").as_deref(), Some("*"));
    assert_eq!(preflight.header("access-control-allow-methods").as_deref(), Some("GET, HEAD, OPTIONS"));
    assert_eq!(preflight.header("access-control-allow-headers").as_deref(), Some("*"));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let refused = gate.ask(method, &path).body("{}").send().await;
        assert_eq!((refused.status, refused.code().as_str()), (405, "method_unknown"), "{method}");
        assert_eq!(refused.header("allow").as_deref(), Some("GET, HEAD, OPTIONS"));
    }
}

#[tokio::test]
async fn a_host_has_its_services_and_an_unknown_host_has_none() {
    let (issuer, weather, maps) = (issuer().await, Upstream::friendly().await, Upstream::friendly().await);
    let gate = by_host(&issuer, &weather, &maps).start().await;
    let (for_weather, for_maps) = (token_for(&issuer, RESOURCE), token_for(&issuer, MAPS));
    let ask = |host: &str, path: &str| gate.get(path).host(Some(host));

    for host in ["api.weather.example", "API.Weather.Example:8443", "weather.internal"] {
        assert_eq!(ask(host, "/forecast/oslo").token(&for_weather).send().await.status, 200, "{host}");
    }
    assert_eq!(ask("maps.example", "/tiles/1").token(&for_maps).send().await.status, 200);
    let refused = ask("maps.example", "/tiles/1").token(&for_weather).send().await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "audience_wrong"));
    // Another host's routes are not there.
    assert_eq!(ask("maps.example", "/public/a").send().await.status, 404);
    for host in ["other.example", "127.0.0.1", "maps.example.evil.example", "example"] {
        for path in ["/public/a", DOCUMENT] {
            let refused = ask(host, path).token(&for_weather).send().await;
            assert_eq!((refused.status, refused.code().as_str()), (421, "host_unknown"), "{host}{path}");
        }
    }

    for (host, resource) in [("api.weather.example", RESOURCE), ("maps.example", MAPS)] {
        assert_eq!(ask(host, DOCUMENT).send().await.json()["resource"], resource);
    }
    assert_eq!((weather.received().len(), maps.received().len()), (3, 1));
}

/// Claims that would pass, with this `iss`.
fn claims_of(issuer: &Issuer) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    json!({
        "iss": issuer.url(), "aud": RESOURCE, "sub": "admin", "client_id": "agent", "jti": "1", "iat": now, "exp": now + 600,
        "scope": "read:weather",
    })
}

/// RFC 8725 §3.8.
#[tokio::test]
async fn a_key_of_one_issuer_never_vouches_for_the_other() {
    let (ours, theirs, upstream) = (issuer().await, issuer().await, Upstream::friendly().await);
    let issuers = format!("issuer: [{}, {}]", ours.url(), theirs.url());
    let gate = gate(&ours, &upstream).settings(&issuers).start().await;
    let ask = async |token: &str| {
        let answer = gate.get("/forecast/oslo").token(token).send().await;
        (answer.status, answer.code())
    };
    let header = |kid: String| json!({ "alg": "ES384", "typ": "at+jwt", "kid": kid });

    for (issuer, other) in [(&ours, &theirs), (&theirs, &ours)] {
        assert_eq!(ask(&token(issuer, "read:weather")).await, (200, String::new()));
        assert_eq!(ask(&other.sign(header(issuer.kid()), claims_of(issuer))).await, (401, "signature_wrong".to_owned()));
        assert_eq!(ask(&other.sign(header(other.kid()), claims_of(issuer))).await, (401, "key_unknown".to_owned()));
        assert_eq!(ask(&other.sign(json!({ "alg": "ES384", "typ": "at+jwt" }), claims_of(issuer))).await.0, 401);
        assert_eq!(ask(&issuer.sign(header(issuer.kid()), claims_of(issuer))).await, (200, String::new()));
    }
    let mut of_both = claims_of(&ours);
    of_both["iss"] = json!([ours.url(), theirs.url()]);
    assert_eq!(ask(&ours.sign(header(ours.kid()), of_both)).await, (401, "claim_malformed".to_owned()));

    let issuers: Vec<String> = upstream.received().iter().map(|request| request.one("x-auth-issuer").unwrap().to_owned()).collect();
    assert_eq!(issuers, [ours.url(), ours.url(), theirs.url(), theirs.url()]);
}

#[tokio::test]
async fn a_service_with_its_own_issuer_takes_no_other_although_the_token_is_remembered() {
    let (ours, theirs) = (issuer().await, issuer().await);
    let (weather, mcp) = (Upstream::friendly().await, Upstream::friendly().await);
    let gate = by_path(&ours, &weather, &mcp).in_service(&format!("    issuer: {}", theirs.url())).start().await;
    let both = json!([RESOURCE, MCP]);
    let token = |issuer: &Issuer| {
        let claims = [("aud".to_owned(), both.clone()), ("scope".to_owned(), json!("read:weather use:tools"))];
        issuer.token(TokenRequest { claims: claims.into_iter().collect(), ..TokenRequest::default() })
    };
    let places = [("/forecast/oslo", token(&ours)), ("/mcp/tools", token(&theirs))];

    for _ in 0..2 {
        for (own, (path, token)) in places.iter().enumerate() {
            assert_eq!(gate.get(path).token(token).send().await.status, 200, "{path}");
            let refused = gate.get(places[1 - own].0).token(token).send().await;
            assert_eq!((refused.status, refused.code().as_str()), (401, "issuer_unknown"), "{path}");
        }
    }

    let issuers = |answer: Answer| answer.json()["authorization_servers"].clone();
    assert_eq!(issuers(gate.get(DOCUMENT).send().await), json!([ours.url()]));
    assert_eq!(issuers(gate.get(&format!("{DOCUMENT}/mcp")).send().await), json!([theirs.url()]));
}
