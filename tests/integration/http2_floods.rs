//! Frames that cost their client nothing: each flood of them ends its connection, is counted, and costs nobody else anything.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;

/// Well below what h2 itself takes (50 resets, 100 empty frames), so that it is told whose limit it was.
const SETTINGS: &str = "limits: { http2_resets: 20, http2_control_frames: 30 }";
const CALM: [u8; 4] = [0, 0, 0, 11];
/// GET, http, the path `/`, which no route names, and a host: in HPACK's static table but for the last.
const HEAD: &[u8] = &[0x82, 0x86, 0x84, 0x41, 4, b'g', b'a', b't', b'e'];
/// The same with POST and the path `/public/a`.
const POST_HEAD: &[u8] = &[0x83, 0x86, 0x44, 9, b'/', b'p', b'u', b'b', b'l', b'i', b'c', b'/', b'a', 0x41, 4, b'g', b'a', b't', b'e'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What the gate sends to who sends this, until it closes the connection.
async fn answer_to(address: SocketAddr, frames: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    // What comes after the limit may be refused already.
    let _ = stream.write_all(&[&hello, frames].concat()).await;
    let mut answer = Vec::new();
    let _ = soon("the end of the connection", stream.read_to_end(&mut answer)).await;
    answer
}

/// The code of the GOAWAY that came last, if one did.
fn goaway(mut answer: &[u8]) -> Option<[u8; 4]> {
    let mut code = None;
    while let [a, b, c, kind, rest @ ..] = answer {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = rest.get(5..5 + length)?;
        if *kind == 7 {
            code = payload.get(4..8).and_then(|code| code.try_into().ok());
        }
        answer = &rest[5 + length..];
    }
    code
}

async fn counted(gate: &Gate, limit: &str) -> Option<f64> {
    gate.metric(&format!("wicketgate_limited_total{{limit=\"{limit}\"}}")).await
}

#[tokio::test]
async fn a_flood_of_frames_that_carry_nothing_ends_its_connection_and_no_other() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SETTINGS).start().await;
    let mut neighbour = Http2::open(gate.address()).await;
    let floods: [(&str, Vec<u8>); 6] = [
        ("PING", frame(6, 0, 0, &[1; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("SETTINGS that say something", frame(4, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 3, 1])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("a kind that nobody knows", frame(0x42, 0, 0, &[7; 3])),
    ];

    for (i, (what, one)) in floods.into_iter().enumerate() {
        // The SETTINGS of the beginning are one of the thirty.
        let answer = answer_to(gate.address(), &one.repeat(30)).await;
        assert_eq!(goaway(&answer), Some(CALM), "{what}");
        assert_eq!(counted(&gate, "http2_control_frames").await, Some(i as f64 + 1.0), "{what}");
    }

    let flooded = "wicketgate_connection_errors_total{reason=\"flood\"}";
    until("all are counted", || async { gate.metric(flooded).await == Some(6.0) }).await;
    assert_eq!(neighbour.send(http::Request::get("http://gate/public/a").body(()).unwrap()).await.status, 200);
}

/// CVE-2023-44487.
#[tokio::test]
async fn streams_that_are_opened_and_reset_end_their_connection() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SETTINGS).start().await;
    let pair = |number: u32| [frame(1, 5, 2 * number + 1, HEAD), frame(3, 0, 2 * number + 1, &[0, 0, 0, 8])].concat();

    let answer = answer_to(gate.address(), &(0..21).flat_map(pair).collect::<Vec<_>>()).await;

    assert_eq!(goaway(&answer), Some(CALM));
    assert_eq!(counted(&gate, "http2_resets").await, Some(1.0));
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn floods_that_the_http2_library_bounds_end_their_connection_and_are_counted() {
    let (issuer, (upstream, _answers)) = (issuer().await, Upstream::held().await);
    let gate = gate(&issuer, &upstream).settings("limits: { http2_resets: 100000 }").start().await;
    // Streams beyond `limits.streams` are refused, and each refusal is a reset of the gate's own.
    let refused = (0..300).flat_map(|number| frame(1, 4, 2 * number + 1, POST_HEAD)).collect::<Vec<_>>();
    let endless = [frame(1, 0, 1, HEAD), frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b']).repeat(50)].concat();
    let empty = [frame(1, 4, 1, POST_HEAD), frame(0, 0, 1, &[]).repeat(200)].concat();

    for (i, (what, frames)) in
        [("CONTINUATION without an end", endless), ("empty DATA", empty), ("streams that are refused", refused)].into_iter().enumerate()
    {
        let answer = answer_to(gate.address(), &frames).await;
        assert_eq!(goaway(&answer), Some(CALM), "{what}");
        until(what, || async { counted(&gate, "http2_framing").await == Some(i as f64 + 1.0) }).await;
    }
}

#[tokio::test]
async fn a_client_that_keeps_below_the_limits_is_served() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SETTINGS).start().await;
    let mut stream = Connection::open(gate.address()).await;
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();

    stream.write(&hello).await;
    stream.write(&frame(6, 0, 0, b"the-most").repeat(29)).await;
    stream.write(&[frame(1, 4, 1, POST_HEAD), frame(0, 1, 1, b"x")].concat()).await;

    until("the request arrived", || async { upstream.received().len() == 1 }).await;
    assert_eq!((counted(&gate, "http2_control_frames").await, counted(&gate, "http2_resets").await), (Some(0.0), Some(0.0)));
}
