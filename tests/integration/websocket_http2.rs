//! WebSocket over HTTP/2 (RFC 8441): decided on as a GET, an upgrade to the service, and a tunnel with every limit of one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use serde_json::json;

use super::support::*;

/// The answer that belongs to a request's key (RFC 6455 §4.2.2).
fn upgraded(head: &str) -> Vec<u8> {
    let key = head.lines().find_map(|line| line.to_lowercase().starts_with("sec-websocket-key:").then(|| line[18..].trim().to_owned()));
    let key = key.unwrap_or_else(|| panic!("no key in {head}"));
    assert_eq!(STANDARD.decode(&key).unwrap().len(), 16, "{key}");
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()));
    let lines = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: chat\r\nX-Auth-Subject: mallory";
    format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").into_bytes()
}

fn request(gate: &Gate, target: &str, token: Option<&str>) -> Request<()> {
    let mut request = Request::get(format!("http://{}{target}", gate.address())).header("sec-websocket-version", "13");
    request = request.header("sec-websocket-protocol", "chat").header("origin", "https://app.example");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(()).unwrap()
}

struct Tunnel {
    http2: Http2,
    send: h2::SendStream<Bytes>,
    receive: Incoming,
    call: Connection,
}

async fn tunnel(gate: &Gate, calls: &mut Calls, token: &str) -> Tunnel {
    let mut http2 = Http2::open(gate.address()).await;
    let exchange = http2.connect(request(gate, "/ws", Some(token)), "websocket").await;
    let mut call = calls.next().await;
    let head = call.read_until("\r\n\r\n").await;
    call.write(&upgraded(&head)).await;
    let (answer, send, receive) = exchange.tunnel().await;
    assert_eq!(answer.status(), 200);
    Tunnel { http2, send, receive, call }
}

/// RFC 8441 §5.
#[tokio::test]
async fn an_extended_connect_is_decided_on_as_get_and_reaches_the_service_as_an_upgrade() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut http2 = Http2::open(gate.address()).await;

    let mut asked = request(&gate, "/ws?x=y", Some(&token(&issuer, "read:weather")));
    asked.headers_mut().insert("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==".parse().unwrap());
    let exchange = http2.connect(asked, "websocket").await;
    let mut call = calls.next().await;
    let head = call.read_until("\r\n\r\n").await;
    let (first, lines) = head.split_once("\r\n").unwrap();
    let lines = format!("\r\n{}", lines.to_lowercase());
    assert_eq!(first, "GET /ws?x=y HTTP/1.1");
    for line in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: chat",
        "origin: https://app.example",
        "x-auth-subject: alice",
        &format!("host: {}", gate.address()),
    ] {
        assert_eq!(lines.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {lines}");
    }
    assert!(!lines.contains("authorization") && !lines.contains(":protocol") && !head.contains("AAAAAAAA"), "{lines}");
    call.write(&upgraded(&head)).await;

    let (answer, mut send, mut receive) = exchange.tunnel().await;
    assert_eq!((answer.status().as_u16(), answer.headers()["sec-websocket-protocol"].as_bytes()), (200, &b"chat"[..]));
    for name in ["sec-websocket-accept", "connection", "upgrade", "x-auth-subject", "content-length"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    for bytes in ["\0\u{81}frame", "GET /public/a HTTP/1.1\r\n\r\n"] {
        send.send_data(Bytes::from_static(bytes.as_bytes()), false).unwrap();
        call.read_until(bytes).await;
        call.write(bytes.as_bytes()).await;
        assert_eq!(receive.read(bytes.len()).await, bytes.as_bytes());
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(call.rest().await, "");
    call.write(b"after the half-close").await;
    drop(call);
    assert_eq!(receive.rest().await, b"after the half-close");
    until("no tunnel is open", || async { gate.metric("wicketgate_requests_in_flight").await == Some(0.0) }).await;
}

#[tokio::test]
async fn every_check_of_the_route_stands_before_a_tunnel_over_http2() {
    let (issuer, (upstream, calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let (read, write) = (token(&issuer, "read:weather"), token(&issuer, "write:weather"));
    let mut http2 = Http2::open(gate.address()).await;

    for (target, token, status, code) in [
        ("/ws", None, 401, "token_missing"),
        ("/ws", Some(&write), 403, "scope_missing"),
        ("/nowhere", Some(&read), 404, "route_unknown"),
        ("/public/../ws", Some(&read), 400, "path_ambiguous"),
    ] {
        let exchange = http2.connect(request(&gate, target, token.map(String::as_str)), "websocket").await;
        let answer = exchange.answer().await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{target}");
    }
    assert!(calls.is_empty());
}

/// RFC 9113 §8.5, RFC 9220 §3.
#[tokio::test]
async fn no_other_protocol_and_no_plain_connect_opens_anything() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut http2 = Http2::open(gate.address()).await;

    for protocol in ["connect-udp", "WebSocket", "webtransport"] {
        let answer = http2.connect(request(&gate, "/public/a", None), protocol).await.answer().await;
        assert_eq!((answer.status, answer.code().as_str()), (501, "protocol_unknown"), "{protocol}");
    }
    // A document of the gate's own is no tunnel, and what says that it is gRPC is refused as any other.
    let asked = request(&gate, "/.well-known/oauth-protected-resource", None);
    let answer = http2.connect(asked, "websocket").await.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (501, "protocol_unknown"));
    let mut asked = request(&gate, "/ws", None);
    asked.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let answer = http2.connect(asked, "websocket").await.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "token_missing"));
    let plain = Request::connect(gate.address().to_string()).body(()).unwrap();
    let answer = http2.begin(plain, false).await.answer().await;

    assert_eq!((answer.status, answer.code().as_str()), (405, "method_refused"));
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn what_is_no_proper_101_opens_no_tunnel_over_http2_and_a_refusal_of_the_service_passes() {
    let issuer = issuer().await;
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for (bytes, status, code) in [
        (format!("{wrong}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"), 502, "upgrade_invalid"),
        (format!("{wrong}\r\n"), 502, "upgrade_invalid"),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned(), 502, "upgrade_invalid"),
        // Any 2xx would open the tunnel (RFC 8441 §5).
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(), 502, "upgrade_invalid"),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 502, "upgrade_invalid"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_owned(), 403, ""),
    ] {
        let upstream = Upstream::answering_each(move |_| bytes.clone().into_bytes()).await;
        let gate = gate(&issuer, &upstream).start().await;
        let mut http2 = Http2::open(gate.address()).await;

        let exchange = http2.connect(request(&gate, "/ws", Some(&token(&issuer, "read:weather"))), "websocket").await;
        let answer = exchange.answer().await;

        assert_eq!((answer.status, answer.code().as_str()), (status, code));
    }
}

#[tokio::test]
async fn a_connection_with_a_tunnel_is_in_use_and_a_client_that_resets_its_stream_is_gone_for_the_service() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let short = "timeouts: { idle: 200ms, header: 200ms, body: 200ms }";
    let gate = gate(&issuer, &upstream).settings(short).start().await;
    let Tunnel { http2: _http2, mut send, mut receive, mut call } = tunnel(&gate, &mut calls, &token(&issuer, "read:weather")).await;

    // Several times as long as any of them.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    send.send_data(Bytes::from_static(b"still here"), false).unwrap();
    call.read_until("still here").await;
    call.write(b"so am I").await;
    assert_eq!(receive.read(7).await, b"so am I");

    send.send_reset(h2::Reason::CANCEL);
    assert_eq!(call.rest().await, "");
}

#[tokio::test]
async fn a_tunnel_over_http2_on_which_nothing_moves_is_closed() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).settings("timeouts: { tunnel_idle: 300ms }").start().await;
    let mut tunnel = tunnel(&gate, &mut calls, &token(&issuer, "read:weather")).await;

    assert_eq!(tunnel.receive.rest().await, b"");
    assert_eq!(tunnel.call.rest().await, "");
}

#[tokio::test]
async fn a_tunnel_over_http2_ends_with_its_token_and_is_told_when_the_gate_leaves() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let mut gate = gate(&issuer, &upstream).start().await;
    let token = token(&issuer, "read:weather");
    let mut ended = tunnel(&gate, &mut calls, &token).await;

    let wish = json!({ "sub": "alice" }).to_string();
    let ask = Ask::new(gate.app.admin_address(), "POST", "/revocations").header("Content-Type: application/json");
    assert_eq!(ask.body(&wish).send().await.status, 201);
    assert_eq!(ended.receive.rest().await, [&[0x88, 15, 0x11, 0x31][..], b"token_revoked"].concat());
    assert_eq!(ended.call.rest().await, "");

    let bob = issuer.token(wicketgate::demo::issuer::TokenRequest {
        subject: "bob".to_owned(),
        scope: Some("read:weather".to_owned()),
        ..Default::default()
    });
    let mut left = tunnel(&gate, &mut calls, &bob).await;
    let told = async {
        assert_eq!(left.receive.read(14).await, [&[0x88, 12, 0x03, 0xe9][..], b"going away"].concat());
        // What the client still has to say is heard, its close among it.
        left.send.send_data(Bytes::from_static(b"the last order"), true).unwrap();
        assert_eq!(left.call.rest().await, "the last order");
        drop(left.call);
        assert_eq!(left.receive.rest().await, b"");
        drop((left.send, left.http2));
    };
    tokio::join!(gate.app.shutdown("the test"), told);
}
