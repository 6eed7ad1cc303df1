//! Going down without losing a request: unready first, deaf second, gone last.

use std::io::Write;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;

use super::support::*;

async fn refuses(address: SocketAddr) {
    until("nobody listens", || async { TcpStream::connect(address).await.is_err() }).await;
}

#[tokio::test]
async fn readiness_ends_first_and_requests_are_served_through_the_delay() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let mut gate = gate(&issuer, &upstream).settings("shutdown: { delay: 1s, deadline: 10s }").start().await;
    let (address, admin, token) = (gate.address(), gate.app.admin_address(), token(&issuer, "read:weather"));

    let watching = async {
        let ready = || Ask::new(admin, "GET", "/readyz").send();
        until("the gate is unready", || async { ready().await.status == 503 }).await;
        assert_eq!(ready().await.text(), "[-] not-draining: going down\nnot ready\n");
        assert_eq!(Ask::new(admin, "GET", "/livez").send().await.status, 200);
        for _ in 0..5 {
            assert_eq!(Ask::new(address, "GET", "/forecast/oslo").token(&token).send().await.status, 200);
        }
        refuses(address).await;
        assert_eq!(ready().await.status, 503);
    };
    tokio::join!(gate.app.shutdown("test"), watching);
}

#[tokio::test]
async fn a_client_is_asked_to_leave_while_it_can_still_go_elsewhere() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let mut gate = gate(&issuer, &upstream).settings("shutdown: { delay: 1s, deadline: 10s }").start().await;
    let (admin, request) = (gate.app.admin_address(), gate.get("/public/page").bytes(""));
    let mut connection = Connection::open(gate.address()).await;
    connection.write(&request).await;
    assert_eq!(connection.answer("GET").await.header("connection"), None);

    let leaving = async {
        until("the gate is unready", || async { Ask::new(admin, "GET", "/readyz").send().await.status == 503 }).await;
        connection.write(&request).await;
        let answer = connection.answer("GET").await;
        assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
        assert!(connection.is_closed().await);
    };
    tokio::join!(gate.app.shutdown("test"), leaving);
}

#[tokio::test]
async fn what_is_in_flight_is_finished_and_what_is_idle_is_closed() {
    let (issuer, (upstream, permits)) = (issuer().await, Upstream::held().await);
    let mut gate = gate(&issuer, &upstream).start().await;
    let (address, request) = (gate.address(), gate.get("/public/page").bytes(""));
    let (mut idle, mut silent) = (Connection::open(address).await, Connection::open(address).await);
    let (mut busy, mut half) = (Connection::open(address).await, Connection::open(address).await);
    permits.add_permits(1);
    idle.write(&request).await;
    assert_eq!(idle.answer("GET").await.status, 200);
    busy.write(&request).await;
    half.write(&request[..request.len() / 2]).await;
    until("the request is upstream", || async { upstream.received().len() == 2 }).await;
    until("all are accepted", || async { gate.metric("wicketgate_connections_open").await == Some(4.0) }).await;

    let watching = async {
        assert!(idle.is_closed().await);
        // Nothing was ever asked on it.
        assert!(silent.is_closed().await);
        refuses(address).await;
        half.write(&request[request.len() / 2..]).await;
        until("the other request is upstream", || async { upstream.received().len() == 3 }).await;
        permits.add_permits(2);
        for connection in [&mut busy, &mut half] {
            let answer = connection.answer("GET").await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
            assert_eq!(answer.header("connection").as_deref(), Some("close"));
            assert!(connection.is_closed().await);
        }
    };
    let begun = Instant::now();
    tokio::join!(gate.app.shutdown("test"), watching);
    // All were closed by themselves, and no deadline was needed.
    assert!(begun.elapsed().as_secs() < 9, "{:?}", begun.elapsed());
}

/// Closing a connection on which nothing is asked loses the request that is just on its way (RFC 9112 §9.6).
#[tokio::test]
async fn a_request_on_a_kept_connection_is_answered_for_a_moment_after_the_gate_began_to_drain() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let mut gate = gate(&issuer, &upstream).start().await;
    let (address, request) = (gate.address(), gate.get("/public/page").bytes(""));
    let (mut resting, mut kept) = one_at_rest_and_one_kept(address, &request).await;

    let asking = async {
        refuses(address).await;
        for connection in [&mut kept, &mut resting] {
            connection.write(&request).await;
            let answer = connection.answer("GET").await;
            assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
            assert!(connection.is_closed().await);
        }
    };
    tokio::join!(gate.app.shutdown("test"), asking);
}

/// Two connections on which a request was answered: a connection is put to rest after a quarter of a second.
async fn one_at_rest_and_one_kept(address: SocketAddr, request: &[u8]) -> (Connection, Connection) {
    let mut resting = Connection::open(address).await;
    resting.write(request).await;
    assert_eq!(resting.answer("GET").await.status, 200);
    tokio::time::sleep(Duration::from_millis(400)).await;
    let mut kept = Connection::open(address).await;
    kept.write(request).await;
    assert_eq!(kept.answer("GET").await.status, 200);
    (resting, kept)
}

/// Connections with a request on each, of which the gate knows nothing yet: this thread runs it too, so that they wait
/// in the kernel.
fn waiting(address: SocketAddr, request: &[u8]) -> Vec<Connection> {
    let open = || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request).unwrap();
        stream.set_nonblocking(true).unwrap();
        Connection::over(TcpStream::from_std(stream).unwrap())
    };
    std::iter::repeat_with(open).take(8).collect()
}

async fn all_answered(connections: &mut [Connection]) {
    for connection in connections {
        let answer = connection.answer("GET").await;
        assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
    }
}

/// What waits in the kernel when a kept connection is about to be closed came in time.
#[tokio::test]
async fn a_request_that_came_while_the_gate_was_too_busy_to_look_is_answered() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let mut gate = gate(&issuer, &upstream).start().await;
    let (address, request) = (gate.address(), gate.get("/public/page").bytes(""));
    let mut silent = Connection::open(address).await;
    let (mut resting, mut kept) = one_at_rest_and_one_kept(address, &request).await;

    let asking = async {
        refuses(address).await;
        // All of them wait for the grace to end. Then nothing runs until it is over, and the first to wake is this one: the
        // gate hears of time before it hears of these requests.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let mut first = Box::pin(tokio::time::sleep(Duration::from_millis(10)));
        assert!(std::future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await);
        std::thread::sleep(Duration::from_millis(1500));
        first.await;
        for connection in [&mut silent, &mut kept, &mut resting] {
            connection.write_now(&request);
        }
        all_answered(&mut [silent, kept, resting]).await;
    };
    tokio::join!(gate.app.shutdown("test"), asking);
}

#[tokio::test]
async fn a_request_that_came_before_the_listener_closed_is_answered() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (one, two) = (reserve(), reserve());
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().settings(&format!("listen: {}", one.address)).start().await;
    let request = gate.get("/public/page").bytes("");

    let mut connections = waiting(one.address, &request);
    std::fs::write(&gate.path, builder.settings(&format!("listen: {}", two.address)).yaml()).unwrap();
    gate.app.reload("SIGHUP").await;
    all_answered(&mut connections).await;

    let mut connections = waiting(two.address, &request);
    tokio::join!(gate.app.shutdown("test"), all_answered(&mut connections));
}

#[tokio::test]
async fn who_waits_for_the_place_of_another_when_the_gate_drains_is_served_in_turn() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let mut gate = gate(&issuer, &upstream).settings("limits: { connections: 2 }").start().await;

    let mut connections = waiting(gate.address(), &gate.get("/public/page").bytes(""));
    tokio::join!(gate.app.shutdown("test"), all_answered(&mut connections));
}

#[tokio::test]
async fn who_still_waits_for_a_place_at_the_deadline_is_told_like_everybody_else() {
    let (issuer, (upstream, _never)) = (issuer().await, Upstream::held().await);
    let settings = "limits: { connections: 2 }\nshutdown: { delay: 1ms, deadline: 500ms }";
    let mut gate = gate(&issuer, &upstream).settings(settings).start().await;
    let request = gate.get("/public/page").bytes("");
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Connection::open(gate.address()).await);
        clients.last_mut().unwrap().write(&request).await;
    }
    until("both requests are at the service", || async { upstream.received().len() == 2 }).await;
    gate.app.shutdown("test").await;

    for client in &mut clients {
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "going_down"));
    }
}

/// RFC 9113 §6.8.
#[tokio::test]
async fn an_http2_client_gets_goaway_and_its_stream_is_finished() {
    let (issuer, (upstream, permits)) = (issuer().await, Upstream::held().await);
    let mut gate = gate(&issuer, &upstream).start().await;
    let stream = TcpStream::connect(gate.address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        let request = http::Request::get(format!("http://{}/forecast/oslo", gate.address()));
        request.header("authorization", format!("Bearer {}", token(&issuer, "read:weather"))).body(()).unwrap()
    };
    let (answer, _) = client.send_request(request(), true).unwrap();
    let late = request();
    until("the request is upstream", || async { upstream.received().len() == 1 }).await;

    let finishing = async {
        let refused = soon("GOAWAY", async {
            loop {
                match std::future::poll_fn(|context| client.poll_ready(context)).await {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(error) => break error,
                }
            }
        });
        let refused = refused.await;
        assert!(refused.is_go_away() && refused.is_remote(), "{refused}");
        assert!(client.send_request(late, true).is_err());
        permits.add_permits(1);
        let mut answer = soon("the answer", answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(soon("its body", answer.body_mut().data()).await.unwrap().unwrap(), Bytes::from("ok"));
        soon("the connection's end", connection).await.unwrap().unwrap();
    };
    tokio::join!(gate.app.shutdown("test"), finishing);
}

#[tokio::test]
async fn the_deadline_ends_the_wait_for_what_hangs() {
    let (issuer, (upstream, _permits)) = (issuer().await, Upstream::held().await);
    let mut gate = gate(&issuer, &upstream).settings("shutdown: { delay: 1ms, deadline: 500ms }").start().await;
    let mut busy = Connection::open(gate.address()).await;
    busy.write(&gate.get("/public/page").bytes("")).await;
    until("the request is upstream", || async { upstream.received().len() == 1 }).await;

    let begun = Instant::now();
    soon("the end", gate.app.shutdown("test")).await;

    let took = begun.elapsed();
    assert!((0.5..5.0).contains(&took.as_secs_f64()), "{took:?}");
}

#[tokio::test]
async fn the_operator_makes_the_gate_unready_and_ready_again_while_it_serves() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let mut gate = gate(&issuer, &upstream).settings("shutdown: { delay: 1h, deadline: 10s }").start().await;
    let admin = gate.app.admin_address();
    let drain = |method: &str| Ask::new(admin, method, "/drain");
    let ready = async || Ask::new(admin, "GET", "/readyz").send().await;

    assert_eq!(drain("POST").header("Origin: https://evil.example").send().await.status, 403);
    assert_eq!(drain("GET").send().await.status, 405);
    assert_eq!(ready().await.status, 200);
    for _ in 0..2 {
        let answer = drain("POST").send().await;
        assert_eq!((answer.status, answer.json()["draining"].as_bool()), (200, Some(true)));
        assert_eq!(ready().await.text(), "[-] not-draining: unready by word of the operator\nnot ready\n");
        assert_eq!(gate.get("/public/page").send().await.status, 200);
    }
    assert_eq!(drain("DELETE").send().await.json()["draining"], false);
    assert_eq!(ready().await.status, 200);

    // Told again, it goes down all the same, and waits for as long as is left of the delay: an hour.
    drain("POST").send().await;
    let watching = async {
        until("the gate goes down", || async { ready().await.text().contains("going down") }).await;
        assert_eq!(drain("DELETE").send().await.json()["draining"], true);
    };
    tokio::select! {
        () = gate.app.shutdown("test") => panic!("the delay is over"),
        () = watching => {}
    }
}

/// RFC 9112 §8: a body that was cut off would look broken, one that ended does not.
#[tokio::test]
async fn at_the_deadline_each_stream_ends_as_its_protocol_has_it_and_who_waits_is_told() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let routes = "\n      GET /events: public\n      GET /slow: public\n      POST /chat.Chat/Talk: public";
    let builder = gate(&issuer, &upstream).routes(routes).settings("shutdown: { delay: 1ms, deadline: 300ms }");
    let mut gate = builder.start().await;
    let (address, admin) = (gate.address(), gate.app.admin_address());
    let (mut events, mut slow) = (Connection::open(address).await, Connection::open(address).await);
    events.write(&gate.get("/events").bytes("")).await;
    let mut feed = calls.next().await;
    feed.read_until("\r\n\r\n").await;
    feed.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n").await;
    events.read_until("data: 1\n").await;
    let mut http2 = Http2::open(address).await;
    let call = http::Request::post(format!("http://{address}/chat.Chat/Talk")).header("te", "trailers");
    let exchange = http2.begin(call.header("content-type", "application/grpc").body(()).unwrap(), true).await;
    let mut talk = calls.next().await;
    talk.read_until("\r\n\r\n").await;
    talk.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n\0\0\0\0\x01x\r\n").await;
    slow.write(&gate.get("/slow").bytes("")).await;
    let _asked = calls.next().await;
    until("all are in flight", || async {
        Ask::new(admin, "GET", "/metrics").send().await.text().contains("wicketgate_requests_in_flight 3")
    })
    .await;

    let watching = async {
        // The end of the body, and nothing else.
        assert_eq!(events.rest().await, "\r\n0\r\n\r\n");
        let answer = slow.answer("GET").await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "going_down"));
        assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
        let answer = exchange.answer().await;
        let trailer = |wanted: &str| answer.trailers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        assert_eq!((&answer.body[..], trailer("grpc-status")), (&b"\0\0\0\0\x01x"[..], Some("14")));
        assert!(trailer("grpc-message").unwrap_or_default().contains("goes down"), "{:?}", answer.trailers);
        http2.closed().await;
    };
    let begun = Instant::now();
    tokio::join!(gate.app.shutdown("test"), watching);
    assert!(begun.elapsed().as_secs_f64() < 1.2, "who ends in good order is not waited for: {:?}", begun.elapsed());
}
