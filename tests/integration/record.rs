//! What the operator sees: metrics by exact series, readiness, status; and what nobody may see there.

use serde_json::json;

use super::support::*;

fn requests(route: &str, method: &str, status: &str, outcome: &str) -> String {
    let service = if route == "-" { "-" } else { "weather" };
    requests_of(service, route, method, status, outcome)
}

/// Prometheus sorts labels by name.
fn requests_of(service: &str, route: &str, method: &str, status: &str, outcome: &str) -> String {
    format!(
        "wicketgate_requests_total{{method=\"{method}\",outcome=\"{outcome}\",route=\"{route}\",service=\"{service}\",status=\"{status}\"}}"
    )
}

fn refusals(service: &str, reason: &str) -> String {
    format!("wicketgate_refusals_total{{reason=\"{reason}\",service=\"{service}\"}}")
}

#[tokio::test]
async fn every_request_is_counted_by_where_it_went_and_how_it_ended() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let read = token(&issuer, "read:weather");
    let nobody = "eyJhbGciOiJub25lIn0.e30.x";

    for _ in 0..3 {
        gate.get("/forecast/oslo").token(&read).send().await;
    }
    gate.get("/forecast/oslo").send().await;
    gate.get("/forecast/oslo").token(nobody).send().await;
    gate.ask("PUT", "/forecast/oslo").token(&read).body("{}").send().await;
    gate.ask("HEAD", "/forecast/oslo").token(&read).send().await;
    gate.get("/public/page").send().await;
    gate.get("/nowhere").send().await;
    gate.get("/.well-known/oauth-protected-resource").send().await;
    gate.get("/a/../b").send().await;

    let expected = [
        (requests("GET /forecast/{city}", "GET", "2xx", "permitted"), 3.0),
        (requests("GET /forecast/{city}", "HEAD", "2xx", "permitted"), 1.0),
        (requests("GET /forecast/{city}", "GET", "4xx", "denied"), 2.0),
        (requests("POST,PUT /forecast/{city}", "PUT", "4xx", "denied"), 1.0),
        (requests("/public/**", "GET", "2xx", "public"), 1.0),
        (requests("-", "GET", "2xx", "own"), 1.0),
        (requests_of("weather", "-", "GET", "4xx", "denied"), 1.0),
        (requests("-", "GET", "4xx", "denied"), 1.0),
        (refusals("weather", "token_missing"), 1.0),
        (refusals("weather", "algorithm_refused"), 1.0),
        (refusals("weather", "scope_missing"), 1.0),
        (refusals("weather", "route_unknown"), 1.0),
        (refusals("-", "path_ambiguous"), 1.0),
        ("wicketgate_request_duration_seconds_count{route=\"GET /forecast/{city}\",service=\"weather\"}".to_owned(), 6.0),
        ("wicketgate_upstream_duration_seconds_count{route=\"GET /forecast/{city}\",service=\"weather\"}".to_owned(), 4.0),
        ("wicketgate_requests_in_flight".to_owned(), 0.0),
        (format!("wicketgate_key_set_keys{{issuer=\"{}\"}}", issuer.url()), 1.0),
        ("wicketgate_build_info{version=\"0.1.0\"}".to_owned(), 1.0),
    ];
    for (series, value) in expected {
        // A record is written when the last byte went out, which a client may see a moment earlier.
        until(&series, || async { gate.metric(&series).await == Some(value) }).await;
    }
}

#[tokio::test]
async fn nothing_that_a_client_sends_becomes_a_label() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let good = token(&issuer, "read:weather");
    gate.get("/forecast/secret-place?secret-query=1").token(&good).send().await;
    gate.ask("BREW", "/public/secret-page").header("X-Request-Id: secret-id").send().await;
    gate.ask("BREW", "/secret-path").header("User-Agent: secret-agent").send().await;
    gate.ask("SECRETMETHODTHATISLONGERTHANANYONEWOULDREGISTER", "/public/x").send().await;
    gate.get("/forecast/oslo").host(Some("secret-host")).token(&good).send().await;
    gate.get("/forecast/oslo").token("secret.token").send().await;

    let other = requests("/public/**", "other", "2xx", "public");
    until("the made-up method is counted", || async { gate.metric(&other).await == Some(1.0) }).await;
    let text = gate.admin("/metrics").await.text();
    // Nothing was sent upstream from nowhere.
    assert!(!text.contains("wicketgate_upstream_duration_seconds_count{route=\"-\""), "{text}");
    assert!(text.lines().any(|line| line.contains("method=\"other\"") && line.contains("route=\"-\"")), "{text}");
    for hidden in ["secret", "SECRET", "BREW", "alice", "weatherbot", "oslo", "eyJ", good.rsplit('.').next().unwrap()] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
}

/// As `promtool check metrics` asks: what only grows is a counter and ends in `_total`, and everything says what it is.
#[tokio::test]
async fn the_name_of_a_metric_says_of_what_type_it_is() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    gate.get("/forecast/oslo").token(&token(&issuer, "read:weather")).send().await;
    gate.get("/forecast/oslo").send().await;

    let text = gate.admin("/metrics").await.text();

    let types: Vec<(&str, &str)> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert!(types.len() > 15, "{text}");
    for (name, kind) in types {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} {kind}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
}

#[tokio::test]
async fn labels_of_routes_and_services_that_are_gone_go_with_them() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;
    let good = token(&issuer, "read:weather");
    for ask in [gate.get("/forecast/oslo").token(&good), gate.get("/me"), gate.get("/public/x"), gate.get("/nowhere")] {
        ask.send().await;
    }
    let public = requests("/public/**", "GET", "2xx", "public");
    until("the last is counted", || async { gate.metric(&public).await.is_some() }).await;

    gate.rewrite(&before.clone().routes("\n      /public/**: public\n      GET /new: read:weather").yaml()).await;

    let text = gate.admin("/metrics").await.text();
    assert!(!text.contains("/forecast/{city}") && !text.contains("GET /me"), "{text}");
    assert_eq!(gate.metric(&public).await, Some(1.0));

    gate.rewrite(&before.yaml().replace("name: weather", "name: climate")).await;

    assert!(gate.status().await["last_reload"]["successful"] == true);
    let text = gate.admin("/metrics").await.text();
    assert!(!text.contains("service=\"weather\""), "{text}");
}

#[tokio::test]
async fn readiness_names_each_check() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    let short = gate.admin("/readyz").await;
    assert_eq!((short.status, short.text().as_str()), (200, "ready\n"));
    let expected = format!("[+] listening: all listeners are bound\n[+] not-draining: staying\n[+] keys {}: 1 keys\nready\n", issuer.url());
    assert_eq!(gate.admin("/readyz?verbose").await.text(), expected);
    assert_eq!(gate.admin("/livez").await.status, 200);
}

#[tokio::test]
async fn status_says_what_is_in_force() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "\n      GET /healthz: public\n      GET /a/{b}: { any: [write:weather, read:weather], mode: report }\n      GET /c: { all: [c:x, c:y] }";
    let before = gate(&issuer, &upstream).routes(routes);
    let mut gate = before.clone().start().await;

    let status = gate.status().await;

    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        status["services"],
        json!([{ "name": "weather", "resource": [RESOURCE], "upstream": format!("{}/", upstream.url()), "routes": [
            { "route": "GET /healthz", "requirement": "public", "mode": "enforce" },
            { "route": "GET /a/{b}", "requirement": "write:weather or read:weather", "mode": "report" },
            { "route": "GET /c", "requirement": "c:x and c:y", "mode": "enforce" },
        ] }])
    );
    let keys = &status["key_sets"][0];
    assert_eq!((&keys["issuer"], &keys["keys"], &keys["reachable"]), (&json!(issuer.url()), &json!(1), &json!(true)));
    assert!(keys["age_seconds"].is_u64());
    assert!(status["warnings"][0].as_str().unwrap().contains("GET /a/{b} is in report mode"));
    assert_eq!((&status["reloads"], &status["last_reload"]), (&json!(0), &json!(null)));
    let hash = status["config_hash"].as_str().unwrap();
    assert_eq!(gate.metric(&format!("wicketgate_config_info{{hash=\"{}\"}}", &hash[..16])).await, Some(1.0));

    gate.rewrite(&before.routes("\n      GET /healthz: public\n      GET /c: c:x\n      GET /d: d:y").yaml()).await;

    let status = gate.status().await;
    assert_ne!(status["config_hash"], hash);
    assert_eq!((&status["reloads"], &status["last_reload"]["successful"]), (&json!(1), &json!(true)));
    let changes = "routes added: weather GET /d; routes removed: weather GET /a/{b}; routes changed: weather GET /c";
    assert_eq!(status["last_reload"]["changes"], changes);
    let infos = gate.admin("/metrics").await.text().lines().filter(|line| line.starts_with("wicketgate_config_info{")).count();
    assert_eq!(infos, 1);
}

#[tokio::test]
async fn the_admin_listener_only_reads_and_only_for_who_knows_its_address() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let admin = gate.app.admin_address();
    for path in ["/metrics", "/livez", "/readyz", "/status"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = Ask::new(admin, method, path).send().await;
            assert_eq!((answer.status, answer.header("allow").as_deref()), (405, Some("GET, HEAD")), "{method} {path}");
        }
        // A browser that was led here by a name of an attacker's (DNS rebinding).
        for host in ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example"] {
            assert_eq!(Ask::new(admin, "GET", path).host(Some(host)).send().await.status, 421, "{host} {path}");
        }
        assert_eq!(Ask::new(admin, "HEAD", path).send().await.status, 200, "{path}");
        assert_eq!(Ask::new(admin, "GET", path).host(Some(&format!("localhost:{}", admin.port()))).send().await.status, 200, "{path}");
        // What is the operator's is not served to clients.
        assert_eq!(gate.get(path).send().await.status, 404, "{path}");
    }
    assert_eq!(Ask::new(admin, "GET", "/").send().await.status, 404);
}
