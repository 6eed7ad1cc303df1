//! Limits of bodies and of connections: each says so, is counted, costs nobody else anything, and changes with a reload.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::Request;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio::time::interval;

use super::support::*;

const SOON: Duration = Duration::from_secs(8);

async fn counted(gate: &Gate, limit: &str) -> Option<f64> {
    gate.metric(&format!("wicketgate_limited_total{{limit=\"{limit}\"}}")).await
}

#[tokio::test]
async fn a_body_is_as_long_as_its_route_allows_and_no_longer() {
    const ROUTES: &str = "
      POST /public/a: public
      POST /public/more: { access: public, body_bytes: 12B }
      POST /public/none: { access: public, body_bytes: 0B }";
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let with = |limits: &str| gate(&issuer, &upstream).routes(ROUTES).in_service("    body_bytes: 6B").settings(limits);
    let mut gate = with("limits: { body_bytes: 2B }").start().await;

    for (target, fits) in [("/public/a", 6), ("/public/more", 12), ("/public/none", 0)] {
        let ask = |length: usize| gate.ask("POST", target).body(&"x".repeat(length));
        assert_eq!(ask(fits).send().await.status, 200, "{target}");
        let refused = ask(fits + 1).send().await;
        assert_eq!((refused.status, refused.code().as_str()), (413, "body_too_large"), "{target}");
    }
    // What was too long by its own word never left; the next request on a connection counts by what is in force then.
    assert_eq!(upstream.received().len(), 3);
    assert_eq!(counted(&gate, "body_bytes").await, Some(3.0));
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.ask("POST", "/public/more").body("123456789").bytes("")).await;
    assert_eq!(client.answer("POST").await.status, 200);
    let yaml = with("limits: { body_bytes: 2B }").yaml().replace("12B", "8B");
    gate.rewrite(&yaml).await;
    client.write(&gate.ask("POST", "/public/more").body("123456789").bytes("")).await;
    assert_eq!(client.answer("POST").await.status, 413);
}

#[tokio::test]
async fn a_body_that_grows_too_long_breaks_off_at_the_service_as_well() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let routes = "\n      POST /public/a: { access: public, body_bytes: 8B }";
    let gate = gate(&issuer, &upstream).routes(routes).start().await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.ask("POST", "/public/a").bytes("Transfer-Encoding: chunked")).await;

    client.write(b"5\r\n01234\r\n").await;
    let mut call = calls.next().await;
    call.read_until("01234").await;
    client.write(b"4\r\n5678\r\n0\r\n\r\n").await;

    assert_eq!(client.answer("POST").await.code(), "body_too_large");
    assert!(!call.rest().await.contains("0\r\n\r\n"), "the service took a part for the whole");

    let mut over_http2 = Http2::open(gate.address()).await;
    let mut exchange = over_http2.begin(Request::post("http://gate/public/a").body(()).unwrap(), false).await;
    exchange.write("012345678");
    assert_eq!(exchange.answer().await.code(), "body_too_large");
    assert_eq!(counted(&gate, "body_bytes").await, Some(2.0));
}

/// Windows of half a second, and far more than is ever dripped below.
const RATE: &str = "timeouts: { body: 500ms }\nlimits: { body_rate: 1000B }";

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings(RATE).start().await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.ask("POST", "/public/a").bytes("Content-Length: 1000000")).await;

    // The pace of the client is what is tested: 200 bytes a second, and never a pause that would be too long.
    let mut pace = interval(Duration::from_millis(50));
    let dripping = async {
        for _ in 0..200 {
            pace.tick().await;
            if client.stream.try_write(&[b'x'; 10]).is_err() || !client.is_silent() {
                return;
            }
        }
        panic!("not given up");
    };
    dripping.await;
    let answer = client.answer("POST").await;

    assert_eq!((answer.status, answer.code().as_str()), (408, "body_trickles"));
    assert_eq!((counted(&gate, "body_rate").await, counted(&gate, "body").await), (Some(1.0), Some(0.0)));
    let broken = tokio::time::timeout(SOON, async { calls.next().await.rest().await }).await;
    assert!(broken.is_ok(), "the service still waits");
}

/// A body that is one side of a conversation may be silent for as long as `timeouts.body` allows, and trickle.
#[tokio::test]
async fn a_body_may_trickle_once_its_answer_has_begun() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings(RATE).start().await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.ask("POST", "/public/a").bytes("Content-Length: 30")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
    client.read_until("\r\n\r\n").await;

    // The pace is what is tested: three windows.
    let mut pace = interval(Duration::from_millis(50));
    for _ in 0..30 {
        pace.tick().await;
        client.write(b"x").await;
    }

    call.read_until(&"x".repeat(30)).await;
    call.write(b"k").await;
    client.read_until("ok").await;
    assert_eq!(counted(&gate, "body_rate").await, Some(0.0));
}

#[tokio::test]
async fn a_client_that_takes_too_little_of_its_answer_is_given_up_and_one_whose_service_is_silent_is_not() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    // As much as no client below takes, so that it does not hang on how the kernel fills its buffers.
    let gate = gate(&issuer, &upstream).settings("timeouts: { body: 1s }\nlimits: { body_rate: 1GiB }").start().await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    let mut patient = Connection::open(gate.address()).await;
    patient.write(&gate.get("/public/slow").bytes("")).await;
    let mut slow_call = calls.next().await;
    slow_call.read_until("\r\n\r\n").await;
    slow_call.write(head).await;
    let mut greedy = Connection::open(gate.address()).await;
    greedy.write(&gate.get("/public/large").bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(head).await;

    let piece = vec![b'x'; 1 << 20];
    let send = async { while tokio::io::AsyncWriteExt::write_all(&mut call.stream, &piece).await.is_ok() {} };
    // The pace is what is tested: some megabytes a second, so that it is never for long that nothing is taken.
    let mut pace = interval(Duration::from_millis(10));
    let take = async {
        let mut part = vec![0; 64 << 10];
        loop {
            pace.tick().await;
            if !matches!(greedy.stream.read(&mut part).await, Ok(1..)) {
                return;
            }
        }
    };
    let cut = async { tokio::join!(send, take) };
    assert!(tokio::time::timeout(PATIENCE, cut).await.is_ok(), "the client is still served");

    assert_eq!((counted(&gate, "body_rate").await, counted(&gate, "body").await), (Some(1.0), Some(0.0)));
    slow_call.write(b"late, but there").await;
    patient.read_until("late, but there").await;
}

/// A connection from another address of this machine.
async fn from(address: [u8; 4], to: SocketAddr) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::from(address), 0))).unwrap();
    Connection::over(soon("connecting", socket.connect(to)).await.unwrap())
}

async fn is_served(gate: &Gate, client: &mut Connection) -> bool {
    client.write(&gate.get("/public/a").bytes("")).await;
    tokio::select! {
        answer = client.answer("GET") => answer.status == 200,
    }
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_others_have_theirs() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let with = |settings: &str| gate(&issuer, &upstream).settings(settings);
    let mut gate = with("limits: { connections_per_address: 2 }").start().await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = from([127, 0, 0, 2], gate.address()).await;
        assert!(is_served(&gate, &mut client).await);
        kept.push(client);
    }

    assert!(from([127, 0, 0, 2], gate.address()).await.is_closed().await);
    assert_eq!(counted(&gate, "connections_per_address").await, Some(1.0));
    let mut other = from([127, 0, 0, 3], gate.address()).await;
    assert!(is_served(&gate, &mut other).await);
    kept.pop();
    until("its place is free", || async { gate.metric("wicketgate_connections_open").await == Some(2.0) }).await;
    let mut next = from([127, 0, 0, 2], gate.address()).await;
    assert!(is_served(&gate, &mut next).await);

    // Open connections count under a limit that is set later, and stay.
    gate.rewrite(&with("limits: { connections_per_address: 1 }").yaml()).await;
    assert!(from([127, 0, 0, 2], gate.address()).await.is_closed().await);
    assert!(is_served(&gate, &mut next).await && is_served(&gate, &mut kept[0]).await);
    gate.rewrite(&with("limits: { connections_per_address: 1 }\ntrusted_proxies: [127.0.0.2]").yaml()).await;
    let mut proxy = from([127, 0, 0, 2], gate.address()).await;
    assert!(is_served(&gate, &mut proxy).await);
}

#[tokio::test]
async fn a_connection_carries_so_many_requests_and_the_last_answer_says_so() {
    let (issuer, (upstream, answers)) = (issuer().await, Upstream::held().await);
    let gate = gate(&issuer, &upstream).settings("limits: { connection_requests: 2 }").start().await;
    answers.add_permits(3);
    let mut client = Connection::open(gate.address()).await;
    for closes in [None, Some("close".to_owned())] {
        client.write(&gate.get("/public/a").bytes("")).await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.header("connection")), (200, closes));
    }
    assert!(client.is_closed().await);

    // Over HTTP/2 what was begun is finished.
    let mut over_http2 = Http2::open(gate.address()).await;
    let get = || Request::get("http://gate/public/a").body(()).unwrap();
    assert_eq!(over_http2.send(get()).await.status, 200);
    let last = over_http2.begin(get(), true).await;
    until("it has arrived", || async { upstream.received().len() == 4 }).await;
    answers.add_permits(1);
    assert_eq!(last.answer().await.status, 200);
    over_http2.closed().await;
    assert_eq!(counted(&gate, "connection_requests").await, Some(2.0));
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_is_closed_and_counted() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("timeouts: { idle: 400ms }").start().await;
    // One that rests after its request, one that does not because of its request's body, and one over HTTP/2.
    let mut rests = Connection::open(gate.address()).await;
    rests.write(&gate.get("/public/a").bytes("")).await;
    let mut stays = Connection::open(gate.address()).await;
    stays.write(&gate.ask("POST", "/public/a").body("x").bytes("")).await;
    let mut over_http2 = Http2::open(gate.address()).await;
    assert_eq!(over_http2.send(Request::get("http://gate/public/a").body(()).unwrap()).await.status, 200);
    assert_eq!((rests.answer("GET").await.status, stays.answer("POST").await.status), (200, 200));

    assert!(rests.is_closed().await && stays.is_closed().await);
    over_http2.closed().await;
    until("all are counted", || async { counted(&gate, "idle").await == Some(3.0) }).await;
}

#[tokio::test]
async fn a_connection_that_carries_as_many_requests_as_it_may_is_counted() {
    let (issuer, (upstream, answers)) = (issuer().await, Upstream::held().await);
    let gate = gate(&issuer, &upstream).settings("limits: { streams: 2 }").start().await;
    let mut client = Http2::open(gate.address()).await;
    let ask = || Request::get("http://gate/public/a").body(()).unwrap();

    let first = client.begin(ask(), true).await;
    until("one is at the service", || async { upstream.received().len() == 1 }).await;
    assert_eq!(counted(&gate, "streams").await, Some(0.0));
    let second = client.begin(ask(), true).await;
    until("the other, too", || async { upstream.received().len() == 2 }).await;

    assert_eq!(counted(&gate, "streams").await, Some(1.0));
    answers.add_permits(2);
    assert_eq!((first.answer().await.status, second.answer().await.status), (200, 200));
}

#[tokio::test]
async fn an_old_connection_is_closed_in_good_order() {
    let (issuer, (upstream, answers)) = (issuer().await, Upstream::held().await);
    let gate = gate(&issuer, &upstream).settings("timeouts: { connection_age: 1s }").start().await;
    let mut client = Connection::open(gate.address()).await;
    let mut over_http2 = Http2::open(gate.address()).await;
    let open = over_http2.begin(Request::get("http://gate/public/a").body(()).unwrap(), true).await;

    until("HTTP/2 is told to go", || async { counted(&gate, "connection_age").await == Some(1.0) }).await;
    // The age is what is tested: that of the connection over HTTP/1.1, give or take a tenth, is reached by now or soon.
    tokio::time::sleep(Duration::from_millis(300)).await;
    answers.add_permits(2);
    client.write(&gate.get("/public/a").bytes("")).await;
    let answer = client.answer("GET").await;

    assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
    assert!(client.is_closed().await);
    assert_eq!(open.answer().await.status, 200);
    over_http2.closed().await;
    assert_eq!(counted(&gate, "connection_age").await, Some(2.0));
}
