//! What a refused caller reads, beside the status.

use serde_json::json;

use super::support::*;

#[tokio::test]
async fn a_grpc_caller_reads_every_refusal_as_a_status_without_a_message() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let reader = token(&issuer, "read:weather");
    let rows = [
        (gate.ask("POST", "/forecast/oslo"), "16", "An access token is needed"),
        (gate.ask("POST", "/forecast/oslo").token("opaque"), "16", "The access token is opaque"),
        (gate.ask("POST", "/forecast/oslo").token(&reader), "7", "The access token lacks a scope"),
        (gate.ask("POST", "/nowhere"), "12", "No such route"),
        (gate.ask("POST", "/public/../forecast/oslo"), "3", "The path can be read in two ways"),
    ];
    for (ask, status, message) in rows {
        let answer = ask.header("Content-Type: application/grpc+proto").header("Content-Length: 0").send().await;
        assert_eq!((answer.status, answer.header("grpc-status").as_deref(), answer.body.len()), (200, Some(status), 0), "{message}");
        assert_eq!(answer.header("content-type").as_deref(), Some("application/grpc"));
        assert!(answer.header("grpc-message").unwrap().starts_with(message), "{answer:?}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == "16" || status == "7", "{message}");
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn a_grpc_caller_is_told_to_come_back_when_there_are_no_keys_or_no_service() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (token, builder) = (token(&issuer, "write:weather"), gate(&issuer, &upstream));
    drop(upstream);
    issuer.stop().await;
    let gate = builder.start_unready().await;
    for (target, token) in [("/forecast/oslo", Some(&token)), ("/public/x", None)] {
        let mut ask = gate.ask("POST", target).header("Content-Type: application/grpc").header("Content-Length: 0");
        if let Some(token) = token {
            ask = ask.token(token);
        }
        let answer = ask.send().await;
        assert_eq!((answer.status, answer.header("grpc-status").as_deref()), (200, Some("14")), "{target}");
    }
}

#[tokio::test]
async fn a_403_names_the_scopes_that_the_route_requires_and_those_that_are_missing() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let routes = "
      GET /all: { all: [read:weather, admin:weather] }
      GET /any: { any: [write:weather, admin:weather] }";
    let gate = gate(&issuer, &upstream).routes(routes).start().await;
    let reader = token(&issuer, "read:weather");

    let all = gate.get("/all").token(&reader).send().await;
    assert_eq!(
        (&all.json()["required_scopes"], &all.json()["missing_scopes"]),
        (&json!(["read:weather", "admin:weather"]), &json!(["admin:weather"]))
    );
    assert!(all.header("www-authenticate").unwrap().contains("scope=\"read:weather admin:weather\""));

    let any = gate.get("/any").token(&reader).send().await;
    assert_eq!(any.json()["required_any_scope"], json!(["write:weather", "admin:weather"]));
    // The first of several that would do, and what is there already.
    assert!(any.header("www-authenticate").unwrap().contains("scope=\"write:weather read:weather\""));
}

#[tokio::test]
async fn a_request_that_comes_back_to_the_gate_goes_round_once() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let itself = reserve();
    let builder = gate(&issuer, &upstream).service(
        "loop",
        "https://api.weather.example/loop",
        &format!("http://{}", itself.address),
        "\n      /loop/**: public",
    );
    let builder = builder.in_service("    path: /loop").settings(&format!("listen: {}", itself.address));
    let gate = builder.start().await;

    let answer = gate.get("/loop/x").send().await;

    assert_eq!((answer.status, answer.code().as_str()), (508, "loop"));
    assert_eq!(gate.metric("wicketgate_refusals_total{reason=\"loop\",service=\"-\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_route_can_ask_for_a_claim_with_any_value() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate =
        gate(&issuer, &upstream).routes("\n      GET /stations: { scopes: read:weather, claims: { organization_id: '*' } }").start().await;
    let request = || wicketgate::demo::issuer::TokenRequest {
        resource: RESOURCE.to_owned(),
        scope: Some("read:weather".to_owned()),
        ..Default::default()
    };
    let of_an_organization =
        issuer.token(wicketgate::demo::issuer::TokenRequest { organization_id: Some("org_a".to_owned()), ..request() });

    let without = gate.get("/stations").token(&issuer.token(request())).send().await;
    let with = gate.get("/stations").token(&of_an_organization).send().await;

    assert_eq!((without.status, without.code().as_str(), with.status), (403, "claim_mismatch", 200));
    assert_eq!(upstream.only().one("x-auth-organization-id"), Some("org_a"));
}
