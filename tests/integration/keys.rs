//! Which keys count, and how seldom the issuer is asked for them.

use futures_util::future::join_all;
use serde_json::json;
use wicketgate::demo::issuer::SigningAlgorithm;

use super::support::*;

/// Nothing but an unknown key causes a fetch, and that once.
const ONE_FORCED_FETCH: &str = "keys: { refresh: 5m, cooldown: 60s }";

/// A good access token in all but its key's id.
fn invented(issuer: &wicketgate::demo::Issuer, kid: &str) -> String {
    let now = wicketgate::clock::unix_now();
    let claims = json!({ "iss": issuer.url(), "aud": RESOURCE, "sub": "mallory", "exp": now + 600, "iat": now, "scope": "read:weather" });
    issuer.sign(json!({ "alg": "ES384", "typ": "at+jwt", "kid": kid }), claims)
}

/// The key set as it is published now.
async fn published(issuer: &wicketgate::demo::Issuer) -> String {
    Ask::new(issuer.address(), "GET", "/oidc/jwks").send().await.text()
}

#[tokio::test]
async fn a_new_key_is_fetched_at_once_by_the_first_token_that_it_signed() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(ONE_FORCED_FETCH).start().await;
    let before = issuer.counts();

    issuer.rotate(SigningAlgorithm::Es384);
    let answer = gate.get("/forecast/oslo").token(&token(&issuer, "read:weather")).send().await;

    assert_eq!(answer.status, 200);
    let after = issuer.counts();
    assert_eq!((after.key_set, after.discovery), (before.key_set + 1, before.discovery));
}

#[tokio::test]
async fn requests_that_wait_for_a_new_key_share_one_fetch() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(ONE_FORCED_FETCH).start().await;
    let before = issuer.counts().key_set;

    issuer.rotate(SigningAlgorithm::Es384);
    let tokens: Vec<String> = (0..100).map(|_| token(&issuer, "read:weather")).collect();
    let answers = join_all(tokens.iter().map(|token| gate.get("/forecast/oslo").token(token).send())).await;

    assert!(answers.iter().all(|answer| answer.status == 200), "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    assert_eq!(issuer.counts().key_set, before + 1);
}

#[tokio::test]
async fn a_flood_of_invented_key_ids_causes_one_fetch_and_keeps_nobody_out() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(ONE_FORCED_FETCH).start().await;
    let before = issuer.counts();
    let good = token(&issuer, "read:weather");

    let forged: Vec<String> = (0..200).map(|i| invented(&issuer, &format!("invented-{i}"))).collect();
    let flood = join_all(forged.iter().map(|token| gate.get("/forecast/oslo").token(token).send()));
    let known = async {
        let mut statuses = Vec::new();
        for _ in 0..20 {
            statuses.push(gate.get("/forecast/oslo").token(&good).send().await.status);
        }
        statuses
    };
    let (refused, passed) = tokio::join!(flood, known);

    // A key that could be asked for is unknown; one that could not is not called bad.
    for answer in &refused {
        match answer.code().as_str() {
            "key_unknown" => assert_eq!(answer.status, 401),
            "keys_unavailable" => assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true)),
            other => panic!("{other}"),
        }
    }
    assert_eq!(passed, [200; 20]);
    let after = issuer.counts();
    assert_eq!((after.key_set, after.discovery), (before.key_set + 1, before.discovery));
}

#[tokio::test]
async fn an_invented_key_id_just_before_a_rotation_makes_no_good_token_look_bad() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("keys: { cooldown: 1s }").start().await;
    let before = issuer.counts().key_set;

    let invented = gate.get("/forecast/oslo").token(&invented(&issuer, "invented")).send().await;
    issuer.rotate(SigningAlgorithm::Es384);
    let good = gate.get("/forecast/oslo").token(&token(&issuer, "read:weather")).send().await;

    assert_eq!((invented.status, good.status), (401, 200));
    assert_eq!(issuer.counts().key_set, before + 2);
}

#[tokio::test]
async fn a_key_that_left_the_set_stops_counting_for_a_remembered_token_too() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("keys: { refresh: 1s, cooldown: 60s }").start().await;
    let old = token(&issuer, "read:weather");
    for _ in 0..2 {
        assert_eq!(gate.get("/forecast/oslo").token(&old).send().await.status, 200);
    }
    assert_eq!(gate.metric("wicketgate_token_checks_total{cache=\"hit\"}").await, Some(1.0));

    // The set holds the current key and the last one.
    issuer.rotate(SigningAlgorithm::Es384);
    issuer.rotate(SigningAlgorithm::Es384);

    until("the old key is gone", || async { gate.get("/forecast/oslo").token(&old).send().await.status != 200 }).await;
    let answer = gate.get("/forecast/oslo").token(&old).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "key_unknown"));
    let new = gate.get("/forecast/oslo").token(&token(&issuer, "read:weather")).send().await;
    assert_eq!(new.status, 200);
}

/// RFC 9110 §13.1.2.
#[tokio::test]
async fn an_unchanged_key_set_is_revalidated_by_its_etag() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let set = published(&issuer).await;
    let keys = Upstream::answering_each(move |asked| match asked.one("if-none-match") {
        Some("\"v1\"") => b"HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n".to_vec(),
        _ => format!("HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: {}\r\n\r\n{set}", set.len()).into_bytes(),
    })
    .await;
    let place = format!("issuer: {{ url: '{}', jwks_uri: '{}/jwks' }}\nkeys: {{ refresh: 1s }}", issuer.url(), keys.url());
    let gate = gate(&issuer, &upstream).settings(&place).start().await;

    until("the set was asked for three times", || async { keys.received().len() > 2 }).await;

    let tags: Vec<Option<String>> = keys.received().iter().map(|asked| asked.one("if-none-match").map(str::to_owned)).collect();
    assert_eq!(tags[..3], [None, Some("\"v1\"".to_owned()), Some("\"v1\"".to_owned())]);
    assert_eq!(gate.get("/forecast/oslo").token(&token(&issuer, "read:weather")).send().await.status, 200);
    assert_eq!(gate.status().await["key_sets"][0]["fetch_failures"], 0);
    assert_eq!(issuer.counts().discovery, 0);
}

#[tokio::test]
async fn keys_survive_a_reload_without_a_fetch() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream).settings(ONE_FORCED_FETCH);
    let after = before.clone().routes("\n      GET /forecast/{city}: write:weather");
    let mut gate = before.start().await;
    let counts = issuer.counts();
    issuer.stop().await;

    gate.rewrite(&after.yaml()).await;

    assert_eq!(gate.get("/forecast/oslo").token(&token(&issuer, "read:weather")).send().await.status, 403);
    assert_eq!(gate.get("/forecast/oslo").token(&token(&issuer, "write:weather")).send().await.status, 200);
    assert_eq!(issuer.counts(), counts);
}

#[tokio::test]
async fn keys_survive_a_reload_that_changes_how_they_are_fetched() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let before = gate(&issuer, &upstream);
    let mut gate = before.clone().start().await;
    let token = token(&issuer, "read:weather");
    issuer.stop().await;

    for settings in ["keys: { timeout: 300ms }", "limits: { key_count: 8 }", "limits: { key_set_bytes: 64KiB }", "keys: { refresh: 2s }"] {
        gate.rewrite(&before.clone().settings(settings).yaml()).await;
        assert_eq!(gate.status().await["last_reload"]["successful"], true, "{settings}");
        assert_eq!(gate.get("/forecast/oslo").token(&token).send().await.status, 200, "{settings}");
        assert_eq!(gate.admin("/readyz").await.status, 200, "{settings}");
    }
}

#[tokio::test]
async fn a_key_set_in_a_file_needs_no_network_and_its_change_is_taken() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (old_set, old_token) = (published(&issuer).await, token(&issuer, "read:weather"));
    issuer.rotate(SigningAlgorithm::Es384);
    issuer.forget_previous();
    let (new_set, new_token) = (published(&issuer).await, token(&issuer, "read:weather"));
    issuer.stop().await;
    let place = format!("issuer: {{ url: '{}', jwks_file: keys.json }}", issuer.url());
    let mut gate = gate(&issuer, &upstream).settings(&place).file("keys.json", &old_set).start().await;
    let file = gate.path.with_file_name("keys.json");
    let ask = async |gate: &Gate, token: &str| gate.get("/forecast/oslo").token(token).send().await.status;
    assert_eq!((ask(&gate, &old_token).await, ask(&gate, &new_token).await), (200, 401));

    std::fs::write(&file, &new_set[..new_set.len() / 2]).unwrap();
    gate.app.reload_if_changed().await;
    assert_eq!(gate.metric("wicketgate_config_last_reload_successful").await, Some(0.0));
    assert_eq!((ask(&gate, &old_token).await, ask(&gate, &new_token).await), (200, 401));

    std::fs::write(&file, &new_set).unwrap();
    gate.app.reload_if_changed().await;
    assert_eq!(gate.metric("wicketgate_config_last_reload_successful").await, Some(1.0));
    assert_eq!((ask(&gate, &old_token).await, ask(&gate, &new_token).await), (401, 200));
}

#[tokio::test]
async fn every_algorithm_of_logto_is_accepted_unless_the_operator_names_some() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    for algorithm in SigningAlgorithm::ALL {
        issuer.rotate(algorithm);
        let only = format!("issuer: {{ url: '{}', algorithms: [ES384] }}", issuer.url());
        let (all, some) = (gate(&issuer, &upstream).start().await, gate(&issuer, &upstream).settings(&only).start().await);
        let token = token(&issuer, "read:weather");

        assert_eq!(all.get("/forecast/oslo").token(&token).send().await.status, 200, "{}", algorithm.name());
        let answer = some.get("/forecast/oslo").token(&token).send().await;
        match algorithm {
            SigningAlgorithm::Es384 => assert_eq!(answer.status, 200),
            _ => assert_eq!((answer.status, answer.code().as_str()), (401, "algorithm_refused"), "{}", algorithm.name()),
        }
    }
}
