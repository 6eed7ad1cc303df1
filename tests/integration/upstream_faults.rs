//! A service that breaks breaks alone: its caller gets a true answer, and nobody gets another's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::support::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Reads a request, says these bytes and closes the connection.
async fn says_and_closes(bytes: &'static [u8]) -> Upstream {
    Upstream::by_hand(move |mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        let _ = stream.write_all(bytes).await;
    })
    .await
}

/// Closes with a reset instead of an end.
fn reset(connection: Connection) {
    connection.stream.set_zero_linger().unwrap();
}

#[tokio::test]
async fn an_upstream_that_refuses_is_a_502() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let closed = TcpListener::bind(loopback()).await.unwrap().local_addr().unwrap();
    let gate = gate(&issuer, &upstream).service("closed", "https://closed.example/c", &format!("http://{closed}"), "\n      /c/**: public");
    let gate = gate.in_service("    path: /c").start().await;

    let answer = gate.ask("POST", "/c/a").body("body").send().await;

    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_refused"));
    assert_eq!(gate.metric("wicketgate_refusals_total{reason=\"upstream_refused\",service=\"closed\"}").await, Some(1.0));
    assert!(!answer.text().contains(&closed.port().to_string()), "{}", answer.text());
    assert_eq!(gate.get("/public/a").send().await.status, 200);
}

#[tokio::test]
async fn an_upstream_that_breaks_off_before_its_answer_is_a_502() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;

    for begun in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"] {
        for resets in [false, true] {
            let mut client = Connection::open(gate.address()).await;
            client.write(&gate.get("/public/a").bytes("")).await;
            let mut call = calls.next().await;
            call.read_until("\r\n\r\n").await;
            call.write(begun.as_bytes()).await;
            if resets {
                reset(call)
            } else {
                drop(call)
            }
            let answer = client.answer("GET").await;
            assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"), "{begun:?} {resets}");
        }
    }

    assert!(calls.is_empty());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_whole_for_the_client_either() {
    let issuer = issuer().await;
    let broken: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ];
    for bytes in broken {
        let upstream = says_and_closes(bytes).await;
        let gate = gate(&issuer, &upstream).start().await;

        let mut client = Connection::open(gate.address()).await;
        client.write(&gate.get("/public/a").bytes("")).await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "half", false));
        assert_eq!(client.rest().await, "");
        let answer = Http2::open(gate.address()).await.send(Request::get("http://gate/public/a").body(()).unwrap()).await;
        assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "half", false));

        let series = "wicketgate_refusals_total{reason=\"upstream_broken\",service=\"weather\"}";
        until("both are counted", || async { gate.metric(series).await == Some(2.0) }).await;
        assert_eq!(upstream.connections(), 2);
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_and_breaks_off_is_not_whole() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.get("/public/a").bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(b"HTTP/1.0 200 OK\r\n\r\nhalf").await;
    let begun = client.read_until("half").await;
    reset(call);

    assert!(begun.starts_with("HTTP/1.1 200 OK\r\n"), "{begun}");
    assert_eq!(client.rest().await, "\r\n", "no last chunk");
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_a_504_after_the_routes_timeout() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).routes("\n      /slow: { access: public, timeout: 100ms }\n      /patient: public").start().await;
    let mut patient = Connection::open(gate.address()).await;
    patient.write(&gate.get("/patient").bytes("")).await;
    let mut patients_call = calls.next().await;

    for ask in [gate.get("/slow"), gate.ask("POST", "/slow").body("body")] {
        let answer = ask.send().await;
        assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_slow"));
        // The service is told that nobody waits.
        calls.next().await.rest().await;
    }

    patients_call.read_until("\r\n\r\n").await;
    patients_call.write(OK).await;
    assert_eq!(patient.answer("GET").await.status, 200);
}

#[tokio::test]
async fn an_upload_that_moves_is_no_silence_of_the_upstream() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings("timeouts: { response: 1s }").start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.ask("POST", "/public/a").header("Content-Length: 15").bytes("")).await;
    // The pace of the client is what is tested: 2.1 s altogether.
    let mut pace = tokio::time::interval(Duration::from_millis(150));
    for _ in 0..15 {
        pace.tick().await;
        client.write(b"x").await;
    }

    assert_eq!(client.answer("POST").await.status, 200);
}

/// RFC 9112 §6.3: the gate discards such an answer and closes the connection.
#[tokio::test]
async fn an_answer_that_is_no_http_is_a_502() {
    let issuer = issuer().await;
    let odd: [&[u8]; 16] = [
        b"220 mail.example ESMTP\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nokHTTP",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 5\r\n\r\nokHTTP",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/2 200\r\nContent-Length: 2\r\n\r\nok",
    ];
    for bytes in odd {
        let upstream = says_and_closes(bytes).await;
        let gate = gate(&issuer, &upstream).start().await;

        let answer = gate.get("/public/a").send().await;

        let shown = String::from_utf8_lossy(bytes);
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"), "{shown:?}");
    }
}

/// RFC 9112 §6.3, RFC 9110 §8.6: where one answer ends and the next begins is not known there.
#[tokio::test]
async fn the_connection_of_an_answer_with_two_lengths_is_never_used_again() {
    let issuer = issuer().await;
    let two: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    ];
    for bytes in two {
        let upstream = Upstream::answering(bytes).await;
        let gate = gate(&issuer, &upstream).start().await;

        for connections in 1..=3 {
            let answer = gate.get("/public/a").send().await;

            let shown = String::from_utf8_lossy(bytes);
            assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"), "{shown:?}");
            assert_eq!(upstream.connections(), connections, "{shown:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_while_idle_costs_no_request() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;

    for (ask, gate_sees_the_end_first) in [
        (gate.get("/public/a").bytes(""), true),
        (gate.get("/public/a").bytes(""), false),
        (gate.ask("POST", "/public/a").body("body").bytes(""), true),
        (gate.ask("POST", "/public/a").body("body").bytes(""), false),
    ] {
        let mut client = Connection::open(gate.address()).await;
        client.write(&gate.get("/public/first").bytes("")).await;
        let mut idle = calls.next().await;
        idle.read_until("\r\n\r\n").await;
        idle.write(OK).await;
        assert_eq!(client.answer("GET").await.status, 200);
        if gate_sees_the_end_first {
            drop(idle);
            client.write(&ask).await;
        } else {
            // Request and end are there when the gate's next task runs, so that it takes the connection for a good one.
            client.write_now(&ask);
            drop(idle);
        }
        let mut fresh = calls.next().await;
        fresh.read_until(if ask.ends_with(b"body") { "body" } else { "\r\n\r\n" }).await;
        fresh.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.answer("GET").await.status, 200);
    }
}

/// RFC 9110 §9.2.2: what may have been done is not asked for again.
#[tokio::test]
async fn a_request_that_was_sent_is_never_sent_twice() {
    let issuer = issuer().await;
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let upstream = Upstream::by_hand(move |mut stream: TcpStream| {
        let counted = counted.clone();
        async move {
            // The first request of a connection is answered; the second kills it.
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                if counted.fetch_add(1, Ordering::SeqCst) % 2 == 1 || stream.write_all(OK).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gate = gate(&issuer, &upstream).start().await;

    for (round, ask) in [gate.get("/public/a"), gate.ask("POST", "/public/a").body("body")].into_iter().enumerate() {
        assert_eq!(gate.get("/public/first").send().await.status, 200);
        let answer = ask.send().await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"));
        assert_eq!((requests.load(Ordering::SeqCst), upstream.connections()), (2 * round + 2, round + 1));
    }
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_a_502() {
    let issuer = issuer().await;
    let upstream = says_and_closes(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nbytes").await;
    let gate = gate(&issuer, &upstream).start().await;

    for lines in ["X-A: b", "Connection: upgrade\r\nUpgrade: h2c"] {
        let answer = gate.get("/public/a").header(lines).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "upgrade_invalid"), "{lines}");
    }
}

/// RFC 9112 §9.2: bytes behind an answer are no answer to anyone.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_given_to_nobody() {
    let issuer = issuer().await;
    let upstream = Upstream::answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Poison: 1\r\n\r\npoisoned",
    )
    .await;
    let gate = gate(&issuer, &upstream).start().await;

    for _ in 0..20 {
        let answer = gate.get("/public/a").send().await;
        assert_eq!((answer.status, answer.text().as_str(), answer.header("x-poison")), (200, "ok", None));
    }
}

#[tokio::test]
async fn an_answer_that_comes_between_two_requests_is_given_to_nobody() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;
    client.write(&gate.get("/public/first").bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    call.write(OK).await;
    assert_eq!(client.answer("GET").await.status, 200);

    call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned").await;
    // The gate hangs up on a service that speaks out of turn.
    assert_eq!(call.rest().await, "");
    client.write(&gate.get("/public/second").bytes("")).await;
    let mut fresh = calls.next().await;
    fresh.read_until("\r\n\r\n").await;
    fresh.write(OK).await;

    assert_eq!(client.answer("GET").await.text(), "ok");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.get("/public/a").bytes("")).await;
    let mut call = calls.next().await;
    call.read_until("\r\n\r\n").await;
    drop(client);

    assert_eq!(call.rest().await, "");
    let series = "wicketgate_refusals_total{reason=\"client_gone\",service=\"weather\"}";
    until("it is counted", || async { gate.metric(series).await == Some(1.0) }).await;
}
