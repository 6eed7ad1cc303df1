//! gRPC: a deadline over the whole call, streams that are silent for long, and every end of a call a status.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};

use super::support::*;

const ROUTES: &str = "
      POST /chat.Chat/Talk: read:weather
      POST /open.Open/Talk: public";
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n";
const HELLO: &[u8] = b"\0\0\0\0\x05hello";

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn call(gate: &Gate, token: Option<&str>, lines: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://{}/chat.Chat/Talk", gate.address())).header("te", "trailers");
    if !lines.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc+proto");
    }
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(()).unwrap()
}

fn status(answer: &Answer) -> (u16, Option<String>, Option<String>) {
    let lines = if answer.trailers.is_empty() { &answer.headers } else { &answer.trailers };
    let find = |wanted: &str| lines.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    (answer.status, find("grpc-status"), find("grpc-message"))
}

async fn scene(settings: &str) -> (wicketgate::demo::Issuer, Upstream, Calls, Gate, String) {
    let (issuer, (upstream, calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).routes(ROUTES).settings(settings).start().await;
    let token = token(&issuer, "read:weather");
    (issuer, upstream, calls, gate, token)
}

#[tokio::test]
async fn a_deadline_that_passes_before_the_answer_is_status_4_and_the_service_is_let_go() {
    let (_issuer, _upstream, mut calls, gate, token) = scene("").await;
    let mut http2 = Http2::open(gate.address()).await;

    let exchange = http2.begin(call(&gate, Some(&token), &[("grpc-timeout", "300m")]), true).await;
    let mut served = calls.next().await;
    assert!(served.read_until("\r\n\r\n").await.to_lowercase().contains("\r\ngrpc-timeout: 300m\r\n"));
    let answer = exchange.answer().await;

    let message = "The call took longer than its own grpc-timeout".to_owned();
    assert_eq!(status(&answer), (200, Some("4".to_owned()), Some(message)));
    assert_eq!(answer.header("content-type").as_deref(), Some("application/grpc"));
    assert_eq!(served.rest().await, "");
    assert_eq!(gate.metric("wicketgate_refusals_total{reason=\"deadline_exceeded\",service=\"weather\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_deadline_runs_over_the_whole_stream_whatever_moves_and_ends_it_between_two_messages() {
    let (_issuer, _upstream, mut calls, gate, token) = scene("").await;
    let mut http2 = Http2::open(gate.address()).await;

    let mut exchange = http2.begin(call(&gate, Some(&token), &[("grpc-timeout", "1S")]), false).await;
    let mut served = calls.next().await;
    served.read_until("\r\n\r\n").await;
    served.write(HEAD).await;
    let steps = async {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        loop {
            pace.tick().await;
            exchange.body.send_data(Bytes::from_static(HELLO), false).unwrap();
            served.read_until("hello").await;
            served.write(&chunk(HELLO)).await;
        }
    };
    let begun = std::time::Instant::now();
    let _ = tokio::time::timeout(Duration::from_millis(700), steps).await;
    let answer = exchange.answer().await;

    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(status(&answer).1.as_deref(), Some("4"));
    assert!(answer.body.len() >= HELLO.len() && answer.body.len() % HELLO.len() == 0);
    let _ = served.rest().await;
}

#[tokio::test]
async fn a_client_that_still_sends_may_be_silent_for_longer_than_any_time_of_a_request() {
    // Each message is answered; what comes after the last is a trailer that no service may set.
    let upstream = http2_upstream(|_, (request, mut respond)| async move {
        let mut body = request.into_body();
        let first = body.data().await.unwrap().unwrap();
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(first, false).unwrap();
        while let Some(Ok(_)) = body.data().await {}
        let trailers = [("grpc-status", "0"), ("x-auth-subject", "mallory")];
        let field = |(name, value): (&'static str, &'static str)| (name.parse().unwrap(), value.parse().unwrap());
        stream.send_trailers(trailers.map(field).into_iter().collect::<HeaderMap>()).unwrap();
    })
    .await;
    let (issuer, other) = (issuer().await, Upstream::friendly().await);
    let url = format!("{{ url: '{}', protocol: http2 }}", upstream.url());
    let gate = gate(&issuer, &other).service("u", "https://u.example/u", &url, "\n      POST /u/Talk: public").in_service("    path: /u");
    let gate = gate.settings("timeouts: { response: 200ms, body: 200ms }").start().await;
    let mut http2 = Http2::open(gate.address()).await;

    let call = Request::post(format!("http://{}/u/Talk", gate.address())).header("te", "trailers");
    let mut exchange = http2.begin(call.header("content-type", "application/grpc").body(()).unwrap(), false).await;
    // Several times as long as either of them: before the answer has begun, and after.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    exchange.body.send_data(Bytes::from_static(HELLO), false).unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    exchange.body.send_data(Bytes::from_static(HELLO), true).unwrap();
    let answer = exchange.answer().await;

    assert_eq!((status(&answer), answer.body.as_slice()), ((200, Some("0".to_owned()), None), HELLO));
    assert!(!answer.trailers.iter().any(|(name, _)| name == "x-auth-subject"), "{:?}", answer.trailers);
}

#[tokio::test]
async fn a_service_that_has_all_messages_and_begins_no_answer_is_slow() {
    let (_issuer, _upstream, mut calls, gate, token) = scene("timeouts: { response: 200ms }").await;
    let mut http2 = Http2::open(gate.address()).await;

    let exchange = http2.begin(call(&gate, Some(&token), &[("grpc-timeout", "1H")]), true).await;
    let mut served = calls.next().await;
    let answer = exchange.answer().await;

    assert_eq!(status(&answer), (200, Some("4".to_owned()), Some("The service did not answer in time".to_owned())));
    served.read_until("\r\n\r\n").await;
    assert_eq!(served.rest().await, "");
}

#[tokio::test]
async fn a_call_on_which_nothing_moves_at_all_ends_and_one_that_moves_does_not() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    // The service's own patience, which is the same by default, is not what is looked at.
    let patient = format!("{{ url: '{}', timeouts: {{ idle: 1h }} }}", upstream.url());
    let gate = gate(&issuer, &upstream).routes(ROUTES).upstream(&patient).settings("timeouts: { tunnel_idle: 600ms }").start().await;
    let token = token(&issuer, "read:weather");
    let mut http2 = Http2::open(gate.address()).await;
    let mut idle = Vec::new();
    for answered in [false, true] {
        let exchange = http2.begin(call(&gate, Some(&token), &[]), false).await;
        let mut served = calls.next().await;
        served.read_until("\r\n\r\n").await;
        if answered {
            served.write(&[HEAD, &chunk(HELLO)].concat()).await;
        }
        idle.push((exchange, served));
    }
    let busy = http2.begin(call(&gate, Some(&token), &[]), false).await;
    let mut busy_served = calls.next().await;
    busy_served.write(HEAD).await;
    let keep_busy = async {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        loop {
            pace.tick().await;
            busy_served.write(&chunk(HELLO)).await;
        }
    };
    let both_end = async {
        for (exchange, mut served) in idle {
            assert_eq!(status(&exchange.answer().await).1.as_deref(), Some("4"));
            let _ = served.rest().await;
        }
    };
    tokio::select! {
        () = both_end => {}
        () = keep_busy => {}
    }
    busy_served.write(b"0\r\ngrpc-status: 0\r\n\r\n").await;
    let answer = busy.answer().await;
    assert_eq!(status(&answer).1.as_deref(), Some("0"));
    assert!(answer.body.len() > HELLO.len());
    // One before its answer began, one in the middle of it.
    assert_eq!(gate.metric("wicketgate_limited_total{limit=\"tunnel_idle\"}").await, Some(2.0));
}

#[tokio::test]
async fn a_client_that_cancels_is_gone_for_the_service_at_once() {
    let (_issuer, _upstream, mut calls, gate, token) = scene("").await;
    let mut http2 = Http2::open(gate.address()).await;
    for answered in [false, true] {
        let mut exchange = http2.begin(call(&gate, Some(&token), &[]), false).await;
        let mut served = calls.next().await;
        served.read_until("\r\n\r\n").await;
        if answered {
            served.write(&[HEAD, &chunk(HELLO)].concat()).await;
            // The gate has the head of the answer.
            until("the stream is open", || async { gate.metric("wicketgate_requests_in_flight").await == Some(1.0) }).await;
        }
        exchange.body.send_reset(Reason::CANCEL);
        let _ = served.rest().await;
        until("the call is over", || async { gate.metric("wicketgate_requests_in_flight").await == Some(0.0) }).await;
    }
}

#[tokio::test]
async fn a_service_that_breaks_off_between_two_messages_is_status_14_and_in_the_middle_of_one_a_reset() {
    let (_issuer, _upstream, mut calls, gate, token) = scene("").await;
    let mut http2 = Http2::open(gate.address()).await;

    let exchange = http2.begin(call(&gate, Some(&token), &[]), true).await;
    let mut served = calls.next().await;
    served.read_until("\r\n\r\n").await;
    served.write(&[HEAD, &chunk(HELLO)].concat()).await;
    drop(served);
    let answer = exchange.answer().await;
    assert_eq!((status(&answer).1.as_deref(), answer.body.as_slice()), (Some("14"), HELLO));

    let exchange = http2.begin(call(&gate, Some(&token), &[]), true).await;
    let mut served = calls.next().await;
    served.read_until("\r\n\r\n").await;
    served.write(&[HEAD, &chunk(b"\0\0\0\0\x05hel")].concat()).await;
    drop(served);
    assert!(!exchange.answer().await.complete);
}

#[tokio::test]
async fn every_refusal_of_a_call_is_a_status_and_of_grpc_web_an_http_status() {
    let issuer = issuer().await;
    let upstream = Upstream::friendly().await;
    let limits = "limits: { header_bytes: 16KiB, body_bytes: 1KiB }";
    let gate = gate(&issuer, &upstream).routes(ROUTES).settings(limits).start().await;
    let (read, write) = (token(&issuer, "read:weather"), token(&issuer, "write:weather"));
    let long = "x".repeat(17 << 10);
    type Row<'r> = (Option<&'r str>, &'r [(&'r str, &'r str)], u16, &'r str);
    let table: [Row; 5] = [
        (None, &[], 401, "16"),
        (Some(&write), &[], 403, "7"),
        (Some(&read), &[("x-long", &long)], 431, "8"),
        (Some(&read), &[("expect", "magic")], 417, "3"),
        (Some(&read), &[("content-length", "2000")], 413, "8"),
    ];
    for content_type in ["application/grpc", "application/grpc-web+proto", "application/grpc-web-text"] {
        for (token, lines, http, grpc) in table {
            let mut http2 = Http2::open(gate.address()).await;
            let lines: Vec<(&str, &str)> = lines.iter().copied().chain([("content-type", content_type)]).collect();
            let exchange = http2.begin(call(&gate, token, &lines), !lines[0].0.starts_with("content-length")).await;
            let answer = exchange.answer().await;
            match content_type {
                "application/grpc" => {
                    assert_eq!(status(&answer).1.as_deref(), Some(grpc), "{http}");
                    assert!(answer.body.is_empty() && answer.trailers.is_empty());
                }
                _ => assert_eq!((answer.status, status(&answer).1), (http, None)),
            }
            assert_eq!(answer.header("www-authenticate").is_some(), http == 401 || http == 403);
        }
    }
    assert!(upstream.received().is_empty());
}

/// Its trailers are in the body (`0x80`), or all of it in Base64: bytes like any other.
#[tokio::test]
async fn grpc_web_passes_untouched_over_both_protocols() {
    const WEB: &[u8] = b"\0\0\0\0\x05hello\x80\0\0\0\x0fgrpc-status:0\r\n";
    let issuer = issuer().await;
    let answer = [b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\nContent-Length: 30\r\n\r\n", WEB].concat();
    let upstream = Upstream::answering_each(move |_| answer.clone()).await;
    let gate = gate(&issuer, &upstream).routes(ROUTES).start().await;
    let token = token(&issuer, "read:weather");
    let lines = [("content-type", "application/grpc-web+proto"), ("x-grpc-web", "1"), ("grpc-timeout", "5S")];

    let mut http2 = Http2::open(gate.address()).await;
    let mut exchange = http2.begin(call(&gate, Some(&token), &lines), false).await;
    exchange.body.send_data(Bytes::from_static(HELLO), true).unwrap();
    let over_http2 = exchange.answer().await;
    let mut ask = gate.ask("POST", "/chat.Chat/Talk").token(&token);
    for (name, value) in lines {
        ask = ask.header(&format!("{name}: {value}"));
    }
    let over_http1 = ask.body(std::str::from_utf8(HELLO).unwrap()).send().await;

    for answer in [over_http2, over_http1] {
        assert_eq!((answer.status, answer.body.as_slice()), (200, WEB));
        assert_eq!(answer.header("content-type").as_deref(), Some("application/grpc-web+proto"));
    }
    for received in upstream.received() {
        assert_eq!((received.one("x-grpc-web"), received.one("grpc-timeout")), (Some("1"), Some("5S")));
        assert!(received.text().contains("hello"));
    }
}
