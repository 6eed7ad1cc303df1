//! How often a caller may ask: who is counted as one, what a refusal says, and what survives a reload.

use std::time::Duration;

use http::Request;
use serde_json::json;
use wicketgate::demo::issuer::{Issuer, TokenRequest};

use super::support::*;

fn token_of(issuer: &Issuer, client_id: &str, subject: &str) -> String {
    issuer.token(TokenRequest {
        subject: subject.to_owned(),
        client_id: client_id.to_owned(),
        resource: RESOURCE.to_owned(),
        scope: Some("read:weather".to_owned()),
        ..TokenRequest::default()
    })
}

/// A route with this limit, and one without.
fn route(limit: &str) -> String {
    format!("\n      GET /forecast/{{city}}: {{ scopes: read:weather, rate_limit: {limit} }}\n      GET /me: authenticated")
}

async fn statuses(gate: &Gate, target: &str, token: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(gate.get(target).token(token).send().await.status);
    }
    statuses
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_refused_and_no_other_notices() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).routes(&route("2 per 1h by client")).start().await;
    let (alice, bob) = (token_of(&issuer, "bot", "alice"), token_of(&issuer, "bot", "bob"));

    assert_eq!(statuses(&gate, "/forecast/oslo", &alice, 1).await, [200]);
    let last = gate.get("/forecast/bergen").token(&bob).send().await;
    let over = gate.get("/forecast/oslo").token(&alice).send().await;

    // One agent is one client, whoever it works for and whatever it asks for.
    assert_eq!((last.status, last.header("ratelimit").as_deref()), (200, Some("\"route-client-1h\";r=0;t=1800")));
    assert_eq!(last.header("ratelimit-policy").as_deref(), Some("\"route-client-1h\";q=2;w=3600"));
    assert_eq!((over.status, over.code().as_str()), (429, "rate_limited"));
    let wait: u64 = over.header("retry-after").unwrap().parse().unwrap();
    assert!((1790..=1800).contains(&wait), "{wait}");
    assert_eq!(over.header("ratelimit"), Some(format!("\"route-client-1h\";r=0;t={wait}")));
    assert_eq!(over.header("ratelimit-policy").as_deref(), Some("\"route-client-1h\";q=2;w=3600"));
    let problem = over.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(problem["violated-policies"], json!(["route-client-1h"]));
    assert_eq!(over.header("www-authenticate"), None);
    // The other client, and the route without a limit, are as before.
    assert_eq!(statuses(&gate, "/forecast/oslo", &token_of(&issuer, "other", "alice"), 3).await, [200, 200, 429]);
    assert_eq!(statuses(&gate, "/me", &alice, 5).await, [200; 5]);
    assert_eq!(gate.get("/me").token(&alice).send().await.header("ratelimit"), None);
    assert_eq!(upstream.received().len(), 2 + 2 + 6, "a refused request costs the service nothing");
    let over =
        "wicketgate_rate_limited_total{limit=\"route-client-1h\",mode=\"enforce\",route=\"GET /forecast/{city}\",service=\"weather\"}";
    let refused = "wicketgate_refusals_total{reason=\"rate_limited\",service=\"weather\"}";
    until("both are counted", || async { gate.metric(over).await == Some(2.0) && gate.metric(refused).await == Some(2.0) }).await;
    assert_eq!(gate.metric("wicketgate_rate_limit_keys").await, Some(2.0));
}

#[tokio::test]
async fn who_comes_back_when_retry_after_says_so_is_let_in() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).routes(&route("1 per 1s by client")).start().await;
    let token = token_of(&issuer, "bot", "alice");
    let mut answer = gate.get("/forecast/oslo").token(&token).send().await;
    while answer.status == 200 {
        answer = gate.get("/forecast/oslo").token(&token).send().await;
    }

    tokio::time::sleep(Duration::from_secs(answer.header("retry-after").unwrap().parse().unwrap())).await;

    assert_eq!(gate.get("/forecast/oslo").token(&token).send().await.status, 200);
}

#[tokio::test]
async fn a_limit_of_a_service_counts_over_all_its_routes_and_beside_those_of_a_route() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let limits = "    rate_limit: [{ by: [client, subject], requests: 4, per: 1h }, 100 per 1h by organization]";
    let routes = format!("{}\n      GET /open: public", route("2 per 1h by subject"));
    let gate = gate(&issuer, &upstream).routes(&routes).in_service(limits).start().await;
    let token = token_of(&issuer, "bot", "alice");

    assert_eq!(statuses(&gate, "/forecast/oslo", &token, 4).await, [200, 200, 429, 429]);
    // The two that the route refused cost nothing here.
    let third = gate.get("/me").token(&token).send().await;
    assert_eq!(
        third.header("ratelimit").as_deref(),
        Some("\"service-client-subject-1h\";r=1;t=900, \"service-organization-1h\";r=97;t=36")
    );
    assert_eq!(statuses(&gate, "/me", &token, 2).await, [200, 429]);
    // A public route knows nobody to count.
    assert_eq!(statuses(&gate, "/open", &token, 6).await, [200; 6]);
    assert_eq!(statuses(&gate, "/me", &token_of(&issuer, "bot", "bob"), 1).await, [200]);
    assert_eq!(gate.status().await["services"][0]["routes"][0]["rate_limits"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn addresses_are_counted_on_public_routes_too_and_only_a_trusted_proxy_tells_them() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "\n      /public/**: { access: public, rate_limit: 1 per 1h by address }";
    let before = gate(&issuer, &upstream).routes(routes);
    let ask =
        async |gate: &Gate, forwarded: &str| gate.get("/public/x").header(&format!("X-Forwarded-For: {forwarded}")).send().await.status;

    let open = before.clone().start().await;
    assert_eq!((ask(&open, "192.0.2.1").await, ask(&open, "192.0.2.2").await), (200, 429), "a client names itself what it likes");

    let behind = before.settings("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]").start().await;
    assert_eq!((ask(&behind, "192.0.2.1").await, ask(&behind, "192.0.2.2").await), (200, 200));
    assert_eq!(ask(&behind, "192.0.2.2").await, 429);
    assert_eq!(ask(&behind, "6.6.6.6, 192.0.2.2, 10.1.1.1").await, 429, "what the client wrote itself changes nothing");
}

#[tokio::test]
async fn what_is_only_reported_is_let_through_and_recorded() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "
      GET /tried: { access: authenticated, rate_limit: { by: client, requests: 1, per: 1h, mode: report } }
      GET /lax: { scopes: read:weather, mode: report, rate_limit: 1 per 1h by client }";
    let gate = gate(&issuer, &upstream).routes(routes).start().await;
    let token = token_of(&issuer, "bot", "alice");

    assert_eq!(statuses(&gate, "/tried", &token, 3).await, [200; 3]);
    assert_eq!(statuses(&gate, "/lax", &token, 3).await, [200; 3]);
    // Nobody was verified, so that nobody can be counted by client.
    assert_eq!(gate.get("/lax").send().await.status, 200);

    for route in ["GET /tried", "GET /lax"] {
        let over =
            format!("wicketgate_rate_limited_total{{limit=\"route-client-1h\",mode=\"report\",route=\"{route}\",service=\"weather\"}}");
        until("it is counted", || async { gate.metric(&over).await == Some(2.0) }).await;
    }
    let reported = |route: &str| {
        format!("wicketgate_requests_total{{method=\"GET\",outcome=\"reported\",route=\"{route}\",service=\"weather\",status=\"2xx\"}}")
    };
    let (tried, lax) = (reported("GET /tried"), reported("GET /lax"));
    until("they are recorded", || async { gate.metric(&tried).await == Some(2.0) && gate.metric(&lax).await == Some(3.0) }).await;
    // A limit that is only tried out is nobody's to keep.
    assert_eq!(gate.get("/tried").token(&token).send().await.header("ratelimit"), None);
}

#[tokio::test]
async fn a_reload_keeps_the_counters_of_limits_that_stay() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream).routes(&route("2 per 1h by client"));
    let mut gate = before.clone().start().await;
    let token = token_of(&issuer, "bot", "alice");
    assert_eq!(statuses(&gate, "/forecast/oslo", &token, 3).await, [200, 200, 429]);

    let service = before.in_service("    rate_limit: 100 per 1m by client");
    gate.rewrite(&service.yaml()).await;

    assert_eq!(gate.status().await["last_reload"]["changes"], "service weather: rate_limit changed");
    assert_eq!(statuses(&gate, "/forecast/oslo", &token, 1).await, [429]);

    gate.rewrite(&service.routes(&route("3 per 1h by client")).yaml()).await;

    assert_eq!(gate.status().await["last_reload"]["changes"], "routes changed: weather GET /forecast/{city}");
    assert_eq!(statuses(&gate, "/forecast/oslo", &token, 4).await, [200, 200, 200, 429]);
}

#[tokio::test]
async fn a_grpc_caller_reads_its_own_kind_of_refusal() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "\n      POST /weather.Weather/Get: { scopes: read:weather, rate_limit: 1 per 1h by client }";
    let gate = gate(&issuer, &upstream).routes(routes).start().await;
    let token = token_of(&issuer, "bot", "alice");
    let mut client = Http2::open(gate.address()).await;
    let call = || {
        let request = Request::post(format!("http://{}/weather.Weather/Get", gate.address()));
        let request = request.header("content-type", "application/grpc").header("authorization", format!("Bearer {token}"));
        request.header("te", "trailers").body(()).unwrap()
    };
    assert_eq!(client.send(call()).await.status, 200);

    let over = client.send(call()).await;

    assert_eq!((over.status, over.header("grpc-status").as_deref()), (200, Some("8")));
    assert_eq!(over.header("grpc-message").as_deref(), Some("Too many requests"));
    assert!(over.header("retry-after").is_some() && over.header("ratelimit").is_some() && over.body.is_empty());
}

#[tokio::test]
async fn what_the_service_says_of_its_own_limits_stays() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nRateLimit: \"own\";r=5\r\n\r\nok";
    let (issuer, upstream) = (issuer().await, Upstream::answering(answer).await);
    let gate = gate(&issuer, &upstream).routes(&route("2 per 1h by client")).start().await;

    let answer = gate.get("/forecast/oslo").token(&token_of(&issuer, "bot", "alice")).send().await;

    assert_eq!(answer.header("ratelimit").as_deref(), Some("\"own\";r=5, \"route-client-1h\";r=1;t=1800"));
}

/// The server itself is put to the test by tests/redis.
#[tokio::test]
async fn without_the_shared_state_each_instance_goes_on_by_itself() {
    let (issuer, upstream, nobody) = (issuer().await, Upstream::friendly().await, reserve());
    let state = |database: u8| format!("state: {{ redis: 'redis://:hunter2@{}/{database}' }}", nobody.address);
    let before = gate(&issuer, &upstream).routes(&route("2 per 1h by client"));
    let mut gate = before.clone().settings(&state(0)).start().await;
    let token = token_of(&issuer, "bot", "alice");

    assert_eq!(statuses(&gate, "/forecast/oslo", &token, 3).await, [200, 200, 429]);

    let ready = gate.admin("/readyz?verbose").await;
    let said = format!("[+] shared-state redis://{}: AWAY; limits hold in each instance by itself", nobody.address);
    assert!(ready.status == 200 && ready.text().contains(&said), "{}", ready.text());
    let up = format!("wicketgate_shared_state_up{{server=\"redis://{}\"}}", nobody.address);
    assert_eq!((gate.metric(&up).await, gate.metric("wicketgate_rate_limit_fallbacks_total").await), (Some(0.0), Some(3.0)));
    let shared = gate.status().await["shared_state"].clone();
    assert_eq!(shared, json!({ "redis": format!("redis://{}", nobody.address), "up": false }));

    // Neither the server nor its absence is a reason to forget what was counted.
    gate.rewrite(&before.clone().settings(&state(1)).yaml()).await;
    assert_eq!(gate.status().await["last_reload"]["changes"], "state changed");
    assert_eq!(statuses(&gate, "/forecast/oslo", &token, 1).await, [429]);
    for path in ["/metrics", "/status", "/readyz?verbose"] {
        assert!(!gate.admin(path).await.text().contains("hunter2"), "{path}");
    }
    gate.rewrite(&before.yaml()).await;
    assert_eq!(statuses(&gate, "/forecast/oslo", &token, 1).await, [429]);
    assert_eq!((gate.metric(&up).await, gate.status().await["shared_state"].clone()), (None, json!(null)));
}
