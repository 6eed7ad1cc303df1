//! Opaque tokens: the issuer is asked about them, seldom, and a good one never looks bad.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use wicketgate::demo::Issuer;

use super::support::*;

const TOKEN: &str = "BtznzKXCn4ufy4stb7GmR809hwN6yC6wddF_bQMtBcy";
const SECRET: &str = "s:cr&t";
const COUNTED: &str = "wicketgate_introspections_total";

/// An introspection endpoint whose answers the test can change.
#[derive(Clone, Default)]
struct Words(Arc<std::sync::Mutex<Vec<u8>>>);

impl Words {
    fn say(&self, answer: &Value) {
        *self.0.lock().unwrap() = http(200, &answer.to_string());
    }

    fn say_bytes(&self, bytes: Vec<u8>) {
        *self.0.lock().unwrap() = bytes;
    }

    async fn endpoint(&self) -> Upstream {
        let words = self.clone();
        Upstream::answering_each(move |_| words.0.lock().unwrap().clone()).await
    }
}

fn http(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// What the issuer says of Alice's token.
fn active(issuer: &Issuer, changes: &[(&str, Value)]) -> Value {
    let now = wicketgate::clock::unix_now();
    let mut answer = json!({
        "active": true, "sub": "alice", "client_id": "weatherbot", "exp": now + 600, "iat": now, "iss": issuer.url(), "aud": RESOURCE,
        "scope": "openid read:weather", "token_type": "Bearer",
    });
    for (name, value) in changes {
        match value {
            Value::Null => drop(answer.as_object_mut().unwrap().remove(*name)),
            value => answer[*name] = value.clone(),
        }
    }
    answer
}

fn introspection(endpoint: &Upstream, more: &str) -> String {
    format!("    introspection: {{ client_id: gate, client_secret: '{SECRET}', endpoint: '{}/introspect'{more} }}", endpoint.url())
}

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    endpoint: Upstream,
    words: Words,
    builder: GateBuilder,
}

async fn scene(more: &str) -> Scene {
    let (issuer, upstream, words) = (issuer().await, Upstream::friendly().await, Words::default());
    words.say(&active(&issuer, &[]));
    let endpoint = words.endpoint().await;
    let builder = gate(&issuer, &upstream).in_service(&introspection(&endpoint, more));
    Scene { issuer, upstream, endpoint, words, builder }
}

async fn ask(gate: &Gate, target: &str) -> (u16, String) {
    let answer = gate.get(target).token(TOKEN).send().await;
    (answer.status, answer.code())
}

fn permitted() -> (u16, String) {
    (200, String::new())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// RFC 7662 §2.1, §2.2; RFC 6749 §2.3.1.
#[tokio::test]
async fn a_token_that_the_issuer_vouches_for_opens_what_its_scopes_open_and_is_asked_about_once() {
    let Scene { issuer, upstream, endpoint, builder, .. } = &scene("").await;
    let gate = builder.clone().start().await;

    assert_eq!(ask(&gate, "/forecast/oslo").await, permitted());
    assert_eq!(ask(&gate, "/me").await, permitted());
    let answer = gate.ask("PUT", "/forecast/oslo").token(TOKEN).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "scope_missing"));
    assert!(answer.header("www-authenticate").unwrap().contains("scope=\"write:weather read:weather\""), "{answer:?}");

    let asked = endpoint.only();
    assert_eq!(asked.line, "POST /introspect HTTP/1.1");
    assert_eq!(asked.one("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(asked.text(), format!("token={TOKEN}&token_type_hint=access_token"));
    // gate:s%3Acr%26t
    assert_eq!(asked.one("authorization"), Some("Basic Z2F0ZTpzJTNBY3IlMjZ0"));
    let told = &upstream.received()[0];
    assert_eq!(told.one("x-auth-subject"), Some("alice"));
    assert_eq!(told.one("x-auth-client-id"), Some("weatherbot"));
    assert_eq!(told.one("x-auth-scopes"), Some("openid read:weather"));
    assert_eq!(told.one("x-auth-issuer"), Some(issuer.url()));
    assert_eq!(told.one("authorization"), None);
    assert_eq!(gate.metric("wicketgate_introspection_lookups_total{cache=\"hit\"}").await, Some(2.0));
    assert_eq!(gate.metric(&format!("{COUNTED}{{result=\"active\"}}")).await, Some(1.0));
}

#[tokio::test]
async fn credentials_go_into_the_form_where_the_operator_says_so() {
    let Scene { endpoint, builder, .. } = &scene(", auth: post").await;
    let gate = builder.clone().start().await;

    assert_eq!(ask(&gate, "/me").await, permitted());

    let asked = endpoint.only();
    assert_eq!(asked.one("authorization"), None);
    assert_eq!(asked.text(), format!("token={TOKEN}&token_type_hint=access_token&client_id=gate&client_secret=s%3Acr%26t"));
}

#[tokio::test]
async fn a_token_that_is_not_active_is_refused_and_asked_about_again_after_a_short_while() {
    let Scene { issuer, upstream, endpoint, words, builder } = &scene(", negative_max_age: 400ms").await;
    let gate = builder.clone().start().await;
    words.say(&json!({ "active": false }));

    let answer = gate.get("/me").token(TOKEN).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "token_inactive"));
    assert!(answer.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
    assert_eq!(ask(&gate, "/me").await, refused(401, "token_inactive"));
    assert_eq!(endpoint.received().len(), 1);

    words.say(&active(issuer, &[]));
    until("it is active", || async { ask(&gate, "/me").await == permitted() }).await;
    assert_eq!((endpoint.received().len(), upstream.received().len()), (2, 1));
}

/// Logto says of refresh tokens that they are active, with all their scopes, and without a type.
#[tokio::test]
async fn a_refresh_token_is_no_access_token_although_it_is_active() {
    let Scene { issuer, upstream, words, builder, .. } = &scene(", audience: if_present").await;
    let gate = builder.clone().start().await;
    words.say(&active(issuer, &[("token_type", Value::Null), ("aud", Value::Null)]));

    assert_eq!(ask(&gate, "/forecast/oslo").await, refused(401, "token_type_wrong"));
    assert_eq!(ask(&gate, "/me").await, refused(401, "token_type_wrong"));
    assert!(upstream.received().is_empty());
    assert_eq!(gate.metric(&format!("{COUNTED}{{result=\"unacceptable\"}}")).await, Some(1.0));
}

#[tokio::test]
async fn a_token_for_another_resource_is_refused_and_one_for_nobody_unless_the_operator_says_so() {
    for (more, nobody) in [("", refused(401, "audience_wrong")), (", audience: if_present", permitted())] {
        let Scene { issuer, words, builder, .. } = &scene(&format!("{more}, max_age: 0s, negative_max_age: 0s")).await;
        let gate = builder.clone().start().await;
        let of = async |audience: Value| {
            words.say(&active(issuer, &[("aud", audience)]));
            ask(&gate, "/me").await
        };

        assert_eq!(of(json!("https://other.example")).await, refused(401, "audience_wrong"), "{more}");
        assert_eq!(of(json!([])).await, refused(401, "audience_wrong"), "{more}");
        assert_eq!(of(json!(["https://other.example", RESOURCE])).await, permitted(), "{more}");
        assert_eq!(of(Value::Null).await, nobody, "{more}");
    }
}

#[tokio::test]
async fn an_answer_counts_at_one_service_and_is_asked_for_anew_at_another() {
    let (issuer, upstream, words) = (issuer().await, Upstream::friendly().await, Words::default());
    words.say(&active(&issuer, &[]));
    let (one, two) = (words.endpoint().await, words.endpoint().await);
    let gate = gate(&issuer, &upstream)
        .in_service(&format!("    hosts: [127.0.0.1]\n{}", introspection(&one, "")))
        .service("other", "https://other.example", &upstream.url(), "\n      GET /me: authenticated")
        .in_service(&format!("    hosts: [other.example]\n{}", introspection(&two, "")))
        .start()
        .await;

    assert_eq!(ask(&gate, "/me").await, permitted());
    let answer = gate.get("/me").host(Some("other.example")).token(TOKEN).send().await;

    assert_eq!((answer.status, answer.code().as_str()), (401, "audience_wrong"));
    assert_eq!((one.received().len(), two.received().len()), (1, 1));
}

/// RFC 7662 §4: an answer is not kept beyond the token's end, whatever `max_age` and the leeway say.
#[tokio::test]
async fn a_token_that_expired_since_is_asked_about_again() {
    let Scene { issuer, endpoint, words, builder, .. } = &scene(", max_age: 5m").await;
    let gate = builder.clone().start().await;
    words.say(&active(issuer, &[("exp", json!(wicketgate::clock::unix_now() + 2))]));
    assert_eq!(ask(&gate, "/me").await, permitted());
    words.say(&json!({ "active": false }));

    until("it has expired", || async { ask(&gate, "/me").await == refused(401, "token_inactive") }).await;

    assert_eq!(endpoint.received().len(), 2);
}

#[tokio::test]
async fn a_revoked_token_counts_no_longer_than_max_age() {
    let Scene { endpoint, words, builder, .. } = &scene(", max_age: 500ms").await;
    let gate = builder.clone().start().await;
    for _ in 0..3 {
        assert_eq!(ask(&gate, "/me").await, permitted());
    }
    assert_eq!(endpoint.received().len(), 1);
    words.say(&json!({ "active": false }));

    until("it is refused", || async { ask(&gate, "/me").await == refused(401, "token_inactive") }).await;

    assert_eq!(endpoint.received().len(), 2);
}

/// Answers one question for each permit, and counts how many are waiting for theirs.
async fn held_endpoint(answer: Value) -> (Upstream, Arc<AtomicUsize>, Arc<Semaphore>) {
    let (waiting, permits) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, wanted) = (waiting.clone(), permits.clone());
    let endpoint = Upstream::by_hand(move |mut stream| {
        let (counted, wanted, answer) = (counted.clone(), wanted.clone(), http(200, &answer.to_string()));
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                counted.fetch_add(1, Ordering::SeqCst);
                wanted.acquire().await.unwrap().forget();
                counted.fetch_sub(1, Ordering::SeqCst);
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    });
    (endpoint.await, waiting, permits)
}

#[tokio::test]
async fn a_hundred_requests_with_one_token_ask_once() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (endpoint, waiting, permits) = held_endpoint(active(&issuer, &[])).await;
    let gate = gate(&issuer, &upstream).in_service(&introspection(&endpoint, "")).start().await;

    let all = join_all((0..100).map(|_| ask(&gate, "/me")));
    let release = async {
        until("all have arrived", || async { gate.metric("wicketgate_requests_in_flight").await == Some(100.0) }).await;
        assert_eq!(waiting.load(Ordering::SeqCst), 1);
        permits.add_permits(100);
    };
    let (answers, ()) = tokio::join!(all, release);

    assert!(answers.iter().all(|answer| *answer == permitted()), "{answers:?}");
    assert_eq!(gate.metric(&format!("{COUNTED}{{result=\"active\"}}")).await, Some(1.0));
    assert_eq!(gate.metric("wicketgate_introspection_lookups_total{cache=\"shared\"}").await, Some(99.0));
}

#[tokio::test]
async fn a_request_goes_to_the_upstream_of_the_policy_that_decided_on_it() {
    let (issuer, old, new) = (issuer().await, Upstream::friendly().await, Upstream::friendly().await);
    let (endpoint, waiting, permits) = held_endpoint(active(&issuer, &[])).await;
    let to = |upstream: &Upstream| gate(&issuer, upstream).in_service(&introspection(&endpoint, ", timeout: 10s"));
    let mut gate = to(&old).start().await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.get("/me").token(TOKEN).bytes("")).await;
    until("the issuer is asked", || async { waiting.load(Ordering::SeqCst) == 1 }).await;

    gate.rewrite(&to(&new).yaml()).await;
    gate.rewrite(&to(&new).settings("log: { level: debug }").yaml()).await;
    permits.add_permits(2);

    assert_eq!(client.answer("GET").await.status, 200);
    assert_eq!((old.received().len(), new.received().len()), (1, 0));
    assert_eq!(ask(&gate, "/me").await, permitted());
    assert_eq!((old.received().len(), new.received().len()), (1, 1), "the next is decided anew");
}

#[tokio::test]
async fn a_question_goes_on_for_the_others_when_who_asked_first_has_left() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (endpoint, waiting, permits) = held_endpoint(active(&issuer, &[])).await;
    let gate = gate(&issuer, &upstream).in_service(&introspection(&endpoint, "")).start().await;

    let mut first = Connection::open(gate.address()).await;
    first.write(&gate.get("/me").token(TOKEN).bytes("")).await;
    until("the issuer is asked", || async { waiting.load(Ordering::SeqCst) == 1 }).await;
    drop(first);
    until("the first has left", || async { gate.metric("wicketgate_requests_in_flight").await == Some(0.0) }).await;
    let second = async {
        until("the second waits", || async { gate.metric("wicketgate_requests_in_flight").await == Some(1.0) }).await;
        permits.add_permits(1);
    };
    let (answer, ()) = tokio::join!(ask(&gate, "/me"), second);

    assert_eq!(answer, permitted());
    assert_eq!(endpoint.connections(), 1);
}

async fn assert_unavailable(gate: &Gate, what: &str) {
    let answer = gate.get("/me").token(TOKEN).send().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "introspection_unavailable"), "{what}");
    assert!(answer.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()), "{what}");
    assert_eq!(answer.header("www-authenticate"), None, "{what}");
}

#[tokio::test]
async fn an_endpoint_that_talks_nonsense_makes_no_token_look_bad_and_lets_none_through() {
    let Scene { issuer, upstream, words, builder, endpoint } = &scene(", timeout: 500ms").await;
    let gate = builder.clone().start().await;
    let huge = json!({ "active": true, "sub": "alice", "token_type": "Bearer", "aud": RESOURCE, "x": "x".repeat(1 << 20) });
    let elsewhere = format!("HTTP/1.1 307 X\r\nLocation: {}/elsewhere\r\nContent-Length: 0\r\n\r\n", endpoint.url());
    let table = [
        ("500", http(500, &active(issuer, &[]).to_string())),
        ("html", http(200, "<html>{\"active\":true}</html>")),
        ("empty", http(200, "")),
        ("no JSON object", http(200, "true")),
        ("no active", http(200, "{}")),
        ("active as text", http(200, "{\"active\":\"true\",\"token_type\":\"Bearer\",\"sub\":\"alice\"}")),
        ("two actives", http(200, "{\"active\":false,\"active\":true,\"token_type\":\"Bearer\",\"sub\":\"alice\"}")),
        ("huge", http(200, &huge.to_string())),
        ("redirect", elsewhere.into_bytes()),
        ("no content", b"HTTP/1.1 204 X\r\n\r\n".to_vec()),
        ("truncated", b"HTTP/1.1 200 X\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{\"active\":true".to_vec()),
        ("no HTTP", b"hello\r\n\r\n".to_vec()),
    ];
    let count = table.len();
    for (what, bytes) in table {
        words.say_bytes(bytes);
        assert_unavailable(&gate, what).await;
    }
    assert!(upstream.received().is_empty());
    assert!(endpoint.received().iter().all(|asked| asked.line.starts_with("POST /introspect ")), "a redirect was followed");
    assert_eq!(gate.metric(&format!("{COUNTED}{{result=\"unavailable\"}}")).await, Some(count as f64));

    words.say(&active(issuer, &[]));
    assert_eq!(ask(&gate, "/me").await, permitted());
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_not_waited_for_and_holds_up_nobody_else() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (endpoint, waiting, permits) = held_endpoint(active(&issuer, &[])).await;
    let gate = gate(&issuer, &upstream).in_service(&introspection(&endpoint, ", timeout: 300ms")).start().await;
    let jwt = token(&issuer, "read:weather");

    let (unavailable, passed) = tokio::join!(assert_unavailable(&gate, "silent"), gate.get("/forecast/oslo").token(&jwt).send());
    let ((), 200) = (unavailable, passed.status) else { panic!("{}", passed.status) };
    // Those who asked and were given up are answered first.
    permits.add_permits(10);
    until("the endpoint is well again", || async { ask(&gate, "/me").await == permitted() }).await;
    assert_eq!(waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_endpoint_that_is_down_opens_nothing_and_is_back_by_itself() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let place = reserve();
    let settings = format!("    introspection: {{ client_id: gate, client_secret: s, endpoint: 'http://{}/introspect' }}", place.address);
    let gate = gate(&issuer, &upstream).in_service(&settings).start().await;

    for _ in 0..3 {
        assert_unavailable(&gate, "down").await;
    }
    assert_eq!(gate.admin("/readyz").await.status, 200);
    assert_eq!(gate.get("/me").token(&token(&issuer, "")).send().await.status, 200);

    let listener = tokio::net::TcpListener::bind(place.address).await.unwrap();
    let answer = http(200, &active(&issuer, &[]).to_string());
    let back = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            stream.write_all(&answer).await.unwrap();
        }
    });
    until("it is back", || async { ask(&gate, "/me").await == permitted() }).await;
    back.abort();
}

#[tokio::test]
async fn credentials_that_the_issuer_refuses_are_the_operators_fault_and_not_the_callers() {
    // As a real Logto answers a wrong secret, and none at all.
    let answers = [
        http(401, "{\"code\":\"oidc.invalid_client\",\"error\":\"invalid_client\",\"error_description\":\"client authentication failed\"}"),
        http(400, "{\"code\":\"oidc.invalid_request\",\"error\":\"invalid_request\"}"),
        http(403, "no"),
    ];
    for answer in answers {
        let Scene { words, builder, endpoint, upstream, .. } = &scene("").await;
        let gate = builder.clone().start().await;
        words.say_bytes(answer);

        for _ in 0..3 {
            assert_unavailable(&gate, "credentials").await;
        }

        assert_eq!(gate.metric(&format!("{COUNTED}{{result=\"credentials_refused\"}}")).await, Some(1.0));
        // An issuer that is asked again and again with wrong credentials may lock the client.
        assert_eq!((endpoint.received().len(), upstream.received().len()), (1, 0));
    }
}

#[tokio::test]
async fn what_looks_like_a_jwt_or_like_no_token_is_never_shown_to_the_endpoint() {
    let Scene { issuer, endpoint, builder, .. } = &scene("").await;
    let gate = builder.clone().start().await;
    let good = token(issuer, "read:weather");
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let table = [
        good.clone(),
        format!("{header}.{payload}.{}", signature.chars().rev().collect::<String>()),
        format!("{header}.{payload}."),
        format!("{header}.{payload}"),
        header.to_owned(),
        format!("{good}.{payload}"),
        format!("{header}.{payload}.{signature}.{payload}.{payload}"),
        "a.b.c".to_owned(),
        format!("x{good}"),
        "x".repeat(17 << 10),
    ];
    let mut passed = 0;
    for token in &table {
        let answer = gate.get("/forecast/oslo").token(token).send().await;
        passed += usize::from(answer.status == 200);
        assert!([200, 401].contains(&answer.status), "{}", answer.status);
    }
    assert_eq!(passed, 1);
    for line in ["Bearer", "Bearer a b", "Bearer a\tb", "Bearer \"a\"", "Bearer =", "Basic YTpi", "Bearer tok{en}"] {
        assert!([400, 401].contains(&gate.get("/me").header(&format!("Authorization: {line}")).send().await.status), "{line}");
    }
    let twice = gate.get(&format!("/me?access_token={TOKEN}")).token(TOKEN).send().await;
    assert_eq!((twice.status, twice.code().as_str()), (400, "token_repeated"));
    assert_eq!(gate.get("/me").token(TOKEN).token("other").send().await.status, 400);
    assert_eq!(gate.get("/public/page").token(TOKEN).send().await.status, 200);
    assert_eq!(gate.get("/nowhere").token(TOKEN).send().await.status, 404);
    assert!(endpoint.received().is_empty(), "{:?}", endpoint.received());
}

#[tokio::test]
async fn a_flood_of_invented_tokens_does_not_become_a_flood_at_the_issuer_and_keeps_no_known_token_out() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let good = http(200, &active(&issuer, &[]).to_string());
    let endpoint = Upstream::answering_each(move |asked| match asked.text().contains(TOKEN) {
        true => good.clone(),
        false => http(200, "{\"active\":false}"),
    })
    .await;
    let settings = introspection(&endpoint, ", per_second: 5, max_age: 200ms");
    let gate = gate(&issuer, &upstream).in_service(&settings).start().await;
    assert_eq!(ask(&gate, "/me").await, permitted());
    let started = std::time::Instant::now();

    let invented: Vec<String> = (0..300).map(|i| format!("invented-{i}")).collect();
    let flood = join_all(invented.iter().map(|token| gate.get("/me").token(token).send()));
    let known = async {
        // Long enough that what is known of it is too old at least once.
        while started.elapsed().as_millis() < 500 {
            assert_eq!(ask(&gate, "/me").await, permitted());
        }
    };
    let (answers, ()) = tokio::join!(flood, known);

    let busy = answers.iter().filter(|answer| answer.code() == "introspection_busy");
    assert!(busy.clone().all(|answer| answer.status == 503 && answer.header("retry-after").as_deref() == Some("1")));
    let inactive = answers.iter().filter(|answer| (answer.status, answer.code().as_str()) == (401, "token_inactive")).count();
    assert_eq!(busy.count() + inactive, 300);
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap() + 1;
    let asked = endpoint.received();
    let strangers = asked.iter().filter(|asked| asked.text().contains("invented")).count();
    assert!(strangers <= 5 + 5 * seconds, "{strangers} questions in {seconds} s");
    assert!(asked.len() - strangers >= 2, "the known token was not asked about again");
}

#[tokio::test]
async fn no_more_questions_are_under_way_than_the_operator_allows_and_the_others_wait_for_their_turn() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (endpoint, waiting, permits) = held_endpoint(active(&issuer, &[])).await;
    let gate = gate(&issuer, &upstream).in_service(&introspection(&endpoint, ", in_flight: 3")).start().await;

    let tokens: Vec<String> = (0..20).map(|i| format!("token-{i}")).collect();
    let all = join_all(tokens.iter().map(|token| gate.get("/me").token(token).send()));
    let release = async {
        until("all have arrived", || async { gate.metric("wicketgate_requests_in_flight").await == Some(20.0) }).await;
        until("three are asked", || async { waiting.load(Ordering::SeqCst) == 3 }).await;
        assert_eq!(endpoint.connections(), 3);
        permits.add_permits(20);
    };
    let (answers, ()) = tokio::join!(all, release);

    assert!(answers.iter().all(|answer| answer.status == 200), "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    assert_eq!(endpoint.connections(), 3);
}

#[tokio::test]
async fn answers_survive_a_reload_that_leaves_their_settings_and_end_with_one_that_does_not() {
    let Scene { endpoint, builder, .. } = &scene("").await;
    let tightened = builder.clone().routes("\n      GET /me: write:weather");
    let with_secret = |secret: &str| tightened.yaml().replace(SECRET, secret).replace("write:weather", "authenticated");
    let mut gate = builder.clone().start().await;
    assert_eq!(ask(&gate, "/me").await, permitted());

    gate.rewrite(&tightened.yaml()).await;
    assert_eq!(ask(&gate, "/me").await, refused(403, "scope_missing"));
    assert_eq!(endpoint.received().len(), 1);

    gate.rewrite(&with_secret("new")).await;
    let reload = gate.status().await["last_reload"].clone();
    assert!(reload["changes"].as_str().unwrap().contains("service weather: introspection changed"), "{reload}");
    assert_eq!(ask(&gate, "/me").await, permitted());
    let asked = endpoint.received();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].one("authorization"), Some("Basic Z2F0ZTpuZXc="));

    let off: String = with_secret("new").lines().filter(|line| !line.contains("introspection:")).map(|line| format!("{line}\n")).collect();
    gate.rewrite(&off).await;
    assert_eq!(ask(&gate, "/me").await, refused(401, "token_opaque"));
}

#[tokio::test]
async fn a_secret_in_a_file_is_taken_when_the_file_changes() {
    let (issuer, upstream, words) = (issuer().await, Upstream::friendly().await, Words::default());
    words.say(&active(&issuer, &[]));
    let endpoint = words.endpoint().await;
    let settings = introspection(&endpoint, "").replace(&format!("client_secret: '{SECRET}'"), "client_secret_file: secret");
    let mut gate = gate(&issuer, &upstream).in_service(&settings).file("secret", "old\n").start().await;

    assert_eq!(ask(&gate, "/me").await, permitted());
    gate.rewrite_files(&[("secret", "new\n")]).await;
    assert_eq!(ask(&gate, "/me").await, permitted());

    let asked: Vec<Received> = endpoint.received();
    let sent: Vec<Option<&str>> = asked.iter().map(|asked| asked.one("authorization")).collect();
    assert_eq!(sent, [Some("Basic Z2F0ZTpvbGQ="), Some("Basic Z2F0ZTpuZXc=")]);
}

#[tokio::test]
async fn the_endpoint_is_found_in_the_issuers_metadata() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (answer, url, place) = (active(&issuer, &[]).to_string(), issuer.url().to_owned(), Arc::new(std::sync::Mutex::new(String::new())));
    let own = place.clone();
    let provider = Upstream::answering_each(move |asked| match asked.line.starts_with("GET") {
        true => {
            let endpoint = format!("{}/introspect", own.lock().unwrap());
            http(200, &json!({ "issuer": url, "jwks_uri": format!("{url}/jwks"), "introspection_endpoint": endpoint }).to_string())
        }
        false => http(200, &answer),
    })
    .await;
    *place.lock().unwrap() = provider.url();
    let settings = format!("issuer: {{ url: '{}', discovery_url: '{}/metadata' }}", issuer.url(), provider.url());
    let gate = gate(&issuer, &upstream)
        .settings(&settings)
        .in_service("    introspection: { client_id: gate, client_secret: s, max_age: 0s }")
        .start()
        .await;

    for _ in 0..3 {
        assert_eq!(ask(&gate, "/me").await, permitted());
    }

    let asked = provider.received();
    let count = |start: &str| asked.iter().filter(|asked| asked.line.starts_with(start)).count();
    // Once for the keys, once for the endpoint.
    assert_eq!((count("GET /metadata"), count("POST /introspect")), (2, 3));
}

#[tokio::test]
async fn a_route_in_report_mode_tells_what_the_issuer_says_and_waits_for_nothing_else() {
    let Scene { upstream, words, builder, .. } = &scene(", negative_max_age: 0s").await;
    let gate = builder.clone().routes("\n      GET /me: { access: authenticated, mode: report }").start().await;

    assert_eq!(ask(&gate, "/me").await.0, 200);
    words.say(&json!({ "active": false }));
    assert_eq!(gate.get("/me").token("another").send().await.status, 200);
    words.say_bytes(http(500, ""));
    assert_eq!(gate.get("/me").token("yet-another").send().await.status, 200);

    let told: Vec<Option<String>> = upstream.received().iter().map(|told| told.one("x-auth-subject").map(str::to_owned)).collect();
    assert_eq!(told, [Some("alice".to_owned()), None, None]);
    let refusals = async |reason: &str| gate.metric(&format!("wicketgate_refusals_total{{reason=\"{reason}\",service=\"weather\"}}")).await;
    assert_eq!((refusals("token_inactive").await, refusals("introspection_unavailable").await), (Some(1.0), Some(1.0)));
}

#[tokio::test]
async fn neither_the_token_nor_the_secret_is_shown_to_anyone() {
    let Scene { words, builder, .. } = &scene("").await;
    let gate = builder.clone().start().await;
    assert_eq!(ask(&gate, "/me").await, permitted());
    words.say(&json!({ "active": false }));
    let answer = gate.get("/me").token("another-token").send().await;

    let shown = [gate.admin("/metrics").await.text(), gate.status().await.to_string(), format!("{answer:?}{}", answer.text())];
    for text in shown {
        for hidden in [TOKEN, "another-token", SECRET] {
            assert!(!text.contains(hidden), "{hidden} in {text}");
        }
    }
}
