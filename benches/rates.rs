//! What a rate limit costs a request that is counted in this process. `cargo bench --bench rates`
#![allow(clippy::expect_used, reason = "a benchmark that cannot start has nothing to say")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use serde_json::json;
use wicketgate::access::Claims;
use wicketgate::config::Document;
use wicketgate::policy::{Mode, Policy, compile};
use wicketgate::rate::{Caller, Rates, Standing, standing_field};

/// A policy with this limit on its one route.
fn policy(limit: &str) -> Policy {
    let text = format!(
        "issuer: https://i.example\nservices:\n  - name: weather\n    resource: https://a.example\n    upstream: http://127.0.0.1:1\n    routes:\n      GET /x: {{ access: authenticated, rate_limit: {limit} }}\n"
    );
    let document = Document::read(&text, &|_| None);
    compile(document.config.as_ref().expect("a document"), String::new(), &|_| Err(String::new())).expect("a policy")
}

fn check(rates: &Rates, policy: &Policy, caller: &Caller<'_>) -> Vec<Standing> {
    let limits = &policy.services[0].routes[0].rate_limits;
    rates.check(black_box(limits), black_box(caller), Mode::Enforce).now_or_never().expect("no shared state to wait for")
}

fn cases(c: &mut Criterion) {
    let all = json!({ "iss": "https://tenant.logto.app/oidc", "sub": "5nzcf1qn6r1h", "client_id": "bhl2530elo3m", "aud": "a", "exp": 1 });
    let claims = Claims::parse(all.as_object().expect("claims").clone()).expect("claims");
    let caller = Caller { claims: Some(&claims), address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) };
    let wide = |by: &str| format!("{{ by: {by}, requests: 10000, per: 1s, burst: 4000000000 }}");
    for (name, limit) in [
        ("one limit, let in", wide("client")),
        ("two limits, let in", format!("[{}, {}]", wide("client"), wide("subject"))),
        ("one limit, refused", "1 per 1h by client".to_owned()),
        ("two limits, the second refuses", format!("[{}, 1 per 1h by client]", wide("client"))),
    ] {
        let policy = policy(&limit);
        let rates = Rates::new(&policy, None);
        check(&rates, &policy, &caller);
        c.bench_function(name, |b| b.iter(|| check(&rates, &policy, &caller)));
    }
    let policy = policy("1 per 1h by address");
    let rates = Rates::new(&policy, None);
    let mut next = 0_u32;
    c.bench_function("a new caller each time, the table full", |b| {
        b.iter(|| {
            next = next.wrapping_add(1);
            check(&rates, &policy, &Caller { claims: None, address: Some(IpAddr::V4(next.into())) })
        })
    });
    let standings = check(&rates, &policy, &caller);
    c.bench_function("the RateLimit field", |b| b.iter(|| standing_field(black_box(&standings))));
}

criterion_group!(benches, cases);
criterion_main!(benches);
