//! What is remembered of a token, and which tokens are none.

use serde_json::{Value, json};
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::TokenRequest;

use super::support::*;

const HITS: &str = "wicketgate_token_checks_total{cache=\"hit\"}";
const MISSES: &str = "wicketgate_token_checks_total{cache=\"miss\"}";

async fn status(gate: &Gate, target: &str, token: &str) -> u16 {
    gate.get(target).token(token).send().await.status
}

async fn refused(gate: &Gate, token: &str) -> (u16, String) {
    let answer = gate.get("/forecast/oslo").token(token).send().await;
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert!(answer.status != 401 || challenge.contains("error=\"invalid_token\""), "{challenge}");
    (answer.status, answer.code())
}

/// Claims as of an access token, with the current key, under a header of the test's own.
fn signed(issuer: &Issuer, header: Value) -> String {
    let now = wicketgate::clock::unix_now();
    let claims = json!({ "iss": issuer.url(), "aud": RESOURCE, "sub": "alice", "exp": now + 600, "iat": now, "scope": "read:weather" });
    let mut whole = json!({ "alg": "ES384", "kid": issuer.kid() });
    for (name, value) in header.as_object().unwrap() {
        whole[name] = value.clone();
    }
    issuer.sign(whole, claims)
}

#[tokio::test]
async fn the_signature_of_one_token_is_checked_once() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let (one, other) = (token(&issuer, "read:weather"), token(&issuer, "read:weather"));

    for token in [&one, &one, &one, &other] {
        assert_eq!(status(&gate, "/forecast/oslo", token).await, 200);
    }

    assert_eq!((gate.metric(MISSES).await, gate.metric(HITS).await), (Some(2.0), Some(2.0)));
    assert_eq!(gate.metric("wicketgate_remembered_tokens").await, Some(2.0));
}

#[tokio::test]
async fn a_gate_that_is_to_remember_nothing_does_so() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("tokens: { remembered: 0 }").start().await;
    let token = token(&issuer, "read:weather");

    for _ in 0..2 {
        assert_eq!(status(&gate, "/forecast/oslo", &token).await, 200);
    }

    assert_eq!((gate.metric(MISSES).await, gate.metric(HITS).await), (Some(2.0), None));
}

#[tokio::test]
async fn a_remembered_token_is_refused_once_it_has_expired() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("tokens: { leeway: 1s }").start().await;
    let request = TokenRequest { scope: Some("read:weather".to_owned()), expires_in: 1, ..TokenRequest::default() };
    let token = issuer.token(request);
    assert_eq!((status(&gate, "/me", &token).await, status(&gate, "/me", &token).await), (200, 200));

    until("the token has expired", || async { status(&gate, "/me", &token).await != 200 }).await;

    assert!(gate.metric(HITS).await >= Some(1.0));
    assert_eq!(refused(&gate, &token).await, (401, "expired".to_owned()));
    assert_eq!(gate.metric("wicketgate_remembered_tokens").await, Some(0.0));
}

#[tokio::test]
async fn a_remembered_token_is_refused_once_its_issuers_settings_refuse_it() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;
    let token = token(&issuer, "read:weather");
    let cases = [("algorithms: [RS256]", "algorithm_refused"), ("token_types: [JWT]", "type_wrong")];
    for (setting, code) in cases {
        assert_eq!((status(&gate, "/me", &token).await, status(&gate, "/me", &token).await), (200, 200));

        gate.rewrite(&before.clone().settings(&format!("issuer: {{ url: '{}', {setting} }}", issuer.url())).yaml()).await;
        assert_eq!(refused(&gate, &token).await, (401, code.to_owned()));

        gate.rewrite(&before.yaml()).await;
    }
    // The leeway is no setting of an issuer's, and the dates are compared anew each time.
    let late = issuer.token(TokenRequest { expires_in: -5, ..TokenRequest::default() });
    assert_eq!((status(&gate, "/me", &late).await, status(&gate, "/me", &late).await), (200, 200));
    gate.rewrite(&before.settings("tokens: { leeway: 1s }").yaml()).await;
    assert_eq!(refused(&gate, &late).await, (401, "expired".to_owned()));
}

#[tokio::test]
async fn what_a_remembered_token_may_do_is_asked_anew_for_each_route() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let other = "https://api.weather.example/other";
    let gate = gate(&issuer, &upstream)
        .in_service("    path: /")
        .service("other", other, &upstream.url(), "\n      GET /other/me: authenticated")
        .in_service("    path: /other")
        .start()
        .await;
    let token = token(&issuer, "read:weather");
    for _ in 0..3 {
        assert_eq!(status(&gate, "/forecast/oslo", &token).await, 200);
        let denied = gate.ask("POST", "/forecast/oslo").token(&token).body("{}").send().await;
        assert_eq!((denied.status, denied.code().as_str()), (403, "scope_missing"));
        let denied = gate.get("/orgs/acme/stations").token(&token).send().await;
        assert_eq!((denied.status, denied.code().as_str()), (403, "claim_mismatch"));
        // A token that one service remembers is none for another.
        let denied = gate.get("/other/me").token(&token).send().await;
        assert_eq!((denied.status, denied.code().as_str()), (401, "audience_wrong"));
    }
    assert_eq!(gate.metric(MISSES).await, Some(1.0));
}

#[tokio::test]
async fn a_twin_of_a_remembered_token_is_refused() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let good = token(&issuer, "read:weather");
    let richer = token(&issuer, "read:weather write:weather");
    assert_eq!(status(&gate, "/forecast/oslo", &good).await, 200);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (_, others) = richer.rsplit_once('.').unwrap();
    let header = signed.split('.').next().unwrap();
    let payload = richer.split('.').nth(1).unwrap();
    let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
    let twins = [
        ("the claims and kid of the good one, another signature", format!("{signed}.{others}")),
        ("one bit of the signature", format!("{signed}.{flipped}{}", &signature[1..])),
        ("richer claims under the good signature", format!("{header}.{payload}.{signature}")),
    ];
    for (what, twin) in twins {
        assert_eq!(refused(&gate, &twin).await, (401, "signature_wrong".to_owned()), "{what}");
        assert_eq!(status(&gate, "/forecast/oslo", &good).await, 200, "{what}");
    }
    assert_eq!(upstream.received().len(), 4);
}

/// RFC 9068 §4: `typ` MUST be that of an access token.
#[tokio::test]
async fn an_id_token_is_no_access_token() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let strict = gate(&issuer, &upstream).start().await;
    let lenient = format!("issuer: {{ url: '{}', token_types: [JWT, none] }}", issuer.url());
    let lenient = gate(&issuer, &upstream).settings(&lenient).start().await;
    let table = [
        (json!({}), 401, 200),
        (json!({ "typ": "JWT" }), 401, 200),
        (json!({ "typ": "at+jwt" }), 200, 401),
        (json!({ "typ": "application/at+JWT" }), 200, 401),
        (json!({ "typ": "logout+jwt" }), 401, 401),
        (json!({ "typ": "" }), 401, 401),
    ];
    for (header, by_strict, by_lenient) in table {
        let token = signed(&issuer, header.clone());
        for (gate, expected) in [(&strict, by_strict), (&lenient, by_lenient)] {
            match expected {
                200 => assert_eq!(status(gate, "/forecast/oslo", &token).await, 200, "{header}"),
                _ => assert_eq!(refused(gate, &token).await, (401, "type_wrong".to_owned()), "{header}"),
            }
        }
    }
}

#[tokio::test]
async fn who_sends_an_opaque_token_learns_what_to_ask_the_issuer_for() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let form = "grant_type=client_credentials&client_id=agent&client_secret=secret";
    let granted = Ask::new(issuer.address(), "POST", "/oidc/token").header("Content-Type: application/x-www-form-urlencoded");
    let granted = granted.body(form).send().await.json();

    let answer = gate.get("/forecast/oslo").token(granted["access_token"].as_str().unwrap()).send().await;

    assert_eq!((answer.status, answer.code().as_str()), (401, "token_opaque"));
    let challenge = answer.header("www-authenticate").unwrap();
    let description = challenge.split("error_description=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(challenge.contains("error=\"invalid_token\"") && description.contains("resource"), "{challenge}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("resource"));
}

/// RFC 6750 §2 and OAuth 2.1 §5.1: one token, in the header.
#[tokio::test]
async fn a_token_in_the_query_is_none_and_two_are_one_too_many() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let token = token(&issuer, "read:weather");
    let in_query = format!("/forecast/oslo?units=c&access_token={token}");

    let answer = gate.get(&in_query).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "token_missing"));
    assert!(!answer.header("www-authenticate").unwrap().contains("error="));

    let twice = [
        gate.get(&in_query).token(&token),
        gate.get("/forecast/oslo").token(&token).token(&token),
        gate.get("/forecast/oslo").header("Authorization: Basic eDp5").token(&token),
    ];
    for ask in twice {
        let answer = ask.send().await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "token_repeated"));
        assert!(answer.header("www-authenticate").unwrap().contains("error=\"invalid_request\""));
        assert!(!answer.text().contains(&token));
    }
    assert!(upstream.received().is_empty());
}
