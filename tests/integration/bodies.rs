//! Bodies stream both ways: a piece goes on as soon as it is there, and no faster than the other side takes it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;

/// More than the sockets on the way hold.
const MANY_BYTES: usize = 64 << 20;
/// How long a writer that can write nothing is taken to be held back.
const HELD_BACK: Duration = Duration::from_millis(300);

#[tokio::test]
async fn an_event_reaches_the_client_while_the_upstream_holds_the_next_one() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.get("/public/events").bytes("Accept: text/event-stream")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(client.read_until("\r\n\r\n").await.contains("text/event-stream"));
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        call.write(format!("9\r\n{event}\r\n").as_bytes()).await;
        client.read_until(event).await;
    }
    call.write(b"0\r\n\r\n").await;

    assert_eq!(client.read_until("0\r\n\r\n").await, "\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_piece_of_a_request_reaches_the_upstream_before_the_client_sends_the_next() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.ask("POST", "/public/a").header("Transfer-Encoding: chunked").bytes("")).await;
    client.write(b"5;ext=1\r\nfirst\r\n").await;
    let mut call = calls.next().await;
    let head = call.read_until("first").await;
    client.write(b"6\r\nsecond\r\n").await;
    call.read_until("second").await;
    // The upstream may begin its answer before the request has ended.
    call.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n").await;
    client.read_until("early").await;
    client.write(b"0\r\n\r\n").await;
    call.read_until("\r\n0\r\n\r\n").await;
    call.write(b"4\r\nlate\r\n0\r\n\r\n").await;

    client.read_until("late").await;
    assert!(head.to_lowercase().contains("transfer-encoding: chunked\r\n") && !head.contains("ext=1"), "{head}");
}

#[tokio::test]
async fn a_body_with_a_length_keeps_it() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate.ask("PUT", "/public/a").body("12345").send().await;

    assert_eq!((answer.status, answer.header("content-length").as_deref()), (200, Some("2")));
    let received = upstream.only();
    assert_eq!((received.one("content-length"), received.one("transfer-encoding"), received.text().as_str()), (Some("5"), None, "12345"));
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_reaches_the_client_whole() {
    let issuer = issuer().await;
    let upstream = Upstream::by_hand(|mut stream: TcpStream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end").await;
    })
    .await;
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate.get("/public/a").send().await;

    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "to the end", true));
    assert_eq!(answer.header("transfer-encoding").as_deref(), Some("chunked"));
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(b"GET /public/a HTTP/1.0\r\n\r\n").await;
    let answer = client.rest().await;

    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK") && !head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(body, "ok");
    assert!(upstream.only().one("via").unwrap().starts_with("1.0 "));
}

/// Writes until nothing was taken for a while or all is written.
async fn write_until_held_back(stream: &mut TcpStream, bytes: usize) -> usize {
    let piece = vec![b'x'; 256 << 10];
    let mut written = 0;
    while written < bytes {
        let part = &piece[..piece.len().min(bytes - written)];
        match tokio::time::timeout(HELD_BACK, stream.write(part)).await {
            Ok(count) => written += count.unwrap(),
            Err(_) => break,
        }
    }
    written
}

async fn read_and_count(stream: &mut TcpStream, bytes: usize) {
    let (mut piece, mut read) = (vec![0; 256 << 10], 0);
    while read < bytes {
        let count = soon("a part of the body", stream.read(&mut piece)).await.unwrap();
        assert!(count > 0, "{read} of {bytes} bytes came");
        read += count;
    }
    assert_eq!(read, bytes);
}

#[tokio::test]
async fn an_upstream_is_held_back_by_a_client_that_does_not_read() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.get("/public/large").bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {MANY_BYTES}\r\n\r\n").as_bytes()).await;
    let written = write_until_held_back(&mut call.stream, MANY_BYTES).await;
    assert!(written < MANY_BYTES / 2, "{written} bytes were taken from the upstream and none by the client");

    let rest = async {
        call.stream.write_all(&vec![b'x'; MANY_BYTES - written]).await.unwrap();
    };
    let read = async {
        client.read_until("\r\n\r\n").await;
        let early = client.take_buffered();
        read_and_count(&mut client.stream, MANY_BYTES - early).await;
    };
    tokio::join!(rest, read);
}

#[tokio::test]
async fn a_client_is_held_back_by_an_upstream_that_does_not_read() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.ask("POST", "/public/large").header(&format!("Content-Length: {MANY_BYTES}")).bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    let early = call.take_buffered();
    let written = write_until_held_back(&mut client.stream, MANY_BYTES).await;
    assert!(written < MANY_BYTES / 2, "{written} bytes were taken from the client and none by the upstream");

    let rest = async {
        client.stream.write_all(&vec![b'x'; MANY_BYTES - written]).await.unwrap();
    };
    tokio::join!(rest, read_and_count(&mut call.stream, MANY_BYTES - early));
    call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;

    assert_eq!(client.answer("POST").await.status, 200);
}

/// RFC 9110 §6.5.1 and §7.6.1.
#[tokio::test]
async fn trailers_of_a_request_pass_except_those_that_only_a_head_may_have() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;
    let forbidden = ["X-Auth-Subject", "X_Auth_Subject", "X-Hop", "Authorization", "Content-Length", "Host", "X-Forwarded-For"];

    let ask = gate.ask("POST", "/public/a").header("Transfer-Encoding: chunked").header("Connection: X-Hop");
    client.write(&ask.bytes(&format!("Trailer: X-Checksum, {}", forbidden.join(", ")))).await;
    client.write(b"2\r\nab\r\n0\r\nX-Checksum: abc\r\n").await;
    client.write(format!("{}: 1\r\n\r\n", forbidden.join(": 1\r\n")).as_bytes()).await;

    assert_eq!(client.answer("POST").await.status, 200);
    let body = upstream.only().text().to_lowercase();
    assert_eq!(body, "2\r\nab\r\n0\r\nx-checksum: abc\r\n\r\n");
}

#[tokio::test]
async fn trailers_of_a_response_pass_to_a_client_that_wants_them() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(
        b"HTTP/1.1 200 OK\r\nConnection: x-hop\r\nTrailer: X-Checksum, X-Hop, X-Auth-Subject, Set-Cookie\r\n\
          Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Checksum: abc\r\nX-Hop: 1\r\nX-Auth-Subject: admin\r\nSet-Cookie: a=b\r\n\r\n",
    )
    .await;
    let gate = gate(&issuer, &upstream).start().await;

    let answer = gate.get("/public/a").header("TE: trailers").header("Connection: TE").send().await;

    assert_eq!((answer.text().as_str(), answer.complete), ("ok", true));
    assert_eq!(answer.trailers, [("x-checksum".to_owned(), "abc".to_owned())]);
    assert_eq!(upstream.only().one("te"), Some("trailers"));
}

/// RFC 9112 §9.6.
#[tokio::test]
async fn a_refused_client_that_is_still_sending_reads_its_answer_and_is_not_reset() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    for framing in ["Transfer-Encoding: chunked", "Content-Length: 100000"] {
        let mut client = Connection::open(gate.address()).await;
        client.write(&gate.ask("PUT", "/forecast/oslo").header(framing).bytes("")).await;
        assert_eq!(client.answer("PUT").await.status, 401, "{framing}");
        assert!(client.is_closed().await, "{framing}");
        // A closed socket would answer the first of these with a reset, and the next would fail.
        for piece in 0..3 {
            tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"5\r\nhello\r\n")
                .await
                .unwrap_or_else(|error| panic!("{piece}: {error}"));
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    assert!(upstream.received().is_empty());
}

/// hyper's client leaves it out unless a header says that there is one.
#[tokio::test]
async fn the_body_of_a_get_without_a_length_is_not_lost() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.get("/public/search").bytes("Transfer-Encoding: chunked")).await;
    client.write(b"5\r\nquery\r\n0\r\n\r\n").await;

    assert_eq!(client.answer("GET").await.status, 200);
    assert_eq!(upstream.only().text(), "5\r\nquery\r\n0\r\n\r\n");
}
