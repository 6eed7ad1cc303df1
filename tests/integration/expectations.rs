//! `Expect: 100-continue`: a client that asks first learns the decision before it sends its body (RFC 9110 §10.1.1).

use super::support::*;

#[tokio::test]
async fn a_permitted_client_is_told_to_go_on_and_then_answered() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let ask = gate.ask("PUT", "/forecast/oslo").token(&token(&issuer, "write:weather")).header("Content-Length: 4");
    let mut client = Connection::open(gate.address()).await;

    client.write(&ask.header("Expect: 100-Continue").bytes("")).await;
    assert_eq!(client.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write(b"body").await;

    assert_eq!(client.answer("PUT").await.status, 200);
    let received = upstream.only();
    assert_eq!((received.one("expect"), received.text().as_str()), (None, "body"));
}

#[tokio::test]
async fn a_refused_client_is_not_told_to_go_on_and_its_body_is_no_request() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let body = "GET /public/smuggled HTTP/1.1\r\nHost: gate\r\n\r\n";
    let ask = gate.ask("PUT", "/forecast/oslo").header(&format!("Content-Length: {}", body.len()));
    let mut client = Connection::open(gate.address()).await;

    client.write(&ask.header("Expect: 100-continue").bytes("")).await;
    assert!(client.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 401 "));
    client.write(body.as_bytes()).await;
    let rest = client.rest().await;

    assert!(rest.contains("token_missing") && !rest.contains("HTTP/1.1"), "{rest}");
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn an_expectation_that_nobody_knows_is_refused() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;

    for lines in ["Expect: 200-ok", "Expect: 100-continue, x", "Expect: 100-continue\r\nExpect: x=y"] {
        let answer = gate.ask("POST", "/public/a").header(lines).body("body").send().await;
        assert_eq!((answer.status, answer.code().as_str()), (417, "expectation_unknown"), "{lines}");
    }

    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn a_client_of_http_1_0_expects_nothing() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(b"POST /public/a HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody").await;

    assert!(client.rest().await.starts_with("HTTP/1.0 200 "));
    assert_eq!(upstream.only().text(), "body");
}
