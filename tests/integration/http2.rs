//! HTTP/2 by prior knowledge: the same gate, translated to HTTP/1.1 for the upstream as RFC 9113 asks.

use http::{HeaderMap, Request};

use super::support::*;

fn get(authority: &str, path: &str) -> http::request::Builder {
    Request::get(format!("http://{authority}{path}"))
}

#[tokio::test]
async fn a_request_arrives_in_the_form_of_http_1_1() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Http2::open(gate.address()).await;
    let request = get("api.weather.example", "/forecast/oslo?a=%2f")
        .header("authorization", format!("Bearer {}", token(&issuer, "read:weather")))
        .header("cookie", "a=1")
        .header("cookie", "b=2; c=3")
        .header("x-auth-subject", "admin")
        .body(())
        .unwrap();

    let answer = client.send(request).await;

    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let received = upstream.only();
    assert_eq!(received.line, "GET /forecast/oslo?a=%2f HTTP/1.1");
    // RFC 9113 §8.3.1 and §8.2.3.
    assert_eq!(received.one("host"), Some("api.weather.example"));
    assert_eq!(received.one("cookie"), Some("a=1; b=2; c=3"));
    assert_eq!(received.one("x-auth-subject"), Some("alice"));
    assert!(received.one("via").unwrap().starts_with("2 wicketgate-"));
    assert_eq!(received.headers.iter().filter(|(name, _)| name.starts_with(':')).count(), 0);
}

#[tokio::test]
async fn a_refusal_leaves_the_connection_to_other_requests() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Http2::open(gate.address()).await;

    let refused = client.send(get("gate", "/me").body(()).unwrap()).await;
    let public = client.send(get("gate", "/public/a").body(()).unwrap()).await;

    assert_eq!((refused.status, refused.code().as_str()), (401, "token_missing"));
    assert!(refused.header("www-authenticate").is_some());
    assert_eq!(public.status, 200);
}

#[tokio::test]
async fn a_body_streams_and_trailers_pass() {
    let (issuer, (upstream, mut calls)) = (issuer().await, Upstream::manual().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Http2::open(gate.address()).await;
    let request = Request::post("http://gate/public/a").header("te", "trailers").header("trailer", "x-sum, x-auth-subject");

    let mut exchange = client.begin(request.body(()).unwrap(), false).await;
    exchange.write("first");
    let mut call = calls.next().await;
    let head = call.read_until("first").await.to_lowercase();
    exchange.write("second");
    call.read_until("second").await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    trailers.insert("x-auth-subject", "admin".parse().unwrap());
    exchange.body.send_trailers(trailers).unwrap();
    let end = call.read_until("0\r\nx-sum: 1\r\n\r\n").await;
    call.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Auth-Subject\r\n\r\n2\r\nok\r\n0\r\n").await;
    call.write(b"X-Sum: 2\r\nX-Auth-Subject: admin\r\n\r\n").await;
    let answer = exchange.answer().await;

    assert!(head.contains("transfer-encoding: chunked\r\n") && head.contains("te: trailers\r\n"), "{head}");
    assert!(!end.to_lowercase().contains("x-auth-subject"), "{end}");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "2".to_owned())]);
}

/// RFC 9113 §8.3.1.
#[tokio::test]
async fn a_host_that_differs_from_the_authority_is_refused() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Http2::open(gate.address()).await;

    let other = client.send(get("gate", "/public/a").header("host", "other").body(()).unwrap()).await;
    let two = client.send(get("gate", "/public/a").header("host", "gate").header("host", "gate").body(()).unwrap()).await;
    let same = client.send(get("gate", "/public/a").header("host", "gate").body(()).unwrap()).await;

    assert_eq!((other.status, other.code().as_str()), (400, "host_invalid"));
    assert_eq!((two.status, two.code().as_str()), (400, "host_invalid"));
    assert_eq!(same.status, 200);
    assert_eq!(upstream.only().one("host"), Some("gate"));
}

#[tokio::test]
async fn connect_is_refused() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Http2::open(gate.address()).await;

    let refused = client.send(Request::connect("gate:80").body(()).unwrap()).await;

    assert_eq!((refused.status, refused.code().as_str()), (405, "method_refused"));
    assert_eq!(client.send(get("gate", "/public/a").body(()).unwrap()).await.status, 200);
}

/// RFC 9110 §9.3.2. hyper leaves the body out over HTTP/1.1 alone.
#[tokio::test]
async fn the_gates_own_answer_to_head_has_a_length_and_no_body() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Http2::open(gate.address()).await;
    let head = Request::head("http://gate/me").body(()).unwrap();

    let answer = client.send(head).await;

    assert_eq!((answer.status, answer.body.len(), answer.complete), (401, 0, true));
    assert_ne!(answer.header("content-length").as_deref(), Some("0"));
    assert_eq!(client.send(get("gate", "/public/a").body(()).unwrap()).await.status, 200);
}
