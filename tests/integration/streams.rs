//! Streams obey, too: one that is open when its token expires or is revoked ends, in the way of its protocol.

use std::time::Duration;

use serde_json::json;
use wicketgate::demo::Issuer;
use wicketgate::demo::issuer::{Application, Ceiling, Resource, Settings, TokenRequest};

use super::support::*;

const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
const GRPC: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
const ROUTES: &str = "
      GET /ws: read:weather
      GET /events: read:weather
      POST /grpc: read:weather
      GET /kept: { scopes: read:weather, streams: keep }
      GET /file: read:weather";

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

async fn revoke(gate: &Gate, subject: &str) {
    let wish = json!({ "sub": subject }).to_string();
    let ask = Ask::new(gate.app.admin_address(), "POST", "/revocations").header("Content-Type: application/json");
    assert_eq!(ask.body(&wish).send().await.status, 201);
}

async fn told_to_end(gate: &Gate) {
    let series = "wicketgate_streams_ended_total{reason=\"token_revoked\"}";
    until("a stream is told to end", || async { gate.metric(series).await == Some(1.0) }).await;
}

fn upgrade(gate: &Gate, target: &str, token: &str) -> Vec<u8> {
    let ask = gate.get(target).token(token).header("Connection: Upgrade").header("Upgrade: websocket").header("Sec-WebSocket-Version: 13");
    ask.header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").bytes("")
}

async fn websocket(gate: &Gate, calls: &mut Calls, target: &str, token: &str) -> (Connection, Connection) {
    let mut client = Connection::open(gate.address()).await;
    client.write(&upgrade(gate, target, token)).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(UPGRADED).await;
    assert_eq!(client.answer("GET").await.status, 101);
    (client, call)
}

/// A stream of a body that has begun, by its two ends.
async fn body(gate: &Gate, calls: &mut Calls, target: &str, token: &str, head: &[u8]) -> (Connection, Connection) {
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.get(target).token(token).bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(&[head, &chunk(b"data: 1\n\n")[..]].concat()).await;
    client.read_until("data: 1\n\n\r\n").await;
    (client, call)
}

async fn scene() -> (Issuer, Upstream, Calls, Gate) {
    let (issuer, (upstream, calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).routes(ROUTES).settings("tokens: { leeway: 0s }").start().await;
    (issuer, upstream, calls, gate)
}

/// RFC 6455 §5.5.1, §7.4.2.
#[tokio::test]
async fn a_websocket_ends_with_close_code_4401_between_two_frames() {
    let (issuer, _upstream, mut calls, gate) = scene().await;
    let token = token(&issuer, "read:weather");
    let (mut client, mut call) = websocket(&gate, &mut calls, "/ws", &token).await;
    // The head of a frame of five bytes, and two of them.
    call.write(b"\x81\x02hi\x82\x05ab").await;
    client.read_until("\x02hi").await;
    client.read_until("ab").await;

    revoke(&gate, "alice").await;
    told_to_end(&gate).await;
    // Nothing may come into the middle of a frame; what follows it does not come any more.
    call.write(b"cde\x81\x04late").await;
    client.read_until("cde").await;
    let mut close = vec![0x88, 2 + 13, 0x11, 0x31];
    close.extend_from_slice(b"token_revoked");
    let rest = client.rest().await;
    assert_eq!(rest.as_bytes(), String::from_utf8_lossy(&close).as_bytes());
    assert_eq!(call.rest().await, "");
}

#[tokio::test]
async fn nothing_of_the_client_reaches_the_service_once_its_token_is_revoked_and_a_service_in_mid_frame_is_cut() {
    let (issuer, _upstream, mut calls, gate) = scene().await;
    let (mut client, mut call) = websocket(&gate, &mut calls, "/ws", &token(&issuer, "read:weather")).await;
    call.write(b"\x82\x05ab").await;
    client.read_until("ab").await;

    revoke(&gate, "alice").await;
    told_to_end(&gate).await;
    client.write(b"one more order").await;
    assert_eq!(call.rest().await, "");
    let begun = std::time::Instant::now();
    assert_eq!(client.rest().await, "");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_event_stream_ends_cleanly_when_its_token_is_revoked_or_expires() {
    let (issuer, _upstream, mut calls, gate) = scene().await;
    let (mut client, mut call) = body(&gate, &mut calls, "/events", &token(&issuer, "read:weather"), EVENTS).await;
    revoke(&gate, "alice").await;
    assert_eq!(client.read_until("0\r\n\r\n").await, "0\r\n\r\n");
    assert_eq!(call.rest().await, "");

    let short = issuer.token(TokenRequest {
        subject: "bob".to_owned(),
        scope: Some("read:weather".to_owned()),
        expires_in: 2,
        ..TokenRequest::default()
    });
    let (mut client, mut call) = body(&gate, &mut calls, "/events", &short, EVENTS).await;
    assert_eq!(client.read_until("0\r\n\r\n").await, "0\r\n\r\n");
    assert_eq!(call.rest().await, "");
    until("it is counted", || async { gate.metric("wicketgate_streams_ended_total{reason=\"expired\"}").await == Some(1.0) }).await;
}

#[tokio::test]
async fn a_grpc_stream_ends_with_status_16_between_two_messages() {
    let (issuer, _upstream, mut calls, gate) = scene().await;
    let mut http2 = Http2::open(gate.address()).await;
    let request = http::Request::post(format!("http://{}/grpc", gate.address()))
        .header("authorization", format!("Bearer {}", token(&issuer, "read:weather")))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let exchange = http2.begin(request, true).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    // A message of three bytes, and the beginning of another one.
    call.write(&[GRPC, &chunk(b"\0\0\0\0\x03abc\0\0\0\0\x05de")].concat()).await;
    let answer = tokio::spawn(exchange.answer());
    until("the stream is open", || async { gate.metric("wicketgate_requests_in_flight").await == Some(1.0) }).await;

    revoke(&gate, "alice").await;
    told_to_end(&gate).await;
    call.write(&chunk(b"fgh\0\0\0\0\x01z")).await;
    let answer = soon("the answer", answer).await.unwrap();

    assert_eq!(answer.body, b"\0\0\0\0\x03abc\0\0\0\0\x05defgh");
    assert!(answer.trailers.contains(&("grpc-status".to_owned(), "16".to_owned())), "{:?}", answer.trailers);
}

#[tokio::test]
async fn a_grpc_web_stream_ends_with_a_message_of_trailers() {
    let (issuer, _upstream, mut calls, gate) = scene().await;
    let mut client = Connection::open(gate.address()).await;
    let ask = gate.ask("POST", "/grpc").token(&token(&issuer, "read:weather")).header("Content-Type: application/grpc-web+proto");
    client.write(&ask.body("").bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\nTransfer-Encoding: chunked\r\n\r\n";
    call.write(&[&head[..], &chunk(b"\0\0\0\0\x05he")].concat()).await;
    client.read_until("he\r\n").await;

    revoke(&gate, "alice").await;
    told_to_end(&gate).await;
    call.write(&chunk(b"llo\0\0\0\0\x01z")).await;

    client.read_until("llo\r\n").await;
    let last = client.read_until("0\r\n\r\n").await;
    assert!(last.contains("grpc-status: 16\r\ngrpc-message: token_revoked\r\n") && !last.contains('z'), "{last:?}");
}

#[tokio::test]
async fn a_route_may_keep_its_streams_and_a_body_that_is_no_stream_is_not_cut() {
    let (issuer, _upstream, mut calls, gate) = scene().await;
    let token = token(&issuer, "read:weather");
    let (mut kept, mut kept_call) = websocket(&gate, &mut calls, "/kept", &token).await;
    let file = b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut client, mut call) = body(&gate, &mut calls, "/file", &token, file).await;
    let (mut ended, _ended_call) = body(&gate, &mut calls, "/events", &token, EVENTS).await;

    revoke(&gate, "alice").await;
    ended.read_until("0\r\n\r\n").await;

    kept_call.write(b"\x81\x02hi").await;
    kept.read_until("hi").await;
    kept.write(b"still here").await;
    kept_call.read_until("still here").await;
    call.write(&[chunk(b"the rest"), b"0\r\n\r\n".to_vec()].concat()).await;
    client.read_until("the rest\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn a_stream_ends_when_its_users_consent_is_withdrawn() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = Settings {
        resources: vec![Resource::new(RESOURCE, &[("read:weather", "Read")])],
        applications: vec![
            Application::third_party("weatherbot", "s", "https://bot.example/cb", Ceiling::default()),
            Application::machine("gate", "secret", &["all"]),
        ],
        ..Settings::default()
    };
    let issuer = Issuer::start(loopback(), settings).await.unwrap();
    let (upstream, mut calls) = Upstream::manual().await;
    let logto = format!("logto: {{ endpoint: 'http://{}', app_id: gate, app_secret: secret }}", issuer.address());
    let gate = gate(&issuer, &upstream).routes(ROUTES).settings(&logto).in_service("    consent: { max_age: 2s }").start().await;
    let grant = issuer.allow("alice", "weatherbot", RESOURCE, &["read:weather"]).unwrap();
    let (mut client, mut call) = body(&gate, &mut calls, "/events", &token(&issuer, "read:weather"), EVENTS).await;

    issuer.revoke(&grant);

    assert_eq!(client.read_until("0\r\n\r\n").await, "0\r\n\r\n");
    assert_eq!(call.rest().await, "");
    assert_eq!(gate.metric("wicketgate_streams_ended_total{reason=\"consent_withdrawn\"}").await, Some(1.0));
}
