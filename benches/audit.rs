//! What the record of a request costs: without an audit trail, with one that does not want it, and with one that does.
//! `cargo bench --bench audit`
#![allow(clippy::expect_used, clippy::print_stderr, reason = "a benchmark that cannot start has nothing to say")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use wicketgate::access::{Head, Identity, Remembered, Snapshot, Verdict, decide};
use wicketgate::clock;
use wicketgate::config::Document;
use wicketgate::demo::issuer::{Issuer, Resource, Settings, TokenRequest};
use wicketgate::keys::KeyStore;
use wicketgate::observe::{Metrics, Observer, Outcome, Record};
use wicketgate::policy::{Policy, compile};

const RESOURCE: &str = "https://api.weather.example";

fn policy(issuer: &str, audit: &str) -> Policy {
    let text = format!(
        "issuer: {issuer}\nservices:\n  - name: weather\n    resource: {RESOURCE}\n    upstream: http://127.0.0.1:1\n    routes:\n      GET /forecast/{{city}}: read:weather\n{audit}\n"
    );
    let document = Document::read(&text, &|_| None);
    compile(document.config.as_ref().expect("a document"), String::new(), &|_| Err(String::new())).expect("a policy")
}

async fn identity(issuer: &Issuer) -> Identity {
    let policy = policy(issuer.url(), "");
    let store = KeyStore::default();
    store.adopt(&policy).expect("an issuer");
    store.refresh(issuer.url(), "", None).await;
    let keyring = store.keyring(&policy);
    let snapshot = Snapshot::new(Arc::new(policy), keyring, Arc::new(Remembered::new(10)));
    let token = issuer.token(TokenRequest { scope: Some("read:weather openid".to_owned()), ..TokenRequest::default() });
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).expect("a header"));
    let head = Head {
        method: &Method::GET,
        host: "api.weather.example",
        path: "/forecast/oslo",
        query: None,
        headers: &headers,
        websocket: false,
        plain: false,
        certificate: None,
    };
    match decide(&snapshot, &head, clock::unix_now()) {
        Ok(Verdict::Forward(permit)) => permit.identity().expect("an identity").clone(),
        other => unreachable!("{other:?}"),
    }
}

fn record(observer: &Arc<Observer>, policy: &Arc<Policy>, identity: &Identity, method: &Method) {
    let mut record = Record::begin(observer, "01a203a9-7a6f".to_owned(), method.clone(), "/forecast/oslo", Version::HTTP_11);
    record.peer = Some(Ipv4Addr::LOCALHOST.into());
    record.judge(policy);
    record.decide(policy, Some(0), Some(0), Outcome::Permitted);
    record.identity = Some(identity.clone());
    record.status = StatusCode::OK;
    record.reason = None;
    record.audit();
}

fn cases(c: &mut Criterion) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let settings = Settings { resources: vec![Resource::new(RESOURCE, &[])], ..Settings::default() };
    let issuer = runtime.block_on(Issuer::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), settings)).expect("an issuer");
    let identity = runtime.block_on(identity(&issuer));
    let file = std::env::temp_dir().join(format!("wicketgate-bench-{}.jsonl", std::process::id()));
    let trail = format!("audit: {{ to: {{ file: '{}', keep: 1 }} }}", file.display());
    for (name, audit, method) in [
        ("no audit trail", "", Method::GET),
        ("a read, which the audit trail does not want", trail.as_str(), Method::GET),
        ("a write, which the audit trail takes", trail.as_str(), Method::PUT),
    ] {
        let observer = Arc::new(Observer::new(Metrics::new().expect("metrics")));
        observer.set_access_log(false);
        let policy = Arc::new(policy(issuer.url(), audit));
        if let Some(place) = observer.audit.prepare(policy.audit.as_ref()).expect("a place") {
            observer.audit.turn_to(place);
        }
        c.bench_function(name, |b| b.iter(|| record(&observer, &policy, &identity, &method)));
        let lost = observer.metrics.audit_records_lost();
        if lost > 0 {
            eprintln!("{name}: {lost} records lost: made faster than they could be written");
        }
    }
    let _ = std::fs::remove_file(file.with_extension("jsonl.1"));
    let _ = std::fs::remove_file(file);
}

criterion_group!(benches, cases);
criterion_main!(benches);
