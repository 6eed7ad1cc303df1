//! More than the gate takes at a time: who comes first is served first, the rest hears so early, and the operator's listener
//! answers throughout.

use std::io::{Read, Write};
use std::sync::Arc;

use http::Request;
use tokio::sync::Semaphore;

use super::support::*;

const QUEUED: &str = "wicketgate_requests_queued";

fn limited(limit: &str) -> String {
    format!("wicketgate_limited_total{{limit=\"{limit}\"}}")
}

async fn queued(gate: &Gate, count: f64) {
    until("the count of requests that wait", || async { gate.metric(QUEUED).await == Some(count) }).await;
}

async fn arrived(upstream: &Upstream, count: usize) {
    until("requests at the service", || async { upstream.received().len() == count }).await;
}

/// A client that has asked and not read its answer yet.
async fn asking(gate: &Gate, target: &str) -> Connection {
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.get(target).bytes("")).await;
    client
}

/// One request is at the service, which answers when told.
async fn one_in_flight(settings: &str) -> (Gate, Upstream, Arc<Semaphore>, Connection) {
    let (issuer, (upstream, answers)) = (issuer().await, Upstream::held().await);
    let gate = gate(&issuer, &upstream).settings(settings).start().await;
    let first = asking(&gate, "/public/first").await;
    arrived(&upstream, 1).await;
    (gate, upstream, answers, first)
}

#[tokio::test]
async fn a_request_too_many_waits_and_one_for_which_there_is_no_room_to_wait_is_refused_at_once() {
    let (gate, upstream, answers, mut first) = one_in_flight("limits: { requests: 1, request_queue: 1 }\ntimeouts: { queue: 20s }").await;
    let mut second = asking(&gate, "/public/second").await;
    queued(&gate, 1.0).await;

    // Before its token is looked at, which would be a 401, and whether it is known or not, which would be a 404.
    for target in ["/me", "/public/third", "/nowhere"] {
        let refused = gate.get(target).token("nonsense").send().await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"), "{target}");
        assert_eq!(refused.header("retry-after").as_deref(), Some("1"), "{target}");
    }
    let mut over_http2 = Http2::open(gate.address()).await;
    let refused = over_http2.send(Request::get("http://gate/public/a").body(()).unwrap()).await;
    assert_eq!((refused.status, refused.header("retry-after").as_deref()), (503, Some("1")));
    let grpc = gate.ask("POST", "/public/grpc").header("Content-Type: application/grpc").send().await;
    assert_eq!((grpc.status, grpc.header("grpc-status").as_deref()), (200, Some("14")));

    answers.add_permits(1);
    assert_eq!(first.answer("GET").await.status, 200);
    arrived(&upstream, 2).await;
    answers.add_permits(1);
    assert_eq!(second.answer("GET").await.status, 200);
    assert_eq!((gate.metric(&limited("requests")).await, gate.metric(QUEUED).await), (Some(5.0), Some(0.0)));
}

#[tokio::test]
async fn a_page_reads_that_there_was_no_place_for_its_request() {
    let (issuer, (upstream, answers)) = (issuer().await, Upstream::held().await);
    let cors = "    cors: { origins: [https://app.example] }";
    let builder = gate(&issuer, &upstream).in_service(cors).settings("limits: { requests: 1, request_queue: 0 }");
    let gate = builder.start().await;
    let mut first = asking(&gate, "/public/first").await;
    arrived(&upstream, 1).await;
    let from = |origin: &str, method: &str, target: &str| gate.ask(method, target).header(&format!("Origin: {origin}"));

    for (target, origin, read_by) in [
        ("/forecast/oslo", "https://app.example", Some("https://app.example")),
        ("/nowhere", "https://app.example", Some("https://app.example")),
        ("/forecast/oslo", "https://evil.example", None),
    ] {
        let refused = from(origin, "GET", target).send().await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"), "{target}");
        assert_eq!(refused.header("access-control-allow-origin").as_deref(), read_by, "{target} {origin}");
        assert_eq!(refused.header("vary").as_deref(), Some("Origin"));
    }
    // The browser asks before, and must be told that it may, or the page reads nothing.
    let preflight = from("https://app.example", "OPTIONS", "/forecast/oslo").header("Access-Control-Request-Method: GET").send().await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods").as_deref()), (204, Some("GET, HEAD")));
    let nowhere = from("https://app.example", "OPTIONS", "/nowhere").header("Access-Control-Request-Method: GET").send().await;
    assert_eq!(nowhere.status, 503);

    answers.add_permits(1);
    assert_eq!(first.answer("GET").await.status, 200);
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test]
async fn who_has_waited_long_enough_is_told_so() {
    let (gate, upstream, answers, mut first) = one_in_flight("limits: { requests: 1 }\ntimeouts: { queue: 100ms }").await;

    let refused = gate.get("/public/second").send().await;

    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    assert_eq!(gate.metric(&limited("queue")).await, Some(1.0));
    answers.add_permits(1);
    assert_eq!(first.answer("GET").await.status, 200);
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test]
async fn who_leaves_while_waiting_leaves_the_queue() {
    let (gate, upstream, answers, mut first) = one_in_flight("limits: { requests: 1, request_queue: 2 }\ntimeouts: { queue: 20s }").await;
    let gone = asking(&gate, "/public/gone").await;
    let mut over_http2 = Http2::open(gate.address()).await;
    let reset = over_http2.begin(Request::get("http://gate/public/reset").body(()).unwrap(), true).await;
    queued(&gate, 2.0).await;

    drop((gone, reset));
    queued(&gate, 0.0).await;
    let mut third = asking(&gate, "/public/third").await;
    queued(&gate, 1.0).await;
    answers.add_permits(2);

    assert_eq!(first.answer("GET").await.status, 200);
    assert_eq!(third.answer("GET").await.status, 200);
    let lines: Vec<String> = upstream.received().into_iter().map(|request| request.line).collect();
    assert_eq!(lines, ["GET /public/first HTTP/1.1", "GET /public/third HTTP/1.1"]);
}

#[tokio::test]
async fn a_reload_changes_the_number_of_places_and_loses_no_request() {
    let (issuer, (upstream, answers)) = (issuer().await, Upstream::held().await);
    let with = |settings: &str| gate(&issuer, &upstream).settings(settings);
    let mut gate = with("limits: { requests: 1 }\ntimeouts: { queue: 20s }").start().await;
    let mut clients = Vec::new();
    for number in 0..4 {
        clients.push(asking(&gate, &format!("/public/{number}")).await);
    }
    queued(&gate, 3.0).await;

    gate.rewrite(&with("limits: { requests: 3 }\ntimeouts: { queue: 20s }").yaml()).await;
    arrived(&upstream, 3).await;
    gate.rewrite(&with("limits: { requests: 2, request_queue: 0 }\ntimeouts: { queue: 20s }").yaml()).await;
    assert_eq!(gate.get("/public/too-many").send().await.status, 503);
    answers.add_permits(4);

    for client in &mut clients {
        assert_eq!(client.answer("GET").await.status, 200);
    }
    // Two places, neither more nor fewer: both are taken, and there is no third.
    let again = [asking(&gate, "/public/a").await, asking(&gate, "/public/b").await];
    arrived(&upstream, 6).await;
    assert_eq!(gate.get("/public/c").send().await.status, 503);
    answers.add_permits(2);
    for mut client in again {
        assert_eq!(client.answer("GET").await.status, 200);
    }
}

/// The next call's request is answered with the head of a stream of events.
async fn begin_events(calls: &mut Calls) -> Connection {
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    call
}

#[tokio::test]
async fn a_stream_leaves_the_place_of_its_request_to_others_as_long_as_there_are_places_for_streams() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings("limits: { requests: 1, request_queue: 0, tunnels: 1 }").start().await;

    let mut first = asking(&gate, "/public/events").await;
    let first_call = begin_events(&mut calls).await;
    first.read_until("\r\n\r\n").await;
    assert_eq!(gate.metric("wicketgate_tunnels_open").await, Some(1.0));
    let mut second = asking(&gate, "/public/events").await;
    let second_call = begin_events(&mut calls).await;
    second.read_until("\r\n\r\n").await;

    // The second found no place among streams, and is not cut for it: it keeps that of its request.
    assert_eq!(gate.metric(&limited("tunnels")).await, Some(1.0));
    assert_eq!(gate.get("/public/a").send().await.code(), "overloaded");
    drop(second);
    until("the second has given its place back", || async { gate.get("/me").send().await.status == 401 }).await;
    drop((first, first_call, second_call));
    until("the first has, too", || async { gate.metric("wicketgate_tunnels_open").await == Some(0.0) }).await;
}

#[tokio::test]
async fn a_websocket_without_a_place_is_refused_before_the_service_is_asked() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("limits: { tunnels: 0 }").start().await;
    let ask = gate.get("/ws").token(&token(&issuer, "read:weather")).header("Upgrade: websocket");

    let mut client = Connection::open(gate.address()).await;
    client.write(&ask.bytes("Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")).await;
    let refused = client.answer("GET").await;

    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    assert!(upstream.received().is_empty());
    assert_eq!(gate.metric(&limited("tunnels")).await, Some(1.0));
}

/// The one thread on which this gate serves its clients waits here for the answer, and does nothing else.
#[tokio::test]
async fn the_operators_listener_answers_while_no_thread_is_left_for_clients() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let ask = |target: &str| {
        let mut stream = std::net::TcpStream::connect(gate.app.admin_address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };

    for (target, says) in [("/livez", "ok"), ("/readyz", "ready"), ("/metrics", "wicketgate_limited_total"), ("/status", "config_hash")] {
        let answer = ask(target);
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(says), "{target}: {answer}");
    }
}
