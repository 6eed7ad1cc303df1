//! Endpoints that are asked how they are, and a service that is given time to recover.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::TcpListener;

use super::support::*;
use wicketgate::demo::Issuer;

fn before(issuer: &Issuer, any: &Upstream, endpoints: &[String], more: &str) -> GateBuilder {
    gate(issuer, any).upstream(&format!("{{ endpoints: [{}], {more} }}", endpoints.join(", ")))
}

const CHECK: &str = "health_check: { path: /up, interval: 50ms, timeout: 5s, healthy: 2, unhealthy: 2 }, slow_start: 0s";

/// Answers everything with 200, and `/up` as it is told to.
async fn switchable() -> (Upstream, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(true));
    let is_up = up.clone();
    let upstream =
        Upstream::answering_each(move |request: &Received| match request.line.starts_with("GET /up ") && !is_up.load(Ordering::SeqCst) {
            true => b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\ndown".to_vec(),
            false => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
        });
    (upstream.await, up)
}

fn asked(upstream: &Upstream) -> usize {
    upstream.received().iter().filter(|request| !request.line.starts_with("GET /up ")).count()
}

async fn states(gate: &Gate) -> Vec<String> {
    let status = gate.status().await;
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap();
    endpoints.iter().map(|endpoint| endpoint["state"].as_str().unwrap().to_owned()).collect()
}

async fn until_states(gate: &Gate, expected: &[&str]) {
    until(&format!("{expected:?}"), || async { states(gate).await == expected }).await;
}

#[tokio::test]
async fn checks_take_an_endpoint_out_and_bring_it_back() {
    let (issuer, (a, a_up), (b, b_up)) = (issuer().await, switchable().await, switchable().await);
    let gate = before(&issuer, &a, &[a.url(), b.url()], CHECK).start().await;
    until_states(&gate, &["healthy", "healthy"]).await;
    let check = a.received().into_iter().find(|request| request.line == "GET /up HTTP/1.1").unwrap();
    assert_eq!(check.one("host"), Some(a.address().to_string().as_str()));
    assert!(check.one("user-agent").unwrap().ends_with("health check") && check.all("authorization").is_empty());

    a_up.store(false, Ordering::SeqCst);
    until_states(&gate, &["unhealthy", "healthy"]).await;
    for _ in 0..10 {
        assert_eq!(gate.get("/public/x").send().await.status, 200);
    }
    assert_eq!((asked(&a), asked(&b)), (0, 10));
    let series = format!("wicketgate_upstream_health_checks_total{{endpoint=\"{}\",result=\"bad\",service=\"weather\"}}", a.address());
    assert!(gate.metric(&series).await >= Some(2.0));

    // Down altogether: the gate stays ready, says so, and asks them all the same.
    b_up.store(false, Ordering::SeqCst);
    until_states(&gate, &["unhealthy", "unhealthy"]).await;
    let ready = gate.admin("/readyz?verbose").await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("[+] upstream weather: 0 of 2 endpoints well"), "{}", ready.text());
    for _ in 0..4 {
        assert_eq!(gate.get("/public/x").send().await.status, 200);
    }
    assert_eq!((asked(&a), asked(&b)), (2, 12));

    a_up.store(true, Ordering::SeqCst);
    until_states(&gate, &["healthy", "unhealthy"]).await;
    for _ in 0..5 {
        gate.get("/public/x").send().await;
    }
    assert_eq!((asked(&a), asked(&b)), (7, 12));
}

#[tokio::test]
async fn checks_follow_reloads_and_endpoints_that_come_and_go() {
    let (issuer, (a, _), (b, b_up)) = (issuer().await, switchable().await, switchable().await);
    let mut gate = before(&issuer, &a, &[a.url()], CHECK).start().await;
    until_states(&gate, &["healthy"]).await;
    b_up.store(false, Ordering::SeqCst);

    gate.rewrite(&before(&issuer, &a, &[a.url(), b.url()], CHECK).yaml()).await;
    until_states(&gate, &["healthy", "unhealthy"]).await;

    // What was found stays while the way of asking changes; who is gone is asked no more.
    let other = CHECK.replace("50ms", "60ms");
    gate.rewrite(&before(&issuer, &a, &[a.url(), b.url()], &other).yaml()).await;
    assert_eq!(states(&gate).await, ["healthy", "unhealthy"]);
    gate.rewrite(&before(&issuer, &a, &[a.url()], &other).yaml()).await;
    assert_eq!(states(&gate).await, ["healthy"]);
    let (of_a, of_b) = (a.received().len(), b.received().len());
    until("it is asked on", || async { a.received().len() >= of_a + 5 }).await;
    assert!(b.received().len() <= of_b + 1, "one may have been on its way");

    gate.rewrite(&before(&issuer, &a, &[a.url()], "slow_start: 0s").yaml()).await;
    let of_a = a.received().len();
    for _ in 0..20 {
        gate.get("/public/x").send().await;
    }
    assert!(a.received().len() <= of_a + 21);
}

/// A server of `grpc.health.v1.Health` over h2c: SERVING or NOT_SERVING, and what it was asked.
async fn grpc_health(serving: Arc<AtomicBool>, questions: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (serving, questions) = (serving.clone(), questions.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (serving, questions) = (serving.clone(), questions.clone());
                    tokio::spawn(async move {
                        let grpc = request.uri().path() == "/grpc.health.v1.Health/Check";
                        let mut body = request.into_body();
                        let mut asked = Vec::new();
                        while let Some(Ok(data)) = body.data().await {
                            let _ = body.flow_control().release_capacity(data.len());
                            asked.extend_from_slice(&data);
                        }
                        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut stream = respond.send_response(head, false).unwrap();
                        if grpc {
                            assert_eq!(asked, b"\0\0\0\0\x05\x0a\x03a.B");
                            questions.fetch_add(1, Ordering::SeqCst);
                        }
                        let state = if serving.load(Ordering::SeqCst) { 1 } else { 2 };
                        stream.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, state]), false).unwrap();
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        stream.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn grpc_servers_are_asked_by_their_own_protocol() {
    let (issuer, any) = (issuer().await, Upstream::friendly().await);
    let (serving, questions) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let url = grpc_health(serving.clone(), questions.clone()).await;
    let check = "protocol: http2, health_check: { grpc: a.B, interval: 50ms, unhealthy: 1, healthy: 1 }";
    let gate = before(&issuer, &any, &[url], check).start().await;

    until_states(&gate, &["healthy"]).await;
    serving.store(false, Ordering::SeqCst);
    until_states(&gate, &["unhealthy"]).await;
    serving.store(true, Ordering::SeqCst);
    until_states(&gate, &["healthy"]).await;

    assert!(questions.load(Ordering::SeqCst) >= 3);
}

#[tokio::test]
async fn the_circuit_breaker_opens_lets_a_few_through_and_closes() {
    let issuer = issuer().await;
    let well = Arc::new(AtomicBool::new(false));
    let is_well = well.clone();
    let upstream = Upstream::answering_each(move |_| match is_well.load(Ordering::SeqCst) {
        true => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
        false => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let breaker = "circuit_breaker: { failures: 50, requests: 5, open: 300ms, probes: 2 }";
    let gate = before(&issuer, &upstream, &[upstream.url()], breaker).start().await;
    let state = || async { gate.status().await["upstreams"][0]["circuit_breaker"].as_str().unwrap().to_owned() };
    assert_eq!(state().await, "closed");

    for _ in 0..5 {
        let answer = gate.get("/public/x").send().await;
        assert_eq!((answer.status, answer.code().as_str()), (503, ""), "the service's own");
    }
    let answer = gate.ask("POST", "/public/x").body("order").send().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "upstream_circuit_open"));
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    assert_eq!((upstream.received().len(), state().await.as_str()), (5, "open"));
    let series = "wicketgate_refusals_total{reason=\"upstream_circuit_open\",service=\"weather\"}";
    until("it is counted", || async { gate.metric(series).await == Some(1.0) }).await;

    // A probe that fails opens it again.
    until("one is let through", || async { gate.get("/public/x").send().await.code().is_empty() }).await;
    assert_eq!((upstream.received().len(), state().await.as_str()), (6, "open"));

    well.store(true, Ordering::SeqCst);
    until("one is let through", || async { gate.get("/public/x").send().await.status == 200 }).await;
    assert_eq!(state().await, "half_open");
    assert_eq!(gate.metric("wicketgate_upstream_circuit_breaker_state{service=\"weather\",state=\"half_open\"}").await, Some(1.0));
    assert_eq!(gate.get("/public/x").send().await.status, 200);
    assert_eq!(state().await, "closed");
    for change in ["open", "half_open", "closed"] {
        let series = format!("wicketgate_upstream_circuit_breaker_changes_total{{service=\"weather\",state=\"{change}\"}}");
        assert!(gate.metric(&series).await >= Some(1.0), "{change}");
    }
}
