//! Answers that end before their request has: the client reads its answer, and what is left of the request has places and
//! an end like everything else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::support::*;

const ROUTES: &str = "\n      /u/**: public";
const REFUSED: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!";
const REFUSED_AND_CLOSED: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// More than all buffers on the way take.
const HUGE: &str = "Content-Length: 500000000";

/// A gate with a service `u` whose upstream is written so.
async fn gate_to(upstream: &str, settings: &str) -> Gate {
    let (issuer, other) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &other).service("u", "https://u.example/u", upstream, ROUTES).in_service("    path: /u");
    gate.settings(settings).start().await
}

async fn read_head(stream: &mut TcpStream) -> bool {
    let (mut seen, mut byte) = (Vec::new(), [0; 1]);
    while !seen.ends_with(b"\r\n\r\n") {
        let Ok(1) = stream.read(&mut byte).await else { return false };
        seen.push(byte[0]);
    }
    true
}

/// Refuses the upload on its first connection at once; what comes of it is read or not. Others are served.
async fn refusing(reads: bool) -> Upstream {
    let first = Arc::new(Mutex::new(true));
    Upstream::by_hand(move |mut stream| {
        let refuses = std::mem::take(&mut *first.lock().unwrap());
        async move {
            while read_head(&mut stream).await {
                let _ = stream.write_all(if refuses { REFUSED } else { OK }).await;
                match (refuses, reads) {
                    (true, true) => drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await),
                    (true, false) => std::future::pending().await,
                    (false, _) => {}
                }
            }
        }
    })
    .await
}

/// Goes on with its upload until the connection is closed, without ever being silent for long.
fn upload(to: TcpStream, piece: usize) -> (Connection, tokio::task::JoinHandle<()>) {
    let writes = to.into_std().unwrap();
    let reads = TcpStream::from_std(writes.try_clone().unwrap()).unwrap();
    let mut writes = TcpStream::from_std(writes).unwrap();
    let writing = tokio::spawn(async move {
        while writes.write_all(&vec![b'x'; piece]).await.is_ok() {
            // Time passes on purpose: what is tested is an upload that always moves.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    (Connection::over(reads), writing)
}

#[tokio::test]
async fn an_upload_goes_on_for_a_while_after_its_answer_and_no_longer() {
    for (reads, piece) in [(true, 1), (false, 256 << 10)] {
        let upstream = refusing(reads).await;
        let written = format!("{{ url: '{}', connections: 1, timeouts: {{ connect: 5s }} }}", upstream.url());
        let gate = gate_to(&written, "timeouts: { body: 300ms }").await;
        let mut client = Connection::open(gate.address()).await;
        client.write(&gate.ask("POST", "/u/a").header(HUGE).bytes("")).await;

        let (mut client, writing) = upload(client.stream, piece);
        let answer = client.answer("POST").await;
        // The endpoint has one connection, and waits until it is free.
        let next = gate.get("/u/b").send().await;

        assert_eq!((answer.status, answer.text().as_str()), (413, "no!"), "{reads}");
        assert_eq!((next.status, upstream.connections()), (200, 2), "{reads}");
        assert!(client.is_closed().await, "{reads}");
        soon("the end of the upload", writing).await.unwrap();
    }
}

#[tokio::test]
async fn an_upload_keeps_its_place_until_it_has_ended_and_then_everything_is_used_again() {
    let upstream = Upstream::by_hand(|mut stream| async move {
        let mut answer: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nearly";
        while read_head(&mut stream).await {
            let early = answer != OK;
            let _ = stream.write_all(std::mem::replace(&mut answer, OK)).await;
            if early && stream.read_exact(&mut [0; 10]).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gate = gate_to(&format!("'{}'", upstream.url()), "limits: { requests: 1, request_queue: 0 }").await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.ask("POST", "/u/a").header("Content-Length: 10").bytes("")).await;
    assert_eq!(client.answer("POST").await.text(), "early");

    for _ in 0..3 {
        let refused = gate.get("/u/b").send().await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    }
    client.write(b"0123456789").await;
    until("the place is free", || async { gate.get("/u/c").send().await.status == 200 }).await;
    client.write(&gate.get("/u/d").bytes("")).await;

    assert_eq!(client.answer("GET").await.text(), "ok");
    assert_eq!(upstream.connections(), 1);
}

/// RFC 9112 §9.6: a client that writes first and reads later must not lose its answer to a reset.
#[tokio::test]
async fn a_client_that_still_writes_when_the_service_has_closed_is_not_reset() {
    let upstream = Upstream::by_hand(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(REFUSED_AND_CLOSED).await;
    })
    .await;
    let gate = gate_to(&format!("'{}'", upstream.url()), "").await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.ask("POST", "/u/a").header(HUGE).bytes("")).await;

    let answer = client.answer("POST").await;
    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (413, "no!", true));
    assert!(client.is_closed().await, "the gate says no more");
    for _ in 0..10 {
        soon("writing", client.stream.write_all(&[b'x'; 16 << 10])).await.expect("a reset would take an answer away that was not read yet");
    }
}

/// Answers POST before its body has come, which it reads only if it is told to. It also tells on which connection each
/// request came.
async fn early_http2(reads: bool) -> (Upstream, UnboundedReceiver<Option<Reason>>, Arc<Mutex<Vec<usize>>>) {
    let (sender, resets) = unbounded_channel();
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (noted, count) = (seen.clone(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let upstream = Upstream::by_hand(move |stream| {
        let (sender, noted, number) = (sender.clone(), noted.clone(), count.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        async move {
            serve_http2(stream, move |(request, mut respond)| {
                noted.lock().unwrap().push(number);
                let sender = sender.clone();
                async move {
                    let posted = request.method() == "POST";
                    let mut body = request.into_body();
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(b"early"), true).unwrap();
                    if !posted {
                        return;
                    }
                    loop {
                        match body.data().await {
                            Some(Ok(part)) if reads => drop(body.flow_control().release_capacity(part.len())),
                            Some(Ok(_)) => {}
                            Some(Err(error)) => {
                                let _told = sender.send(error.reason());
                                return;
                            }
                            None => return,
                        }
                    }
                }
            })
            .await;
        }
    })
    .await;
    (upstream, resets, seen)
}

/// A body that is whole, and for which the service never makes room, is not sent.
#[tokio::test]
async fn what_waits_for_room_after_the_answer_is_reset_after_a_while() {
    let (sender, mut resets) = unbounded_channel();
    let upstream = Upstream::by_hand(move |stream| {
        let sender = sender.clone();
        async move {
            let mut builder = h2::server::Builder::new();
            let Ok(mut connection) = builder.initial_window_size(0).max_concurrent_streams(1).handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(b"early"), true).unwrap();
                    if let Some(Err(error)) = request.into_body().data().await {
                        let _told = sender.send(error.reason());
                    }
                });
            }
        }
    })
    .await;
    let gate = gate_to(&format!("{{ url: '{}', protocol: http2 }}", upstream.url()), "timeouts: { body: 300ms }").await;
    // It has said how much room there is.
    assert_eq!(gate.get("/u/a").send().await.text(), "early");

    for _ in 0..3 {
        assert_eq!(gate.ask("POST", "/u/b").body("small").send().await.text(), "early");
        assert_eq!(soon("the reset", resets.recv()).await, Some(Some(Reason::CANCEL)));
    }
    assert_eq!(gate.get("/u/c").send().await.text(), "early");
    assert_eq!(upstream.connections(), 1);
}

/// RFC 9113 §5.1: a stream is open until it was ended both ways.
#[tokio::test]
async fn a_stream_counts_until_its_request_has_ended_as_well() {
    let (upstream, _resets, seen) = early_http2(true).await;
    let gate = gate_to(&format!("{{ url: '{}', protocol: http2, streams: 1 }}", upstream.url()), "").await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.ask("POST", "/u/a").header("Content-Length: 10").bytes("")).await;
    assert_eq!(client.answer("POST").await.text(), "early");

    assert_eq!(gate.get("/u/b").send().await.text(), "early");
    assert_eq!(*seen.lock().unwrap(), [0, 1], "the first connection is full");
    client.write(b"0123456789").await;
    until("the first connection is used again", || async {
        gate.get("/u/c").send().await;
        seen.lock().unwrap().last() == Some(&0)
    })
    .await;
    client.write(&gate.get("/u/d").bytes("")).await;

    assert_eq!(client.answer("GET").await.text(), "early");
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_stream_whose_request_goes_on_is_reset_after_a_while_even_where_there_is_no_room() {
    for (reads, piece) in [(true, 1), (false, 64 << 10)] {
        let (upstream, mut resets, seen) = early_http2(reads).await;
        let written = format!("{{ url: '{}', protocol: http2 }}", upstream.url());
        let gate = gate_to(&written, "timeouts: { body: 300ms }").await;
        let mut client = Connection::open(gate.address()).await;
        client.write(&gate.ask("POST", "/u/a").header(HUGE).bytes("")).await;

        let (mut client, writing) = upload(client.stream, piece);

        assert_eq!(client.answer("POST").await.text(), "early");
        assert_eq!(soon("the reset", resets.recv()).await, Some(Some(Reason::CANCEL)));
        assert!(client.is_closed().await);
        soon("the end of the upload", writing).await.unwrap();
        assert_eq!(gate.get("/u/b").send().await.text(), "early");
        assert_eq!(*seen.lock().unwrap(), [0, 0], "the others go on");
    }
}
