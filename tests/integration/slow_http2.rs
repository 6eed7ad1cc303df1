//! Over HTTP/2 a client can keep single answers waiting by giving them no room (RFC 9113 §5.2). It costs the gate a bounded
//! time all the same (§10.5), and the other streams of the connection nothing.

use std::path::Path;
use std::time::Duration;

use h2::Reason;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::UnixStream;

use super::support::*;

/// As in the tests over HTTP/1.1: short enough for a test, and far from the default ones.
const SHORT: &str = "timeouts: { header: 300ms, idle: 400ms, body: 300ms }";
const SOON: Duration = Duration::from_secs(6);

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://gate{path}")).body(()).unwrap()
}

/// The next call's request is read and answered with a head that promises this many bytes of a body.
async fn promise(calls: &mut Calls, bytes: usize) -> Connection {
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes()).await;
    call
}

async fn in_flight(gate: &Gate, count: f64) {
    until("the count of requests in flight", || async { gate.metric("wicketgate_requests_in_flight").await == Some(count) }).await;
}

/// RFC 9113 §10.5.
#[tokio::test]
async fn a_stream_of_which_nothing_is_taken_is_reset_and_its_neighbour_goes_on() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;
    let mut client = Http2::with_room(gate.address(), 16 << 10).await;
    let neighbour = client.begin(get("/public/neighbour"), true).await;
    let mut neighbours_call = promise(&mut calls, 6).await;
    neighbours_call.write(b"one").await;
    let stalled = client.begin(get("/public/stalled"), true).await;
    let mut call = promise(&mut calls, 1_000_000_000).await;

    let piece = vec![b'x'; 1 << 20];
    let broken = async { while call.stream.write_all(&piece).await.is_ok() {} };
    let reset = async { take_nothing_more(stalled.head().await.body_mut()).await };
    let (broken, reset) = tokio::join!(tokio::time::timeout(SOON, broken), tokio::time::timeout(SOON, reset));

    assert!(broken.is_ok(), "the upstream is still held");
    assert_eq!(reset.expect("the stream is still there"), (16 << 10, Some(Reason::CANCEL)));
    in_flight(&gate, 1.0).await;
    let failed = "wicketgate_refusals_total{reason=\"client_gone\",service=\"weather\"}";
    assert_eq!(gate.metric(failed).await, Some(1.0));
    neighbours_call.write(b"two").await;
    let answer = neighbour.answer().await;
    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "onetwo", true));
    in_flight(&gate, 0.0).await;
    // Nothing of the stalled stream is open, or the connection would count as one in use.
    client.closed().await;
}

/// Whoever is refused holds no more of the gate than whoever is let in.
#[tokio::test]
async fn a_refusal_that_nobody_takes_is_reset_too() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;
    let mut client = Http2::with_room(gate.address(), 0).await;

    let mut refused = client.begin(get("/me"), true).await.head().await;
    let reset = tokio::time::timeout(SOON, take_nothing_more(refused.body_mut())).await;

    assert_eq!(refused.status(), 401);
    assert_eq!(reset.expect("the stream is still there"), (0, Some(Reason::CANCEL)));
    in_flight(&gate, 0.0).await;
    client.closed().await;
}

/// A window of one byte has hyper hand over the whole of a short answer, and no stream's task is left to watch it.
#[tokio::test]
async fn a_connection_on_which_only_the_end_of_an_answer_is_left_is_closed() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SHORT).start().await;
    let mut client = Http2::with_room(gate.address(), 1).await;

    let mut refused = client.begin(get("/me"), true).await.head().await;
    let left = tokio::time::timeout(SOON, take_nothing_more(refused.body_mut())).await;

    assert_eq!(left.expect("the connection is still there"), (1, None));
    client.closed().await;
    until("no connection is counted", || async { gate.metric("wicketgate_connections_open").await == Some(0.0) }).await;
    let timeouts = "wicketgate_connection_errors_total{reason=\"timeout\"}";
    assert_eq!(gate.metric(timeouts).await, Some(1.0));
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_left_alone() {
    const BODY_BYTES: usize = 128 << 10;
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings("timeouts: { header: 300ms, idle: 400ms, body: 1s }").start().await;
    let mut client = Http2::with_room(gate.address(), 16 << 10).await;
    let exchange = client.begin(get("/public/large"), true).await;
    let mut call = promise(&mut calls, BODY_BYTES).await;
    call.write(&vec![b'x'; BODY_BYTES]).await;
    let mut body = exchange.head().await.into_body();

    // The pace of the client is what is tested: 40 KiB a second, and so more than three seconds altogether.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let (mut bytes, mut taken) = (0, 0);
    while bytes < BODY_BYTES {
        tokio::select! {
            part = body.data() => bytes += part.expect("the answer goes on").expect("the answer goes on").len(),
            _ = pace.tick() => {
                let piece = (bytes - taken).min(4 << 10);
                body.flow_control().release_capacity(piece).unwrap();
                taken += piece;
            }
        }
    }

    assert!(body.is_end_stream());
    in_flight(&gate, 0.0).await;
}

/// A way to the gate on which its bytes come slowly: 5 MiB a second. The buffers of a Unix socket are small.
async fn narrow(socket: &Path) -> DuplexStream {
    let (near, far) = duplex(256 << 10);
    let (mut read, mut write) = UnixStream::connect(socket).await.unwrap().into_split();
    let (mut far_read, mut far_write) = tokio::io::split(far);
    tokio::spawn(async move { tokio::io::copy(&mut far_read, &mut write).await });
    tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        loop {
            pace.tick().await;
            let mut part = (&mut read).take(256 << 10);
            if !matches!(tokio::io::copy(&mut part, &mut far_write).await, Ok(1..)) {
                return far_write.shutdown().await;
            }
        }
    });
    near
}

/// Here too no stream's task is left, but what was handed over goes.
#[tokio::test]
async fn a_connection_on_which_the_ends_of_answers_go_slowly_is_left_alone() {
    const BODY_BYTES: usize = 250 << 10;
    const STREAMS: usize = 40;
    let issuer = issuer().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
    let answer = [head.into_bytes(), vec![b'x'; BODY_BYTES]].concat();
    let upstream = Upstream::answering_each(move |_| answer.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gate.sock");
    let listen = format!("listen: ['127.0.0.1:0', 'unix:{}']", socket.display());
    let gate = gate(&issuer, &upstream).settings(SHORT).settings(&listen).start().await;
    let mut client = Http2::with_room_over(narrow(&socket).await, 1 << 20).await;

    let mut exchanges = Vec::new();
    for _ in 0..STREAMS {
        exchanges.push(client.begin(get("/public/large"), true).await);
    }
    for exchange in exchanges {
        let answer = exchange.answer().await;
        assert!(answer.complete, "{} of {BODY_BYTES} bytes came", answer.body.len());
    }
    in_flight(&gate, 0.0).await;
    client.closed().await;
}
