//! WebSocket: decided on like any request, then bytes both ways until one side ends.

use std::time::Duration;

use super::support::*;

const UPGRADED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// Far above the timeouts that these tests set, and far below the default ones.
const SOON: Duration = Duration::from_secs(6);

fn upgrade(gate: &Gate) -> Ask {
    gate.get("/ws")
        .header("Connection: keep-alive, Upgrade")
        .header("Upgrade: websocket")
        .header("Sec-WebSocket-Version: 13")
        .header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
}

/// A tunnel that is open, by its two ends.
async fn tunnel(gate: &Gate, calls: &mut Calls, token: &str) -> (Connection, Connection) {
    let mut client = Connection::open(gate.address()).await;
    client.write(&upgrade(gate).token(token).bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(UPGRADED).await;
    assert_eq!(client.answer("GET").await.status, 101);
    (client, call)
}

/// What comes until the end, which must be soon.
async fn last_words(what: &str, connection: &mut Connection) -> String {
    match tokio::time::timeout(SOON, connection.rest()).await {
        Ok(rest) => rest,
        Err(_) => panic!("{what}: open after {SOON:?}"),
    }
}

#[tokio::test]
async fn a_permitted_tunnel_passes_bytes_both_ways_until_both_ends_have_finished() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&upgrade(&gate).token(&token(&issuer, "read:weather")).header("X-Auth-Subject: admin").bytes("")).await;
    let mut call = calls.next().await;
    let head = call.read_until("\r\n\r\n").await.to_lowercase();
    call.write(UPGRADED).await;
    let answer = client.answer("GET").await;

    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", "x-auth-subject: alice"] {
        assert_eq!(head.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {head}");
    }
    assert!(!head.contains("authorization") && !head.contains("admin"), "{head}");
    assert_eq!((answer.status, answer.header("upgrade").as_deref()), (101, Some("websocket")));
    assert_eq!(answer.header("connection").as_deref(), Some("upgrade"));
    assert_eq!(answer.header("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    // Bytes of a tunnel are nobody's HTTP.
    for bytes in ["\0\u{81}frame", "GET /public/a HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        client.write(bytes.as_bytes()).await;
        call.read_until(bytes).await;
        call.write(bytes.as_bytes()).await;
        client.read_until(bytes).await;
    }
    client.finish_writing().await;
    assert_eq!(call.rest().await, "");
    call.write(b"after the half-close").await;
    drop(call);
    assert_eq!(client.rest().await, "after the half-close");
    until("no tunnel is open", || async { gate.metric("wicketgate_requests_in_flight").await == Some(0.0) }).await;
}

#[tokio::test]
async fn bytes_right_behind_the_request_arrive_after_the_upgrade() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    let mut bytes = upgrade(&gate).token(&token(&issuer, "read:weather")).bytes("");
    bytes.extend(b"early");
    client.write(&bytes).await;
    let mut call = calls.next().await;
    assert!(call.read_until("\r\n\r\n").await.starts_with("GET /ws HTTP/1.1\r\n"));
    assert!(call.is_silent());
    call.write(&[UPGRADED, b"from the service"].concat()).await;

    assert_eq!(call.read_until("early").await, "early");
    assert_eq!(client.answer("GET").await.status, 101);
    assert_eq!(client.read_until("from the service").await, "from the service");
}

#[tokio::test]
async fn a_tunnel_without_a_token_or_its_scope_does_not_open() {
    let (issuer, (upstream, calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;

    let without = upgrade(&gate).send().await;
    let other = upgrade(&gate).token(&token(&issuer, "write:weather")).send().await;

    assert_eq!((without.status, without.code().as_str()), (401, "token_missing"));
    assert_eq!((other.status, other.code().as_str()), (403, "scope_missing"));
    assert!(calls.is_empty());
}

#[tokio::test]
async fn bytes_behind_a_refused_upgrade_are_requests_that_are_decided_on() {
    let issuer = issuer().await;
    for answer in [&b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"] {
        let upstream = Upstream::answering(answer).await;
        let gate = gate(&issuer, &upstream).start().await;
        let mut client = Connection::open(gate.address()).await;

        let mut bytes = upgrade(&gate).token(&token(&issuer, "read:weather")).bytes("");
        bytes.extend(gate.get("/me").bytes(""));
        bytes.extend(gate.get("/public/a").bytes(""));
        client.write(&bytes).await;

        assert_eq!(client.answer("GET").await.text(), "no");
        assert_eq!(client.answer("GET").await.code(), "token_missing");
        assert_eq!(client.answer("GET").await.text(), "no");
        let lines: Vec<String> = upstream.received().into_iter().map(|request| request.line).collect();
        assert_eq!(lines, ["GET /ws HTTP/1.1", "GET /public/a HTTP/1.1"]);
    }
}

/// RFC 9110 §7.8.
#[tokio::test]
async fn only_a_proper_upgrade_to_websocket_goes_on_as_one() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let odd = [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: Upgrade\r\nUpgrade: h2c, websocket",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0",
        "Upgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
    ];

    for lines in odd {
        let mut client = Connection::open(gate.address()).await;
        let body = if lines.contains("chunked") { "4\r\nbody\r\n0\r\n\r\n" } else { "body" };
        let body = if lines.contains("Content-Length") || lines.contains("chunked") { body } else { "" };
        let mut bytes = gate.get("/public/a").header(lines).bytes("");
        bytes.extend(body.as_bytes());
        client.write(&bytes).await;
        assert_eq!(client.answer("GET").await.status, 200, "{lines}");
    }
    let mut old = Connection::open(gate.address()).await;
    old.write(b"GET /public/a HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(old.rest().await.contains(" 200 "));

    for received in upstream.received() {
        assert_eq!((received.one("upgrade"), received.one("connection")), (None, None), "{received:?}");
    }
}

#[tokio::test]
async fn an_answer_with_another_protocol_opens_nothing() {
    let issuer = issuer().await;
    for bytes in [
        &b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"[..],
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
    ] {
        let upstream = Upstream::answering(bytes).await;
        let gate = gate(&issuer, &upstream).start().await;

        let answer = upgrade(&gate).token(&token(&issuer, "read:weather")).send().await;

        assert_eq!((answer.status, answer.code().as_str()), (502, "upgrade_invalid"));
    }
}

#[tokio::test]
async fn a_tunnel_on_which_nothing_moves_is_closed_and_others_stay() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let short = "timeouts: { tunnel_idle: 2s, idle: 200ms, header: 200ms, body: 200ms }";
    let gate = gate(&issuer, &upstream).settings(short).start().await;
    let token = token(&issuer, "read:weather");
    let (mut idle, mut idle_call) = tunnel(&gate, &mut calls, &token).await;
    let (mut busy, mut busy_call) = tunnel(&gate, &mut calls, &token).await;

    // One side that speaks is enough to keep a tunnel open.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let keep_busy = async {
        loop {
            pace.tick().await;
            busy_call.write(b"x").await;
            busy.read_until("x").await;
        }
    };
    let both_closed = async {
        assert_eq!(last_words("the client's end", &mut idle).await, "");
        assert_eq!(last_words("the service's end", &mut idle_call).await, "");
    };
    tokio::select! {
        () = both_closed => {}
        () = keep_busy => {}
    }

    busy.write(b"still here").await;
    busy_call.read_until("still here").await;
    assert_eq!(gate.metric("wicketgate_limited_total{limit=\"tunnel_idle\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_tunnel_ends_when_the_gate_has_drained_for_its_time() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let mut gate = gate(&issuer, &upstream).settings("shutdown: { delay: 1ms, deadline: 500ms }").start().await;
    let (mut client, mut call) = tunnel(&gate, &mut calls, &token(&issuer, "read:weather")).await;

    let during = async {
        // A client that is told to go and stays.
        client.read_until("going away").await;
        client.write(b"while draining").await;
        call.read_until("while draining").await;
    };
    tokio::join!(gate.app.shutdown("the test"), during);

    assert_eq!(last_words("the client's end", &mut client).await, "");
    assert_eq!(last_words("the service's end", &mut call).await, "");
}

/// RFC 6455 §7.4.1, §5.5.1.
#[tokio::test]
async fn a_draining_gate_says_1001_between_two_frames_and_hears_both_sides_out() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let mut gate = gate(&issuer, &upstream).start().await;
    let token = token(&issuer, "read:weather");
    let (mut client, mut call) = tunnel(&gate, &mut calls, &token).await;
    let (mut other, mut other_call) = tunnel(&gate, &mut calls, &token).await;
    let (mut quiet, quiet_call) = tunnel(&gate, &mut calls, &token).await;
    // One service is in the middle of a frame, the other has closed already.
    call.write(b"\x82\x05ab").await;
    client.read_until("ab").await;
    other_call.write(b"\x88\x02\x03\xe8").await;
    other.read_until("\x03").await;
    let begun = std::time::Instant::now();

    let during = async {
        quiet.read_until("going away").await;
        drop((quiet, quiet_call));
        client.write(b"\x82\x80mask").await;
        call.read_until("mask").await;
        call.write(b"cde\x81\x04late").await;
        assert_eq!(client.read_until("going away").await, "cde\u{fffd}\u{c}\u{3}\u{fffd}going away");
        // The client's own close reaches the service, which ends the tunnel; nothing more comes from there.
        client.write(b"\x88\x82mask\x6e\x88").await;
        call.read_until("mask").await;
        call.write(b"\x88\x02\x03\xe9").await;
        drop(call);
        assert_eq!(client.rest().await, "");
        drop(client);
        drop(other_call);
        assert!(!other.rest().await.contains("going away"));
        drop(other);
    };
    tokio::join!(gate.app.shutdown("the test"), during);

    // Long before the deadline: a gate whose clients listen goes as soon as they have gone.
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_listener_that_is_taken_away_tells_its_tunnels_to_go() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let builder = gate(&issuer, &upstream);
    let mut gate = builder.clone().start().await;
    let (mut client, _call) = tunnel(&gate, &mut calls, &token(&issuer, "read:weather")).await;

    let other = reserve();
    gate.rewrite(&builder.settings(&format!("listen: {}", other.address)).yaml()).await;

    assert!(client.read_until("going away").await.ends_with("going away"));
}

#[tokio::test]
async fn a_tunnel_of_a_listener_that_was_taken_away_ends_although_its_client_does_not_listen() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let builder = gate(&issuer, &upstream).settings("shutdown: { delay: 1ms, deadline: 500ms }");
    let mut gate = builder.clone().start().await;
    let (mut client, mut call) = tunnel(&gate, &mut calls, &token(&issuer, "read:weather")).await;

    let other = reserve();
    gate.rewrite(&builder.settings(&format!("listen: {}", other.address)).yaml()).await;

    client.read_until("going away").await;
    client.write(b"what it still says").await;
    call.read_until("what it still says").await;
    assert_eq!(last_words("the service's end", &mut call).await, "");
    assert_eq!(last_words("the client's end", &mut client).await, "");
    assert_eq!(gate.admin("/livez").await.status, 200);
}

#[tokio::test]
async fn a_tunnel_keeps_its_place_among_the_connections() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let token = token(&issuer, "read:weather");

    let ends = [tunnel(&gate, &mut calls, &token).await, tunnel(&gate, &mut calls, &token).await];
    until("the tunnels are counted", || async { gate.metric("wicketgate_connections_open").await == Some(2.0) }).await;
    drop(ends);
    until("their places are free", || async { gate.metric("wicketgate_connections_open").await == Some(0.0) }).await;
}
