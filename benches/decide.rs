//! What the decision costs: one line a case. `cargo bench --bench decide`
//!
//! The snapshot is that of a real configuration, the tokens are signed by the demo's issuer.
#![allow(clippy::expect_used, reason = "a benchmark that cannot start has nothing to say")]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use wicketgate::access::{
    App, Consents, Head, Held, Known, Question, Remembered, Revocation, Revoked, RevokedBy, Revokes, Snapshot, Word, decide,
};
use wicketgate::clock;
use wicketgate::config::Document;
use wicketgate::demo::issuer::{Issuer, Resource, Settings, SigningAlgorithm, TokenRequest};
use wicketgate::keys::KeyStore;
use wicketgate::policy::{Scopes, compile};

const RESOURCE: &str = "https://api.weather.example";

/// A policy with this many routes of several shapes, `GET /forecast/{city}` among them.
fn yaml(issuer: &str, routes: usize) -> String {
    let mut text = format!(
        "issuer: {issuer}\nservices:\n  - name: weather\n    resource: {RESOURCE}\n    upstream: http://127.0.0.1:1\n    routes:\n      GET /forecast/{{city}}: read:weather\n      GET /public: public\n"
    );
    for i in 0..routes.saturating_sub(2) {
        match i % 3 {
            0 => text.push_str(&format!("      GET /area{i}/{{id}}: read:weather\n")),
            1 => text.push_str(&format!("      POST,PUT /area{i}/{{id}}/things/{{thing}}: write:weather\n")),
            _ => text.push_str(&format!("      /area{i}/**: {{ any: [read:weather, admin] }}\n")),
        }
    }
    text
}

async fn snapshot(issuer: &Issuer, routes: usize, remembered: usize) -> Snapshot {
    snapshot_of(issuer, &yaml(issuer.url(), routes), remembered).await
}

async fn snapshot_of(issuer: &Issuer, text: &str, remembered: usize) -> Snapshot {
    let document = Document::read(text, &|_| None);
    let policy = compile(document.config.as_ref().expect("a document"), String::new(), &|_| Err(String::new())).expect("a policy");
    let store = KeyStore::default();
    store.adopt(&policy).expect("an issuer");
    store.refresh(issuer.url(), "", None).await;
    let keyring = store.keyring(&policy);
    Snapshot::new(Arc::new(policy), keyring, Arc::new(Remembered::new(remembered)))
}

fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).expect("a header"));
    headers
}

fn ask(snapshot: &Snapshot, path: &str, headers: &HeaderMap, now: i64) -> bool {
    let head = Head {
        method: &Method::GET,
        host: "api.weather.example",
        path,
        query: None,
        headers,
        websocket: false,
        plain: false,
        certificate: None,
    };
    decide(black_box(snapshot), black_box(&head), now).is_ok()
}

fn cases(c: &mut Criterion) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let settings = Settings { resources: vec![Resource::new(RESOURCE, &[])], ..Settings::default() };
    let issuer = runtime.block_on(Issuer::start(loopback, settings)).expect("an issuer");
    let token = |issuer: &Issuer| {
        issuer.token(TokenRequest {
            resource: RESOURCE.to_owned(),
            scope: Some("read:weather openid".to_owned()),
            ..TokenRequest::default()
        })
    };
    let none = HeaderMap::new();
    for routes in [10, 1000] {
        // Each time anew: a token must not come from the future, however long the cases before it took.
        let now = clock::unix_now();
        let snapshot = runtime.block_on(snapshot(&issuer, routes, 1000));
        let good = headers(&token(&issuer));
        assert!(ask(&snapshot, "/forecast/oslo", &good, now) && ask(&snapshot, "/public", &none, now));
        c.bench_function(&format!("remembered token, {routes} routes"), |b| b.iter(|| ask(&snapshot, "/forecast/oslo", &good, now)));
        c.bench_function(&format!("public route, {routes} routes"), |b| b.iter(|| ask(&snapshot, "/public", &none, now)));
        c.bench_function(&format!("no token, {routes} routes"), |b| b.iter(|| ask(&snapshot, "/forecast/oslo", &none, now)));
        c.bench_function(&format!("unknown path, {routes} routes"), |b| b.iter(|| ask(&snapshot, "/nowhere/at/all", &good, now)));
        c.bench_function(&format!("ambiguous path, {routes} routes"), |b| {
            b.iter(|| ask(&snapshot, "/public/../forecast/oslo", &good, now))
        });
    }
    let now = clock::unix_now();
    live_consent(c, &runtime, &issuer, &headers(&token(&issuer)), now);
    revocations(c, &runtime, &issuer, &headers(&token(&issuer)), clock::unix_now());
    for algorithm in SigningAlgorithm::ALL {
        issuer.rotate(algorithm);
        let snapshot = runtime.block_on(snapshot(&issuer, 10, 0));
        let (good, now) = (headers(&token(&issuer)), clock::unix_now());
        assert!(ask(&snapshot, "/forecast/oslo", &good, now));
        c.bench_function(&format!("{} token for the first time", algorithm.name()), |b| {
            b.iter(|| ask(&snapshot, "/forecast/oslo", &good, now))
        });
    }
}

/// The same remembered token with and without live consent, of which everything is known.
fn live_consent(c: &mut Criterion, runtime: &tokio::runtime::Runtime, issuer: &Issuer, good: &HeaderMap, now: i64) {
    const USERS: usize = 10_000;
    let logto = "logto: { endpoint: http://127.0.0.1:1, app_id: gate, app_secret: s }\n";
    let text = yaml(issuer.url(), 10).replacen("    routes:", "    consent: {}\n    routes:", 1) + logto;
    let consents = Arc::new(Consents::new(2 * USERS));
    let question = |subject: Option<String>| Question { subject: subject.map(String::into), client: "agent".into() };
    let put = |subject: Option<String>, word: Word| consents.put(Arc::new(Known { question: question(subject), asked: now, word }));
    put(None, Word::App(Some(App { third_party: true, name: "Agent".into() })));
    let held = || Held { resources: vec![(RESOURCE.to_owned(), Scopes::parse("read:weather write:weather"))], ends: Some(now + 3600) };
    for user in (0..USERS).map(|i| format!("user{i}")).chain(["user".to_owned()]) {
        put(Some(user), Word::Grants(vec![held()]));
    }
    let snapshot = runtime.block_on(snapshot_of(issuer, &text, 1000)).with_consents(vec![Some(consents)]);
    assert!(ask(&snapshot, "/forecast/oslo", good, now));
    c.bench_function("remembered token with live consent, 10 routes", |b| b.iter(|| ask(&snapshot, "/forecast/oslo", good, now)));
}

/// The same remembered token where much is revoked, and nothing of its own.
fn revocations(c: &mut Criterion, runtime: &tokio::runtime::Runtime, issuer: &Issuer, good: &HeaderMap, now: i64) {
    const COUNT: usize = 100_000;
    let revoked = Arc::new(Revoked::default());
    for i in 0..COUNT {
        let revokes = Revokes::Subject(format!("user{i}"));
        let entry =
            Revocation { revokes, by: RevokedBy::Operator, issuer: None, revoked_at: now, later_too: false, expires_at: now + 3600 };
        assert_eq!(revoked.put(entry, now, COUNT), Ok(true));
    }
    let snapshot = runtime.block_on(snapshot(issuer, 10, 1000)).with_revoked(revoked);
    assert!(ask(&snapshot, "/forecast/oslo", good, now));
    c.bench_function("remembered token with 100,000 revocations, 10 routes", |b| b.iter(|| ask(&snapshot, "/forecast/oslo", good, now)));
}

criterion_group!(benches, cases);
criterion_main!(benches);
