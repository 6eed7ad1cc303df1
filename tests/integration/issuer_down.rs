//! An issuer that is down or talks nonsense: who has a good token gets in for as long as it can be told, and a good
//! token never looks invalid.

use futures_util::future::join_all;
use wicketgate::demo::issuer::{Fault, SigningAlgorithm};

use super::support::*;

const FAULTS: [Fault; 9] = [
    Fault::Html,
    Fault::Status(500),
    Fault::Redirect,
    Fault::SlowDrip,
    Fault::Endless,
    Fault::EmptyKeySet,
    Fault::WrongIssuer,
    Fault::Hang,
    Fault::Truncated,
];

const SHORT: &str = "keys: { refresh: 1s, cooldown: 100ms, timeout: 400ms }";

fn failures(issuer: &wicketgate::demo::Issuer) -> String {
    format!("wicketgate_key_set_fetch_failures_total{{issuer=\"{}\"}}", issuer.url())
}

async fn assert_unavailable(gate: &Gate, token: &str, what: &str) {
    let answer = gate.get("/forecast/oslo").token(token).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "keys_unavailable"), "{what}");
    assert!(answer.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()), "{what}");
    assert_eq!(answer.header("www-authenticate"), None, "{what}");
}

#[tokio::test]
async fn a_gate_that_starts_before_its_issuer_opens_by_itself_once_it_has_keys() {
    let (place, upstream) = (reserve(), Upstream::friendly().await);
    let issuer = issuer_at(place.address).await;
    issuer.stop().await;
    let gate = gate(&issuer, &upstream).settings(SHORT).start_unready().await;

    let ready = gate.admin("/readyz?verbose").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains(&format!("[-] keys {}: ", issuer.url())), "{}", ready.text());
    assert!(ready.text().contains("[+] listening: "), "{}", ready.text());
    assert_eq!(gate.admin("/livez").await.status, 200);
    assert_eq!(gate.get("/public/page").send().await.status, 200);
    assert_eq!(gate.get("/forecast/oslo").send().await.status, 401);
    assert_unavailable(&gate, &token(&issuer, "read:weather"), "down").await;

    let back = issuer_at(place.address).await;

    until("the gate is ready", || async { gate.admin("/readyz").await.status == 200 }).await;
    assert_eq!(gate.get("/forecast/oslo").token(&token(&back, "read:weather")).send().await.status, 200);
    // Only now can it be told that the keys of before are nobody's.
    let answer = gate.get("/forecast/oslo").token(&token(&issuer, "read:weather")).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "key_unknown"));
}

#[tokio::test]
async fn no_misbehaviour_after_a_good_start_keeps_a_known_token_out() {
    async fn with(fault: Fault) {
        let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
        let gate = gate(&issuer, &upstream).settings(SHORT).start().await;
        let (seen, unseen) = (token(&issuer, "read:weather"), token(&issuer, "read:weather"));
        assert_eq!(gate.get("/forecast/oslo").token(&seen).send().await.status, 200);

        issuer.misbehave(Some(fault));
        let counted = failures(&issuer);
        until("the failure is counted", || async { gate.metric(&counted).await >= Some(1.0) }).await;

        for token in [&seen, &unseen] {
            assert_eq!(gate.get("/forecast/oslo").token(token).send().await.status, 200, "{fault:?}");
        }
        assert_eq!(gate.admin("/readyz").await.status, 200, "{fault:?}");
        assert_eq!(gate.status().await["key_sets"][0]["reachable"], false, "{fault:?}");
        // While the issuer cannot be asked, a new key cannot be told from an invented one.
        issuer.rotate(SigningAlgorithm::Es384);
        assert_unavailable(&gate, &token(&issuer, "read:weather"), &format!("{fault:?}")).await;

        issuer.misbehave(None);
        until("the issuer is reached", || async { gate.status().await["key_sets"][0]["reachable"] == true }).await;
        assert_eq!(gate.get("/forecast/oslo").token(&token(&issuer, "read:weather")).send().await.status, 200, "{fault:?}");
    }
    join_all(FAULTS.map(with)).await;
}

#[tokio::test]
async fn no_misbehaviour_at_the_start_opens_a_protected_route() {
    async fn with(fault: Fault) {
        let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
        issuer.misbehave(Some(fault));
        let gate = gate(&issuer, &upstream).settings(SHORT).start_unready().await;
        let token = token(&issuer, "read:weather");

        assert_unavailable(&gate, &token, &format!("{fault:?}")).await;
        let counted = failures(&issuer);
        until("two failures are counted", || async { gate.metric(&counted).await >= Some(2.0) }).await;
        assert_unavailable(&gate, &token, &format!("{fault:?}")).await;
        assert_eq!(gate.admin("/readyz").await.status, 503, "{fault:?}");
        assert_eq!(gate.get("/public/page").send().await.status, 200, "{fault:?}");
        assert_eq!(upstream.received().len(), 1, "{fault:?}");

        issuer.misbehave(None);
        until("the gate is ready", || async { gate.admin("/readyz").await.status == 200 }).await;
        assert_eq!(gate.get("/forecast/oslo").token(&token).send().await.status, 200, "{fault:?}");
    }
    join_all(FAULTS.map(with)).await;
}

/// The metadata is left out here, so that the key set itself meets each fault.
#[tokio::test]
async fn a_key_set_at_a_named_place_is_read_with_the_same_care() {
    async fn with(fault: Fault) {
        let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
        let place = format!("{SHORT}\nissuer: {{ url: '{0}', jwks_uri: '{0}/jwks' }}", issuer.url());
        let gate = gate(&issuer, &upstream).settings(&place).start().await;
        issuer.misbehave(Some(fault));
        let counted = failures(&issuer);
        until("the failure is counted", || async { gate.metric(&counted).await >= Some(1.0) }).await;
        assert_eq!(gate.get("/forecast/oslo").token(&token(&issuer, "read:weather")).send().await.status, 200, "{fault:?}");
    }
    // That fault is the metadata's alone.
    join_all(FAULTS.into_iter().filter(|fault| *fault != Fault::WrongIssuer).map(with)).await;
}

#[tokio::test]
async fn keys_that_are_too_stale_count_no_more() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let settings = "keys: { refresh: 1s, max_stale: 1s, timeout: 200ms, cooldown: 100ms }";
    let gate = gate(&issuer, &upstream).settings(settings).start().await;
    let token = token(&issuer, "read:weather");
    assert_eq!(gate.get("/forecast/oslo").token(&token).send().await.status, 200);

    issuer.stop().await;

    until("the keys are too old", || async { gate.get("/forecast/oslo").token(&token).send().await.status != 200 }).await;
    assert_unavailable(&gate, &token, "stale").await;
    assert_eq!(gate.admin("/readyz").await.status, 503);
    assert_eq!(gate.metric(&format!("wicketgate_key_set_keys{{issuer=\"{}\"}}", issuer.url())).await, Some(0.0));
    assert_eq!(gate.get("/public/page").send().await.status, 200);
}
