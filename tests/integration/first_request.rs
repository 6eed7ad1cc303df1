//! The main job, from no token to a verified identity.

use super::support::*;

#[tokio::test]
async fn a_request_without_a_token_learns_where_to_get_one() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate.get("/forecast/oslo").send().await;

    assert_eq!((answer.status, answer.code().as_str()), (401, "token_missing"));
    let challenge = "Bearer resource_metadata=\"https://api.weather.example/.well-known/oauth-protected-resource\", scope=\"read:weather\"";
    assert_eq!(answer.header("www-authenticate").as_deref(), Some(challenge));
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn a_request_with_the_scope_arrives_with_a_verified_identity() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate.get("/forecast/oslo?units=c").token(&token(&issuer, "read:weather")).send().await;

    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let received = upstream.only();
    assert_eq!(received.line, "GET /forecast/oslo?units=c HTTP/1.1");
    assert_eq!(received.one("x-auth-subject"), Some("alice"));
    assert_eq!(received.one("x-auth-client-id"), Some("weatherbot"));
    assert_eq!(received.one("x-auth-scopes"), Some("read:weather"));
    assert_eq!(received.one("x-auth-issuer"), Some(issuer.url()));
    assert_eq!(received.one("authorization"), None);
}

#[tokio::test]
async fn a_token_without_the_scope_is_refused_with_all_that_the_route_needs_and_the_token_has() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate.ask("POST", "/forecast/oslo").token(&token(&issuer, "read:weather openid")).body("{}").send().await;

    assert_eq!((answer.status, answer.code().as_str()), (403, "scope_missing"));
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(
        challenge.contains("error=\"insufficient_scope\"") && challenge.contains("scope=\"write:weather read:weather\""),
        "{challenge}"
    );
    assert_eq!(answer.json()["missing_scopes"], serde_json::json!(["write:weather"]));
    assert!(upstream.received().is_empty());
}
