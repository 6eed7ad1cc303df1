//! Connections that are put to rest between requests: nothing is lost, and nothing is taken for a request that is none.

use super::support::*;

/// Longer than a connection waits before it is put to rest.
const A_WHILE: std::time::Duration = std::time::Duration::from_millis(800);

/// An upstream that answers the head at once and ends its body after a while, whatever the request's body.
async fn early_and_slow() -> Upstream {
    Upstream::by_hand(|mut stream| async move {
        use tokio::io::AsyncWriteExt;
        let mut buffer = Vec::new();
        let mut part = [0; 1024];
        while !buffer.windows(4).any(|bytes: &[u8]| bytes == b"\r\n\r\n") {
            match tokio::io::AsyncReadExt::read(&mut stream, &mut part).await {
                Ok(count) if count > 0 => buffer.extend_from_slice(&part[..count]),
                _ => return,
            }
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").await;
        // The time that passes is what is tested: the connection must not rest meanwhile.
        tokio::time::sleep(A_WHILE).await;
        let _ = stream.write_all(b"2\r\ncd\r\n0\r\n\r\n").await;
        let _ = stream.shutdown().await;
    })
    .await
}

#[tokio::test]
async fn a_connection_that_has_rested_serves_the_next_request() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut connection = Connection::open(gate.address()).await;
    for _ in 0..3 {
        connection.write(&gate.get("/public/x").bytes("")).await;
        assert_eq!(connection.answer("GET").await.status, 200);
        // Rest has no event of its own that a client could await.
        tokio::time::sleep(A_WHILE).await;
    }
    assert_eq!(upstream.received().len(), 3);
}

#[tokio::test]
async fn what_is_left_of_a_body_is_never_taken_for_a_request() {
    let (issuer, upstream) = (issuer().await, early_and_slow().await);
    let gate = gate(&issuer, &upstream).start().await;
    let inside = "GET /public/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut connection = Connection::open(gate.address()).await;
    connection.write(&gate.ask("POST", "/public/early").header("Content-Length: 1000000").bytes("")).await;
    assert_eq!(connection.answer("POST").await.text(), "abcd");
    connection.write(inside.repeat(20).as_bytes()).await;
    assert!(connection.is_closed().await);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn nothing_is_served_after_a_request_that_closes_the_connection() {
    let (issuer, upstream) = (issuer().await, early_and_slow().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut connection = Connection::open(gate.address()).await;
    let both = [gate.get("/public/slow").bytes("Connection: close"), gate.get("/public/after").bytes("")].concat();
    connection.write(&both).await;
    assert_eq!(connection.answer("GET").await.text(), "abcd");
    assert!(connection.is_closed().await);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_response_that_only_the_close_ends_ends_with_it() {
    let (issuer, upstream) = (issuer().await, early_and_slow().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut connection = Connection::open(gate.address()).await;
    connection.write(b"GET /public/slow HTTP/1.0\r\nHost: x\r\n\r\n").await;
    // Without a length or chunks, reading the answer ends when the connection does.
    assert_eq!(connection.answer("GET").await.text(), "abcd");
}
