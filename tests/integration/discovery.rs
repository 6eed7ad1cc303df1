//! What a client finds before it has a token: the metadata document in each of its places, and the challenge (RFC 9728,
//! RFC 6750, the authorization part of MCP).

use serde_json::json;
use wicketgate::demo::issuer::TokenRequest;

use super::support::*;

const MCP: &str = "https://api.weather.example/mcp";
const DOCUMENT: &str = "/.well-known/oauth-protected-resource";

/// RFC 9728 §3.1: the path of the resource comes behind the well-known one, with its closing slash if it has one.
#[tokio::test]
async fn the_document_stands_at_the_root_and_at_the_path_with_and_without_a_closing_slash() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).service("mcp", MCP, &upstream.url(), "\n      /mcp: read:weather").in_service("    path: /mcp");
    let gate = gate.start().await;
    for (below, resource) in [("", RESOURCE), ("/", RESOURCE), ("/mcp", MCP), ("/mcp/", MCP)] {
        let answer = gate.get(&format!("{DOCUMENT}{below}")).send().await;
        assert_eq!((answer.status, &answer.json()["resource"]), (200, &json!(resource)), "{below}");
        assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    }
    // Only exactly there: nobody gets another's document (RFC 9728 §3.3).
    for elsewhere in ["/mcp-evil", "/mcp/x", "/mcp/x/", "/forecast"] {
        assert_eq!(gate.get(&format!("{DOCUMENT}{elsewhere}")).send().await.status, 404, "{elsewhere}");
    }
    assert!(upstream.received().is_empty());
}

/// RFC 9728 §3.3: `resource` must be identical to the address that the client used.
#[tokio::test]
async fn a_client_that_was_told_of_the_resource_with_a_slash_gets_the_one_with_a_slash() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "\n      /mcp/**: read:weather";
    let both = gate(&issuer, &upstream).service("mcp", "[https://m.example/mcp, https://m.example/mcp/]", &upstream.url(), routes);
    let gate = both.in_service("    path: /mcp").start().await;
    let resource = |answer: Answer| answer.json()["resource"].as_str().unwrap().to_owned();
    assert_eq!(resource(gate.get(&format!("{DOCUMENT}/mcp")).send().await), "https://m.example/mcp");
    assert_eq!(resource(gate.get(&format!("{DOCUMENT}/mcp/")).send().await), "https://m.example/mcp/");
}

/// RFC 9728 §3.3, where Logto knows the resource by several names.
#[tokio::test]
async fn the_resource_that_is_published_is_the_one_that_clients_use() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "\n      /mcp/**: read:weather";
    let named = |public_url: &str| {
        let service = gate(&issuer, &upstream).service("mcp", "[urn:example:mcp, https://m.example/mcp]", &upstream.url(), routes);
        service.in_service(&format!("    path: /mcp\n    public_url: {public_url}"))
    };
    let gate = named("https://m.example/mcp").start().await;
    assert_eq!(gate.get(&format!("{DOCUMENT}/mcp")).send().await.json()["resource"], "https://m.example/mcp");
    assert!(gate.app.snapshot().policy.warnings.iter().all(|warning| !warning.contains("RFC 9728")));
    let other = named("https://other.example/mcp").start().await;
    assert_eq!(other.get(&format!("{DOCUMENT}/mcp")).send().await.json()["resource"], "urn:example:mcp");
    let warned = |warning: &String| warning.starts_with("mcp: no resource is https://other.example/mcp");
    assert!(other.app.snapshot().policy.warnings.iter().any(warned), "{:?}", other.app.snapshot().policy.warnings);
}

/// An agent in a browser reads a header of another origin only when it is exposed (Fetch standard, CORS protocol).
#[tokio::test]
async fn a_browser_of_another_origin_may_read_the_challenge_and_no_answer_of_the_service() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let reader = token(&issuer, "read:weather");
    let asks = [
        (gate.get("/forecast/oslo"), 401),
        (gate.get("/forecast/oslo").token("opaque"), 401),
        (gate.ask("POST", "/forecast/oslo").token(&reader), 403),
    ];
    for (ask, status) in asks {
        let answer = ask.header("Origin: https://agent.example").send().await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("*"));
        assert_eq!(answer.header("access-control-expose-headers").as_deref(), Some("WWW-Authenticate, X-Request-Id"));
        assert!(answer.header("access-control-allow-credentials").is_none());
    }
    let answer = gate.get("/forecast/oslo").token(&reader).header("Origin: https://agent.example").send().await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
}

/// MCP authorization, 2025-11-25 and 2026-07-28: `offline_access` is between client and issuer, and is not advertised.
#[tokio::test]
async fn offline_access_is_advertised_nowhere_even_if_a_route_names_it() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).routes("\n      /x: { all: [read:weather, offline_access] }").start().await;
    let document = gate.get(DOCUMENT).send().await.json();
    assert_eq!(document["scopes_supported"], json!(["read:weather"]));
    let challenge = gate.get("/x").send().await.header("www-authenticate").unwrap();
    assert!(challenge.contains("scope=\"read:weather\"") && !challenge.contains("offline"), "{challenge}");
    let challenge = gate.get("/x").token(&token(&issuer, "read:weather")).send().await.header("www-authenticate").unwrap();
    assert!(!challenge.contains("offline"), "{challenge}");
}

/// RFC 9470 §3: 401 with `insufficient_user_authentication`, `acr_values`, `max_age`, and the scopes with which the token goes on.
#[tokio::test]
async fn a_sign_in_that_is_too_old_or_too_weak_is_asked_for_again() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "
      GET /x: { scopes: read:weather, acr_values: [gold, silver], max_age: 5m }
      GET /y: { access: authenticated, max_age: 1h }
      GET /z: write:weather";
    let gate = gate(&issuer, &upstream).routes(routes).start().await;
    let now = wicketgate::clock::unix_now();
    let token = |scope: &str, claims: serde_json::Value| {
        issuer.token(TokenRequest {
            resource: RESOURCE.to_owned(),
            scope: Some(scope.to_owned()),
            claims: claims.as_object().unwrap().clone(),
            ..TokenRequest::default()
        })
    };
    let good = token("read:weather write:weather", json!({ "acr": "silver", "auth_time": now - 200 }));
    assert_eq!(gate.get("/x").token(&good).send().await.status, 200);
    for claims in [
        json!({}),
        json!({ "acr": "bronze", "auth_time": now }),
        json!({ "acr": "gold" }),
        json!({ "acr": "gold", "auth_time": now - 400 }),
    ] {
        let answer = gate.get("/x").token(&token("read:weather write:weather", claims.clone())).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "sign_in_insufficient"), "{claims}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer error=\"insufficient_user_authentication\", "), "{challenge}");
        assert!(challenge.ends_with("scope=\"read:weather write:weather\", acr_values=\"gold silver\", max_age=\"300\""), "{challenge}");
    }
    // Nobody is asked to sign in for what is refused anyway.
    assert_eq!(gate.get("/x").token(&token("write:weather", json!({}))).send().await.status, 403);
    let old = gate.get("/y").token(&token("", json!({ "auth_time": now - 7200 }))).send().await.header("www-authenticate").unwrap();
    assert!(old.contains("max_age=\"3600\"") && !old.contains("acr_values") && !old.contains("scope="), "{old}");
    assert_eq!(upstream.received().len(), 1);
}

/// Without registration the gate is no authorization server and does not look like one.
#[tokio::test]
async fn without_registration_there_is_no_metadata_of_an_authorization_server_and_no_registration() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/register"] {
        assert_eq!(gate.get(path).send().await.status, 404, "{path}");
    }
    assert_eq!(gate.get(DOCUMENT).send().await.json()["authorization_servers"], json!([issuer.url()]));
}
