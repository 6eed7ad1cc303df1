//! Connections to endpoints: as many as may be, waited for, kept, renewed, and shared out over several endpoints.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixListener};

use super::support::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ROUTES: &str = "\n      /u/**: public";

/// A gate with a service `u` whose upstream is written so.
async fn gate_to(upstream: &str) -> (Gate, Upstream) {
    let (issuer, other) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &other).service("u", "https://u.example/u", upstream, ROUTES).in_service("    path: /u");
    (gate.start().await, other)
}

/// Begins a request whose answer is read later.
async fn begin(gate: &Gate) -> Connection {
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.get("/u/a").bytes("")).await;
    client
}

fn series(name: &str, endpoint: &str) -> String {
    format!("wicketgate_{name}{{endpoint=\"{endpoint}\",service=\"u\"}}")
}

#[tokio::test]
async fn a_service_may_be_behind_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heads = Vec::new();
        for _ in 0..2 {
            let mut buffer = vec![0; 4096];
            let count = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.unwrap();
            heads.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
            stream.write_all(OK).await.unwrap();
        }
        heads
    });
    let (gate, _other) = gate_to(&format!("'unix:{}'", path.display())).await;

    for _ in 0..2 {
        assert_eq!(gate.get("/u/a?b=c").send().await.text(), "ok");
    }

    for head in soon("the requests", served).await.unwrap() {
        assert!(head.starts_with("GET /u/a?b=c HTTP/1.1\r\n"), "{head}");
        assert!(head.to_lowercase().contains(&format!("\r\nhost: {}\r\n", gate.address())), "{head}");
    }
    let idle = series("upstream_connections_idle", &format!("unix:{}", path.display()));
    assert!(gate.metric(&idle).await.is_some());
}

#[tokio::test]
async fn endpoints_get_their_shares() {
    let (one, three) = (Upstream::friendly().await, Upstream::friendly().await);
    let (gate, _other) = gate_to(&format!("{{ endpoints: ['{}', {{ url: '{}', weight: 3 }}] }}", one.url(), three.url())).await;

    for _ in 0..40 {
        assert_eq!(gate.get("/u/a").send().await.status, 200);
    }

    assert_eq!((one.received().len(), three.received().len()), (10, 30));
}

#[tokio::test]
async fn an_endpoint_that_is_down_costs_no_request() {
    let up = Upstream::friendly().await;
    let down = TcpListener::bind(loopback()).await.unwrap().local_addr().unwrap();
    let (gate, _other) = gate_to(&format!("{{ endpoints: ['http://{down}', '{}'] }}", up.url())).await;

    for _ in 0..10 {
        assert_eq!(gate.ask("POST", "/u/a").body("body").send().await.status, 200);
    }

    assert_eq!(up.received().len(), 10);
    let failed = format!("wicketgate_upstream_connects_total{{endpoint=\"{down}\",result=\"refused\",service=\"u\"}}");
    assert!(gate.metric(&failed).await.unwrap() <= 10.0, "one connection at most is tried for each request");
}

#[tokio::test]
async fn beyond_its_connections_requests_wait_and_beyond_those_that_may_wait_they_are_refused() {
    let (held, permits) = Upstream::held().await;
    let (gate, other) = gate_to(&format!("{{ url: '{}', connections: 1, pending: 1 }}", held.url())).await;
    let endpoint = held.address().to_string();

    let mut first = begin(&gate).await;
    until("the first is there", || async { held.received().len() == 1 }).await;
    let mut second = begin(&gate).await;
    let pending = series("upstream_requests_pending", &endpoint);
    until("the second waits", || async { gate.metric(&pending).await == Some(1.0) }).await;
    let third = gate.get("/u/a").send().await;

    assert_eq!((third.status, third.code().as_str()), (503, "upstream_overloaded"));
    assert_eq!(third.header("retry-after").as_deref(), Some("1"));
    assert_eq!(gate.metric(&series("upstream_overloaded_total", &endpoint)).await, Some(1.0));
    assert_eq!(gate.metric("wicketgate_refusals_total{reason=\"upstream_overloaded\",service=\"u\"}").await, Some(1.0));
    // The other service is not concerned.
    assert_eq!(gate.get("/public/a").send().await.status, 200);
    assert_eq!(other.received().len(), 1);
    permits.add_permits(2);
    assert_eq!(first.answer("GET").await.status, 200);
    assert_eq!(second.answer("GET").await.status, 200);
    assert_eq!((held.received().len(), held.connections()), (2, 1));
}

#[tokio::test]
async fn a_request_that_waited_too_long_for_a_connection_is_refused() {
    let (held, permits) = Upstream::held().await;
    let (gate, _other) = gate_to(&format!("{{ url: '{}', connections: 1, timeouts: {{ connect: 100ms }} }}", held.url())).await;
    let mut first = begin(&gate).await;
    until("the first is there", || async { held.received().len() == 1 }).await;

    let second = gate.get("/u/a").send().await;

    assert_eq!((second.status, second.code().as_str()), (503, "upstream_overloaded"));
    permits.add_permits(1);
    assert_eq!(first.answer("GET").await.status, 200);
    assert_eq!(held.received().len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_makes_room_for_the_next() {
    let (held, permits) = Upstream::held().await;
    let (gate, _other) = gate_to(&format!("{{ url: '{}', connections: 1, pending: 1 }}", held.url())).await;
    let first = begin(&gate).await;
    until("the first is there", || async { held.received().len() == 1 }).await;
    let waiting = begin(&gate).await;
    let pending = series("upstream_requests_pending", &held.address().to_string());
    until("the second waits", || async { gate.metric(&pending).await == Some(1.0) }).await;

    drop(waiting);
    until("it has left", || async { gate.metric(&pending).await == Some(0.0) }).await;
    let mut next = begin(&gate).await;
    drop(first);
    until("the next is there", || async { held.received().len() == 2 }).await;
    permits.add_permits(2);

    assert_eq!(next.answer("GET").await.status, 200);
    assert_eq!(held.received().len(), 2, "the one that left was never sent");
}

#[tokio::test]
async fn a_tunnel_is_one_of_the_connections() {
    let (upstream, mut calls) = Upstream::manual().await;
    let (gate, _other) = gate_to(&format!("{{ url: '{}', connections: 1, pending: 0 }}", upstream.url())).await;
    let mut client = Connection::open(gate.address()).await;
    let ask = gate.get("/u/ws").header("Connection: Upgrade\r\nUpgrade: websocket");
    client.write(&ask.header("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 101);

    assert_eq!(gate.get("/u/a").send().await.code(), "upstream_overloaded");

    drop((client, call));
    let open = series("upstream_connections", &upstream.address().to_string());
    until("the tunnel has ended", || async { gate.metric(&open).await == Some(0.0) }).await;
    let mut next = begin(&gate).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(OK).await;
    assert_eq!(next.answer("GET").await.status, 200);
}

#[tokio::test]
async fn idle_connections_are_used_again_and_closed_when_nobody_wants_them() {
    let (upstream, mut calls) = Upstream::manual().await;
    let (gate, _other) = gate_to(&format!("{{ url: '{}', idle: 300ms }}", upstream.url())).await;
    let mut client = begin(&gate).await;
    let mut call = calls.next().await;
    for _ in 0..3 {
        call.read_until("\r\n\r\n").await;
        call.write(OK).await;
        assert_eq!(client.answer("GET").await.status, 200);
        client.write(&gate.get("/u/a").bytes("")).await;
    }
    call.read_until("\r\n\r\n").await;
    call.write(OK).await;
    assert_eq!(client.answer("GET").await.status, 200);

    assert_eq!(call.rest().await, "", "closed by the gate");
    assert!(calls.is_empty());
    let open = series("upstream_connections", &upstream.address().to_string());
    until("nothing is open", || async { gate.metric(&open).await == Some(0.0) }).await;
}

#[tokio::test]
async fn warm_connections_are_there_before_the_first_request_and_are_renewed() {
    let upstream = Upstream::friendly().await;
    let (gate, _other) = gate_to(&format!("{{ url: '{}', warm: 2, idle: 500ms }}", upstream.url())).await;
    let idle = series("upstream_connections_idle", &upstream.address().to_string());
    until("two are open", || async { gate.metric(&idle).await == Some(2.0) }).await;
    let before = upstream.connections();

    assert_eq!(gate.get("/u/a").send().await.status, 200);

    assert_eq!((before, upstream.connections()), (2, 2));
    until("they are renewed", || async { upstream.connections() >= 4 }).await;
    until("two are open again", || async { gate.metric(&idle).await == Some(2.0) }).await;
}

#[tokio::test]
async fn a_reload_keeps_the_connections_of_endpoints_that_stay_and_lets_the_others_finish() {
    let (stays, goes) = (Upstream::held().await, Upstream::held().await);
    let (issuer, other) = (issuer().await, Upstream::friendly().await);
    let with = |upstream: &str| {
        let gate = gate(&issuer, &other).service("u", "https://u.example/u", upstream, ROUTES);
        gate.in_service("    path: /u")
    };
    let mut gate = with(&format!("{{ endpoints: ['{}', '{}'] }}", stays.0.url(), goes.0.url())).start().await;
    stays.1.add_permits(1);
    let mut first = begin(&gate).await;
    let mut second = begin(&gate).await;
    until("each has one", || async { stays.0.received().len() == 1 && goes.0.received().len() == 1 }).await;
    let gone = series("upstream_connections", &goes.0.address().to_string());
    assert_eq!(gate.metric(&gone).await, Some(1.0));

    gate.rewrite(&with(&format!("{{ url: '{}', connections: 7, timeouts: {{ total: 1h }} }}", stays.0.url())).yaml()).await;
    stays.1.add_permits(3);
    for _ in 0..3 {
        assert_eq!(gate.get("/u/a").send().await.status, 200);
    }

    assert_eq!((stays.0.received().len(), stays.0.connections()), (4, 1));
    assert_eq!(gate.metric(&gone).await, None);
    goes.1.add_permits(1);
    for client in [&mut first, &mut second] {
        assert_eq!(client.answer("GET").await.status, 200);
    }
    assert_eq!(goes.0.received().len(), 1);
}

#[tokio::test]
async fn an_answer_may_be_late_as_a_whole_or_stop_in_the_middle() {
    let (upstream, mut calls) = Upstream::manual().await;
    let (gate, _other) = gate_to(&format!("{{ url: '{}', timeouts: {{ total: 400ms, idle: 10s }} }}", upstream.url())).await;

    let mut early = begin(&gate).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    let answer = early.answer("GET").await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_slow"));
    assert_eq!(call.rest().await, "", "the service is told");

    let mut late = begin(&gate).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let answer = late.answer("GET").await;
    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "half", false));
    assert_eq!(call.rest().await, "", "the service is told");
    let slow = "wicketgate_refusals_total{reason=\"upstream_slow\",service=\"u\"}";
    until("both are counted", || async { gate.metric(slow).await == Some(2.0) }).await;
}

#[tokio::test]
async fn an_answer_of_which_nothing_comes_for_too_long_breaks_off() {
    let (upstream, mut calls) = Upstream::manual().await;
    let (gate, _other) = gate_to(&format!("{{ url: '{}', timeouts: {{ idle: 300ms }} }}", upstream.url())).await;
    let mut client = begin(&gate).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await;

    // Each piece is in time, all of them together are not.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..6 {
        pace.tick().await;
        call.write(b"x").await;
    }
    let answer = client.answer("GET").await;

    assert_eq!((answer.text().as_str(), answer.complete), ("xxxxxx", false));
    assert_eq!(call.rest().await, "");
}

/// An upload goes on for as long as it moves, but not beyond the end of it all.
#[tokio::test]
async fn the_time_for_all_also_ends_an_upload_that_moves() {
    let upstream = Upstream::friendly().await;
    let (gate, _other) = gate_to(&format!("{{ url: '{}', timeouts: {{ total: 400ms }} }}", upstream.url())).await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.ask("POST", "/u/a").header("Content-Length: 1000").bytes("")).await;
    let mut answered = Box::pin(client.read_until("\r\n\r\n"));

    let head = soon("an answer", answered.as_mut()).await;

    assert!(head.starts_with("HTTP/1.1 504"), "{head}");
}

#[tokio::test]
async fn many_requests_over_few_connections_all_get_their_own_answers() {
    let upstream = Upstream::answering_each(|request| {
        let path = request.line.split(' ').nth(1).unwrap_or_default();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()).into_bytes()
    });
    let upstream = upstream.await;
    let (gate, _other) = gate_to(&format!("{{ url: '{}', connections: 3, pending: 1000 }}", upstream.url())).await;
    let gate = Arc::new(gate);

    let asks = (0..300).map(|i| {
        let gate = gate.clone();
        async move {
            let path = format!("/u/{i}");
            assert_eq!(gate.get(&path).send().await.text(), path);
        }
    });
    futures_util::future::join_all(asks).await;

    assert!(upstream.connections() <= 3, "{}", upstream.connections());
    assert_eq!(upstream.received().len(), 300);
}
