//! TLS on the listeners: both protocols, in bounded time, with a certificate that can change.

use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;

const TLS: &str = "tls: { certificate_file: tls.crt, key_file: tls.key }\ntimeouts: { header: 300ms }";

async fn tls_gate(upstream: &Upstream, certificate: &Certificate) -> Gate {
    let issuer = issuer().await;
    gate(&issuer, upstream).settings(TLS).file("tls.crt", &certificate.pem).file("tls.key", &certificate.key_pem).start().await
}

/// Asks over a new connection with HTTP/1.1.
async fn ask(gate: &Gate, trusted: &Certificate) -> std::io::Result<String> {
    let mut stream = connect_tls(gate.address(), trusted, &["http/1.1"]).await?;
    stream.write_all(&gate.get("/public/a").bytes("Connection: close")).await?;
    let mut text = String::new();
    soon("an answer", stream.read_to_string(&mut text)).await?;
    Ok(text)
}

#[tokio::test]
async fn both_protocols_are_served_by_alpn() {
    let (upstream, certificate) = (Upstream::friendly().await, Certificate::new());
    let gate = tls_gate(&upstream, &certificate).await;

    let both = connect_tls(gate.address(), &certificate, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let answer = Http2::over(both).await.send(Request::get("https://localhost/public/a").body(()).unwrap()).await;
    let http1 = ask(&gate, &certificate).await.unwrap();

    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert!(http1.starts_with("HTTP/1.1 200 ") && http1.ends_with("ok"), "{http1}");
    for received in upstream.received() {
        assert_eq!(received.one("x-forwarded-proto"), Some("https"));
        assert!(received.one("forwarded").unwrap().ends_with(";proto=https"));
    }
}

#[tokio::test]
async fn a_client_that_offers_no_protocol_is_told_apart_by_its_first_bytes() {
    let (upstream, certificate) = (Upstream::friendly().await, Certificate::new());
    let gate = tls_gate(&upstream, &certificate).await;

    let plain = connect_tls(gate.address(), &certificate, &[]).await.unwrap();
    let answer = Http2::over(plain).await.send(Request::get("https://localhost/public/a").body(()).unwrap()).await;

    assert_eq!(answer.status, 200);
    assert!(connect_tls(gate.address(), &certificate, &["spdy/3"]).await.is_err());
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let (upstream, certificate) = (Upstream::friendly().await, Certificate::new());
    let gate = tls_gate(&upstream, &certificate).await;
    // Below the default of 10 s.
    let patience = Duration::from_secs(6);

    for bytes in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET /public/a HTTP/1.1\r\nHost: gate\r\n\r\n"] {
        let mut client = Connection::open(gate.address()).await;
        client.write(bytes).await;
        let rest = tokio::time::timeout(patience, client.rest()).await.expect("the connection is still open");
        assert!(!rest.contains("HTTP/"), "{rest}");
    }

    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart() {
    let (upstream, old, new) = (Upstream::friendly().await, Certificate::new(), Certificate::new());
    let mut gate = tls_gate(&upstream, &old).await;
    let mut open = Http2::over(connect_tls(gate.address(), &old, &["h2"]).await.unwrap()).await;
    assert!(ask(&gate, &new).await.is_err());

    gate.rewrite_files(&[("tls.crt", &new.pem), ("tls.key", &new.key_pem)]).await;

    assert!(ask(&gate, &new).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert!(ask(&gate, &old).await.is_err());
    let answer = open.send(Request::get("https://localhost/public/a").body(()).unwrap()).await;
    assert_eq!(answer.status, 200, "a connection with the old certificate goes on");
}

#[tokio::test]
async fn a_certificate_without_its_key_changes_nothing() {
    let (upstream, old, new) = (Upstream::friendly().await, Certificate::new(), Certificate::new());
    let mut gate = tls_gate(&upstream, &old).await;

    gate.rewrite_files(&[("tls.crt", &new.pem)]).await;
    assert!(ask(&gate, &old).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(gate.metric("wicketgate_config_last_reload_successful").await, Some(0.0));
    gate.rewrite_files(&[("tls.key", &new.key_pem)]).await;

    assert!(ask(&gate, &new).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(gate.metric("wicketgate_config_last_reload_successful").await, Some(1.0));
}

#[tokio::test]
async fn tls_can_be_turned_on_while_connections_are_open() {
    let (issuer, upstream, certificate) = (issuer().await, Upstream::friendly().await, Certificate::new());
    let plain = gate(&issuer, &upstream).file("tls.crt", &certificate.pem).file("tls.key", &certificate.key_pem);
    let mut gate = plain.start().await;
    let mut open = Connection::open(gate.address()).await;
    open.write(&gate.get("/public/a").bytes("")).await;
    assert_eq!(open.answer("GET").await.status, 200);

    gate.rewrite(&super::support::gate(&issuer, &upstream).settings(TLS).yaml()).await;

    assert!(ask(&gate, &certificate).await.unwrap().starts_with("HTTP/1.1 200 "));
    open.write(&gate.get("/public/a").bytes("")).await;
    assert_eq!(open.answer("GET").await.status, 200);
}
