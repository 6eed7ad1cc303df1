//! What is revoked is refused with the next request, whoever said it: the operator, or Logto's webhook.

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::TokenRequest;

use super::support::*;

const KEY: &str = "12NJb8BVAwoQ12ywXYRwFEAAQg2Ux3i0";
const HOOK: &str = "/.well-known/wicketgate/logto-webhook";

fn logto(issuer: &Issuer) -> String {
    format!("logto: {{ endpoint: 'http://{}', app_id: gate, app_secret: s, webhook_signing_key: '{KEY}' }}", issuer.address())
}

fn token_of(issuer: &Issuer, subject: &str, client_id: &str, claims: Value) -> String {
    issuer.token(TokenRequest {
        subject: subject.to_owned(),
        client_id: client_id.to_owned(),
        scope: Some("read:weather".to_owned()),
        claims: claims.as_object().unwrap().clone(),
        ..TokenRequest::default()
    })
}

async fn ask(gate: &Gate, token: &str) -> (u16, String) {
    let answer = gate.get("/forecast/oslo").token(token).send().await;
    (answer.status, answer.code())
}

fn permitted() -> (u16, String) {
    (200, String::new())
}

fn revoked() -> (u16, String) {
    (401, "token_revoked".to_owned())
}

fn admin(gate: &Gate, method: &str, target: &str) -> Ask {
    Ask::new(gate.app.admin_address(), method, target)
}

async fn revoke(gate: &Gate, wish: &Value) -> Answer {
    admin(gate, "POST", "/revocations").header("Content-Type: application/json").body(&wish.to_string()).send().await
}

/// `createdAt`, so many seconds from now.
fn created_at(seconds: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(wicketgate::clock::unix_now() + seconds).unwrap();
    format!("{}T{:02}:{:02}:{:02}.000Z", at.date(), at.hour(), at.minute(), at.second())
}

fn event(name: &str, user: &str, seconds: i64, suspended: Option<bool>) -> String {
    json!({ "event": name, "createdAt": created_at(seconds), "data": { "id": user, "isSuspended": suspended }, "hookId": "h" }).to_string()
}

fn signature(body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
    hmac::sign(&key, body.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn deliver(gate: &Gate, body: &str) -> Answer {
    gate.ask("POST", HOOK).header(&format!("logto-signature-sha-256: {}", signature(body))).body(body).send().await
}

const SUSPENSION: &str = "User.SuspensionStatus.Updated";

#[tokio::test]
async fn the_operator_revokes_by_user_app_grant_or_token_and_lifts_it_again() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let token = token_of(&issuer, "alice", "weatherbot", json!({ "jti": "t1" }));
    let others = [token_of(&issuer, "bob", "weatherbot", json!({})), token_of(&issuer, "alice", "official", json!({}))];
    assert_eq!(ask(&gate, &token).await, permitted());

    for (wish, others_pass) in [
        (json!({ "sub": "alice" }), [true, false]),
        (json!({ "client_id": "weatherbot" }), [false, true]),
        (json!({ "sub": "alice", "client_id": "weatherbot" }), [true, true]),
        (json!({ "jti": "t1" }), [true, true]),
    ] {
        let answer = revoke(&gate, &wish).await;
        assert_eq!(answer.status, 201, "{wish}: {}", answer.text());
        // A token that was verified before is remembered, and refused all the same.
        let refusal = gate.get("/forecast/oslo").token(&token).send().await;
        assert_eq!((refusal.status, refusal.code()), revoked(), "{wish}");
        assert!(refusal.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
        for (other, passes) in others.iter().zip(others_pass) {
            assert_eq!(ask(&gate, other).await == permitted(), passes, "{wish}");
        }
        assert_eq!(gate.metric("wicketgate_revocations").await, Some(1.0));
        let list = gate.admin("/revocations").await.json();
        assert_eq!((list["total"].as_u64(), &list["revocations"][0]["id"]), (Some(1), &answer.json()["id"]));
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(admin(&gate, "DELETE", &format!("/revocations/{id}")).send().await.status, 200);
        assert_eq!(admin(&gate, "DELETE", &format!("/revocations/{id}")).send().await.status, 404);
        assert_eq!(ask(&gate, &token).await, permitted());
    }
}

#[tokio::test]
async fn a_token_that_is_issued_later_passes_unless_the_operator_says_otherwise() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let now = wicketgate::clock::unix_now();
    let later = token_of(&issuer, "alice", "weatherbot", json!({ "iat": now + 5 }));

    revoke(&gate, &json!({ "sub": "alice", "issued_before": now + 4, "expires_in": 60 })).await;
    assert_eq!(ask(&gate, &later).await, permitted());
    assert_eq!(ask(&gate, &token_of(&issuer, "alice", "weatherbot", json!({ "iat": now + 4 }))).await, revoked());
    revoke(&gate, &json!({ "sub": "alice", "later_too": true })).await;
    assert_eq!(ask(&gate, &later).await, revoked());
}

#[tokio::test]
async fn the_admin_listener_takes_no_revocation_that_it_cannot_read_and_none_of_a_browsers() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("revocations: { token_life: 1h }").start().await;
    let post = || admin(&gate, "POST", "/revocations");
    let json = || post().header("Content-Type: application/json");

    for wrong in [
        json!({}),
        json!([]),
        json!({ "sub": "" }),
        json!({ "sub": 5 }),
        json!({ "subject": "alice" }),
        json!({ "jti": "t", "sub": "alice" }),
        json!({ "sub": "x".repeat(2049) }),
        json!({ "sub": "alice", "expires_in": 0 }),
        json!({ "sub": "alice", "expires_in": 3601 }),
        json!({ "sub": "alice", "issued_before": -1 }),
        json!({ "sub": "alice", "issued_before": wicketgate::clock::unix_now() + 1000 }),
    ] {
        assert_eq!(revoke(&gate, &wrong).await.status, 400, "{wrong}");
    }
    assert_eq!(json().body("{").send().await.status, 400);
    assert_eq!(json().body(&json!({ "sub": "x".repeat(20_000) }).to_string()).send().await.status, 413);
    let chunked = json().header("Transfer-Encoding: chunked").bytes("");
    let mut connection = Connection::open(gate.app.admin_address()).await;
    connection.write(&[chunked, format!("5000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x5000)).into_bytes()].concat()).await;
    assert_eq!(connection.answer("POST").await.status, 413);
    // What a page of any site may send without asking.
    let wish = json!({ "sub": "alice" }).to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        assert_eq!(post().header(&format!("Content-Type: {content_type}")).body(&wish).send().await.status, 415);
    }
    assert_eq!(post().body(&wish).send().await.status, 415);
    assert_eq!(json().header("Origin: http://evil.example").body(&wish).send().await.status, 403);
    assert_eq!(json().host(Some("evil.example")).body(&wish).send().await.status, 421);
    assert_eq!(admin(&gate, "DELETE", "/revocations/x").header("Origin: null").send().await.status, 403);
    assert_eq!(admin(&gate, "OPTIONS", "/revocations").send().await.status, 405);
    assert_eq!(admin(&gate, "DELETE", "/revocations").send().await.status, 405);
    assert_eq!(admin(&gate, "POST", "/status").send().await.status, 405);

    assert_eq!(gate.admin("/revocations").await.json()["total"], 0);
}

#[tokio::test]
async fn when_there_is_no_room_the_operator_and_logto_are_told_so_and_nothing_is_forgotten() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(&logto(&issuer)).settings("revocations: { entries: 2 }").start().await;
    for user in ["alice", "bob"] {
        assert_eq!(revoke(&gate, &json!({ "sub": user })).await.status, 201);
    }

    let answer = revoke(&gate, &json!({ "sub": "carol" })).await;
    assert_eq!(answer.status, 507, "{}", answer.text());
    let hook = event(SUSPENSION, "carol", 0, Some(true));
    let answer = deliver(&gate, &hook).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "webhook_not_taken"));
    assert_eq!(gate.metric("wicketgate_revocations_refused_total").await, Some(2.0));
    assert_eq!(ask(&gate, &token_of(&issuer, "alice", "weatherbot", json!({}))).await, revoked());
    assert_eq!(ask(&gate, &token_of(&issuer, "carol", "weatherbot", json!({}))).await, permitted());

    // Logto tries again, and then there is room.
    let id = gate.admin("/revocations").await.json()["revocations"][0]["id"].as_str().unwrap().to_owned();
    admin(&gate, "DELETE", &format!("/revocations/{id}")).send().await;
    assert_eq!(deliver(&gate, &hook).await.status, 204);
    assert_eq!(ask(&gate, &token_of(&issuer, "carol", "weatherbot", json!({}))).await, revoked());
}

#[tokio::test]
async fn a_suspended_user_is_refused_with_the_next_request_and_let_in_again_by_the_next_word() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(&logto(&issuer)).start().await;
    let [alice, bob] = ["alice", "bob"].map(|user| token_of(&issuer, user, "weatherbot", json!({})));
    assert_eq!(ask(&gate, &alice).await, permitted());

    let suspended = event(SUSPENSION, "alice", -2, Some(true));
    let begun = std::time::Instant::now();
    assert_eq!(deliver(&gate, &suspended).await.status, 204);
    assert_eq!(ask(&gate, &alice).await, revoked());
    eprintln!("from the webhook to the refusal of the next request: {:?}", begun.elapsed());
    assert_eq!(ask(&gate, &bob).await, permitted());
    // A token that was on its way.
    assert_eq!(ask(&gate, &token_of(&issuer, "alice", "other", json!({ "iat": wicketgate::clock::unix_now() + 5 }))).await, revoked());

    assert_eq!(deliver(&gate, &event(SUSPENSION, "alice", -1, Some(false))).await.status, 204);
    assert_eq!(ask(&gate, &alice).await, permitted());
    // The same word once more, and one from before, change nothing.
    assert_eq!(deliver(&gate, &suspended).await.status, 204);
    assert_eq!(deliver(&gate, &event(SUSPENSION, "alice", -3, Some(true))).await.status, 204);
    assert_eq!(ask(&gate, &alice).await, permitted());
    // The end of a suspension that comes late does not end the next one.
    assert_eq!(deliver(&gate, &event(SUSPENSION, "alice", 2, Some(true))).await.status, 204);
    assert_eq!(deliver(&gate, &event(SUSPENSION, "alice", 1, Some(false))).await.status, 204);
    assert_eq!(ask(&gate, &alice).await, revoked());
    assert_eq!(gate.metric("wicketgate_webhooks_total{event=\"suspended\",result=\"replayed\"}").await, Some(1.0));

    // What the operator said is not lifted by Logto.
    revoke(&gate, &json!({ "sub": "bob" })).await;
    deliver(&gate, &event(SUSPENSION, "bob", 0, Some(false))).await;
    assert_eq!(ask(&gate, &bob).await, revoked());
}

#[tokio::test]
async fn a_deleted_users_tokens_end_and_other_events_are_taken_and_left_alone() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(&logto(&issuer)).start().await;
    let alice = token_of(&issuer, "alice", "weatherbot", json!({}));
    for name in ["User.Created", "User.Data.Updated", "PostSignIn", "Some.Event.To.Come"] {
        assert_eq!(deliver(&gate, &event(name, "alice", 0, None)).await.status, 204, "{name}");
    }
    assert_eq!(ask(&gate, &alice).await, permitted());

    assert_eq!(deliver(&gate, &event("User.Deleted", "alice", 0, None)).await.status, 204);
    assert_eq!(ask(&gate, &alice).await, revoked());
    assert!(upstream.received().iter().all(|request| !request.line.contains("webhook")));
}

#[tokio::test]
async fn a_webhook_that_is_not_logtos_or_not_of_now_changes_nothing() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(&logto(&issuer)).start().await;
    let good = event("User.Deleted", "alice", 0, None);
    let signed =
        |signature: &str, body: &str| gate.ask("POST", HOOK).header(&format!("logto-signature-sha-256: {signature}")).body(body).send();
    let outcome = |answer: Answer| (answer.status, answer.code());

    assert_eq!(outcome(gate.ask("POST", HOOK).body(&good).send().await), (401, "webhook_unsigned".to_owned()));
    assert_eq!(outcome(signed(&signature("x"), &good).await), (401, "webhook_unsigned".to_owned()));
    let header = format!("logto-signature-sha-256: {}", signature(&good));
    assert_eq!(gate.ask("POST", HOOK).header(&header).header(&header).body(&good).send().await.status, 401);
    for seconds in [-302, 302] {
        let stale = event("User.Deleted", "alice", seconds, None);
        assert_eq!(outcome(deliver(&gate, &stale).await), (400, "webhook_stale".to_owned()));
    }
    assert_eq!(outcome(deliver(&gate, "{}").await), (400, "webhook_malformed".to_owned()));
    let large = event("User.Deleted", &"x".repeat(70_000), 0, None);
    assert_eq!(outcome(deliver(&gate, &large).await), (413, "body_too_large".to_owned()));
    for method in ["GET", "PUT", "OPTIONS"] {
        assert_eq!(gate.ask(method, HOOK).send().await.status, 405, "{method}");
    }
    assert_eq!(gate.ask("POST", &format!("{HOOK}/x")).send().await.status, 404);
    assert_eq!(ask(&gate, &token_of(&issuer, "alice", "weatherbot", json!({}))).await, permitted());
    assert_eq!(gate.metric("wicketgate_webhooks_total{event=\"-\",result=\"unsigned\"}").await, Some(3.0));
}

#[tokio::test]
async fn without_a_signing_key_there_is_no_webhook_and_a_reload_brings_it_and_keeps_what_is_revoked() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().start().await;
    let alice = token_of(&issuer, "alice", "weatherbot", json!({}));
    let deleted = event("User.Deleted", "bob", 0, None);
    assert_eq!(deliver(&gate, &deleted).await.status, 404);
    revoke(&gate, &json!({ "sub": "alice" })).await;

    gate.rewrite(&builder.settings(&logto(&issuer)).yaml()).await;

    assert_eq!(ask(&gate, &alice).await, revoked());
    assert_eq!(deliver(&gate, &deleted).await.status, 204);
    assert_eq!(ask(&gate, &token_of(&issuer, "bob", "weatherbot", json!({}))).await, revoked());
}

#[tokio::test]
async fn the_audit_trail_tells_whose_tokens_were_ended_and_by_whom() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let settings = format!("{}\naudit: {{ records: refusals, to: {{ file: '{}' }} }}", logto(&issuer), path.display());
    let gate = gate(&issuer, &upstream).settings(&settings).start().await;

    let id = revoke(&gate, &json!({ "sub": "alice", "client_id": "weatherbot" })).await.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(admin(&gate, "DELETE", &format!("/revocations/{id}")).send().await.status, 200);
    let body = event("User.SuspensionStatus.Updated", "bob", 0, Some(true));
    let told =
        gate.ask("POST", HOOK).header("Content-Type: application/json").header(&format!("logto-signature-sha-256: {}", signature(&body)));
    assert_eq!(told.body(&body).send().await.status, 204);

    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    until("all are recorded", || async { read().matches(r#""audit":"revocation""#).count() == 3 }).await;
    let records = read()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["audit"] == "revocation")
        .collect::<Vec<_>>();
    let told: Vec<_> =
        records.iter().map(|record| [&record["change"], &record["by"], &record["user"]["sub"], &record["agent"]["client_id"]]).collect();
    assert_eq!(told[0], ["revoked", "operator", "alice", "weatherbot"].map(Value::from).each_ref());
    assert_eq!(told[1], ["lifted", "operator", "alice", "weatherbot"].map(Value::from).each_ref());
    assert_eq!(told[2], [&json!("suspended"), &json!("webhook"), &json!("bob"), &Value::Null]);
}

#[tokio::test]
async fn a_webhook_that_was_taken_is_no_refusal_in_the_audit_trail() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let audit = format!("audit: {{ records: refusals, to: {{ file: '{}' }} }}", path.display());
    let gate = gate(&issuer, &upstream).settings(&logto(&issuer)).settings(&audit).start().await;
    assert_eq!(deliver(&gate, &event(SUSPENSION, "alice", 0, Some(true))).await.status, 204);
    assert_eq!(gate.ask("POST", HOOK).body("{}").send().await.status, 401);
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    until("the refusal is recorded", || async { read().contains("webhook_unsigned") }).await;
    assert_eq!(read().matches(r#""audit":"access""#).count(), 1, "{}", read());
}
