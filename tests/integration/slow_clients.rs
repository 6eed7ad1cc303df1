//! A client that takes its time costs the gate a bounded time, and no other client anything.

use std::time::Duration;

use http::Request;
use tokio::io::AsyncWriteExt;

use super::support::*;

/// Short enough for a test, and all other than the default ones by more than [`SOON`].
const SHORT: &str = "timeouts: { header: 300ms, idle: 400ms, body: 300ms }";
/// Far above the short timeouts and below the default ones, which start at 10 s.
const SOON: Duration = Duration::from_secs(6);
/// A connection with HTTP/2 that is ready for requests: the preface and empty settings (RFC 9113 §3.4).
const HTTP2_READY: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What comes before the gate closes the connection, which must be soon.
async fn last_words(what: &str, client: &mut Connection) -> String {
    match tokio::time::timeout(SOON, client.rest()).await {
        Ok(rest) => rest,
        Err(_) => panic!("{what}: the connection is open after {SOON:?}"),
    }
}

/// Writes a byte at a time until the gate closes the connection, which must be before the last one.
async fn drip(what: &str, client: &mut Connection, bytes: &[u8]) {
    // The pace of the client is what is tested, so this is one of the few places that wait for a time.
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let mut left = bytes.iter();
    let dripping = async {
        loop {
            tokio::select! {
                closed = client.is_closed() => return closed,
                _ = pace.tick() => match left.next() {
                    Some(byte) => client.write(&[*byte]).await,
                    None => return false,
                },
            }
        }
    };
    let closed = tokio::time::timeout(SOON, dripping).await;
    assert!(closed.unwrap_or(false), "{what}: not closed while {} bytes were left", left.len());
}

/// How many connections ended by this error.
async fn ended(gate: &Gate, reason: &str) -> Option<f64> {
    gate.metric(&format!("wicketgate_connection_errors_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn a_connection_that_says_too_little_is_closed() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;
    let sayings: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("a first byte", b"G"),
        ("half of a head", b"GET /public/a HTTP/1.1\r\nHost: ga"),
        ("half of the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nS"),
        ("HTTP/2 and no request", HTTP2_READY),
        // HEADERS for stream 1 without END_HEADERS: a CONTINUATION never comes.
        ("half of a head of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x82"),
    ];
    let mut clients = Vec::new();
    for (what, bytes) in sayings {
        let mut client = Connection::open(gate.address()).await;
        client.write(bytes).await;
        clients.push((what, client));
    }

    for (what, client) in &mut clients {
        let rest = last_words(what, client).await;
        assert!(!rest.contains("HTTP/1.1 200"), "{what}: {rest}");
    }

    assert_eq!(gate.get("/public/a").send().await.status, 200);
    until("no connection is counted", || async { gate.metric("wicketgate_connections_open").await == Some(0.0) }).await;
    let counted = [ended(&gate, "silent").await, ended(&gate, "timeout").await, ended(&gate, "other").await];
    assert_eq!(counted, [Some(2.0), Some(4.0), None]);
}

#[tokio::test]
async fn a_head_that_drips_is_not_waited_for() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;
    let long = format!("GET /public/a HTTP/1.1\r\nHost: gate\r\nX-Drip: {}", "a".repeat(200));
    let mut first = Connection::open(gate.address()).await;
    let mut second = Connection::open(gate.address()).await;
    let mut preface = Connection::open(gate.address()).await;

    second.write(&gate.get("/public/a").bytes("")).await;
    assert_eq!(second.answer("GET").await.status, 200);
    tokio::join!(
        drip("a first request", &mut first, long.as_bytes()),
        drip("a second request", &mut second, long.as_bytes()),
        drip("a preface", &mut preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    );

    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test]
async fn a_connection_that_is_idle_is_closed_and_one_that_waits_for_its_answer_is_not() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;
    let mut waiting = Connection::open(gate.address()).await;
    waiting.write(&gate.get("/public/slow").bytes("")).await;
    let mut call = calls.next().await;
    let mut waiting_on_http2 = Http2::open(gate.address()).await;
    let exchange = waiting_on_http2.begin(Request::get("http://gate/public/slow").body(()).unwrap(), true).await;
    let mut second_call = calls.next().await;
    let mut idle = Connection::open(gate.address()).await;
    let mut idle_on_http2 = Connection::open(gate.address()).await;
    idle.write(&gate.get("/me").bytes("")).await;
    idle_on_http2.write(HTTP2_READY).await;

    assert_eq!(idle.answer("GET").await.status, 401);
    assert_eq!(last_words("HTTP/1.1", &mut idle).await, "");
    last_words("HTTP/2", &mut idle_on_http2).await;
    for call in [&mut call, &mut second_call] {
        call.read_until("\r\n\r\n").await;
        call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }

    assert_eq!(waiting.answer("GET").await.text(), "ok");
    assert_eq!(exchange.answer().await.text(), "ok");
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;

    for framing in ["Content-Length: 10\r\n\r\n123", "Transfer-Encoding: chunked\r\n\r\n3\r\n123\r\n", "Content-Length: 10\r\n\r\n"] {
        let mut client = Connection::open(gate.address()).await;
        client.write(format!("POST /public/a HTTP/1.1\r\nHost: gate\r\n{framing}").as_bytes()).await;
        let answer = client.answer("POST").await;
        assert_eq!((answer.status, answer.code().as_str()), (408, "body_too_slow"), "{framing}");
        assert_eq!(last_words(framing, &mut client).await, "");
        // The upstream sees that the request broke off.
        last_words(framing, &mut calls.next().await).await;
    }

    let mut client = Http2::open(gate.address()).await;
    let mut exchange = client.begin(Request::post("http://gate/public/a").body(()).unwrap(), false).await;
    exchange.write("123");
    let answer = exchange.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_too_slow"));
}

/// To say gRPC turns no time off: a call is a POST over HTTP/2 to a service that speaks it.
#[tokio::test]
async fn who_says_grpc_to_a_service_that_does_not_speak_it_gets_no_more_time() {
    let (issuer, (upstream, _calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;

    let mut client = Connection::open(gate.address()).await;
    client.write(b"POST /public/a HTTP/1.1\r\nHost: gate\r\nContent-Type: application/grpc\r\nContent-Length: 10\r\n\r\n1").await;
    assert_eq!(client.answer("POST").await.header("grpc-status").as_deref(), Some("4"));

    let mut client = Http2::open(gate.address()).await;
    let call = Request::post("http://gate/public/a").header("content-type", "application/grpc").body(()).unwrap();
    let mut exchange = client.begin(call, false).await;
    exchange.write("1");
    assert_eq!(exchange.answer().await.header("grpc-status").as_deref(), Some("4"));
}

#[tokio::test]
async fn a_body_that_moves_slowly_is_taken() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate =
        gate(&issuer, &upstream).settings("timeouts: { header: 300ms, idle: 400ms, body: 1s }\nlimits: { body_rate: 4B }").start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.ask("POST", "/public/a").header("Content-Length: 15").bytes("")).await;
    // As above, the pace is what is tested: 1.5 s altogether.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..15 {
        pace.tick().await;
        client.write(b"x").await;
    }

    assert_eq!(client.answer("POST").await.status, 200);
    assert_eq!(upstream.only().text(), "x".repeat(15));
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.get("/public/large").bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let piece = vec![b'x'; 1 << 20];
    let broken = async { while call.stream.write_all(&piece).await.is_ok() {} };

    assert!(tokio::time::timeout(SOON, broken).await.is_ok(), "the upstream is still held");
    until("it is counted", || async { ended(&gate, "timeout").await == Some(1.0) }).await;
    drop(client);
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_their_order() {
    let issuer = issuer().await;
    let upstream = Upstream::answering_each(|request| {
        let path = request.line.split(' ').nth(1).unwrap_or_default();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()).into_bytes()
    })
    .await;
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;
    let mut client = Connection::open(gate.address()).await;

    let mut bytes = gate.get("/public/1").bytes("");
    bytes.extend(gate.ask("POST", "/public/2").body("two").bytes(""));
    bytes.extend(gate.get("/me").bytes(""));
    bytes.extend(gate.get("/public/3").bytes("Connection: close"));
    bytes.extend(gate.get("/public/after-close").bytes(""));
    client.write(&bytes).await;

    for (status, text) in [(200, Some("/public/1")), (200, Some("/public/2")), (401, None), (200, Some("/public/3"))] {
        let answer = client.answer("GET").await;
        assert_eq!(answer.status, status);
        assert!(text.is_none_or(|text| text == answer.text()), "{}", answer.text());
    }
    // RFC 9112 §9.6: nothing after `close`.
    assert_eq!(last_words("after close", &mut client).await, "");
    assert_eq!(upstream.received().len(), 3);
}

#[tokio::test]
async fn a_connection_too_many_waits_until_one_closes() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("limits: { connections: 2 }").start().await;
    let ask = gate.get("/public/a").bytes("");
    let mut served = Vec::new();
    for _ in 0..2 {
        let mut client = Connection::open(gate.address()).await;
        client.write(&ask).await;
        assert_eq!(client.answer("GET").await.status, 200);
        served.push(client);
    }
    let mut waiting = Connection::open(gate.address()).await;
    waiting.write(&ask).await;

    for client in &mut served {
        client.write(&ask).await;
        assert_eq!(client.answer("GET").await.status, 200);
    }
    assert!(waiting.is_silent());
    assert_eq!(gate.metric("wicketgate_connections_open").await, Some(2.0));
    served.pop();

    assert_eq!(waiting.answer("GET").await.status, 200);
}
