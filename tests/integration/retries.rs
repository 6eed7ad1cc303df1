//! What is tried again, and what never is: a request that may have arrived is sent once more only where twice is as once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::balancing::ask_steadily;
use super::support::*;
use tokio::net::TcpListener;
use wicketgate::demo::Issuer;

const EVERYTHING: &str = "retries: { on: [connect, unsent, reset, 503] }";

fn before(issuer: &Issuer, any: &Upstream, endpoints: &[String], more: &str) -> GateBuilder {
    gate(issuer, any).upstream(&format!("{{ endpoints: [{}], {more} }}", endpoints.join(", ")))
}

/// Reads each request whole and closes without a word: it was taken, and nobody knows how far.
async fn takes_and_breaks() -> (Upstream, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let upstream = Upstream::by_hand(move |mut stream| {
        let counted = counted.clone();
        async move {
            if read_request(&mut stream, &mut Vec::new()).await.is_some() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (upstream.await, taken)
}

async fn nobody_there() -> SocketAddr {
    TcpListener::bind(loopback()).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn an_endpoint_that_dies_under_load_loses_no_idempotent_request() {
    let (issuer, dies, stays) = (issuer().await, Mortal::start().await, Mortal::start().await);
    let any = Upstream::friendly().await;
    let gate = before(&issuer, &any, &[dies.url(), stays.url()], EVERYTHING).start().await;
    let clients: Vec<_> = (0..16).map(|_| tokio::spawn(ask_steadily(gate.address(), 100))).collect();
    until("it is in the middle of it", || async { dies.taken() > 100 && dies.at_work() > 2 }).await;

    let address = dies.kill().await;
    until("the other one has all", || async { stays.taken() > 600 }).await;
    let back = Mortal::start_at(address).await;

    for client in clients {
        assert_eq!(client.await.unwrap(), vec![200; 100]);
    }
    let retries = gate.metric("wicketgate_upstream_retries_total{reason=\"reset\",service=\"weather\"}").await;
    assert!(retries >= Some(1.0), "it was killed while it was at nothing: {retries:?}");
    drop(back);
}

/// RFC 9113 §8.7: a stream that was refused was not acted upon, also when its body was on its way by then.
#[tokio::test]
async fn a_post_that_was_refused_unread_goes_again_with_its_body() {
    let (count, arrived) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Mutex::new(Vec::new())));
    let (counted, seen) = (count.clone(), arrived.clone());
    let upstream = http2_upstream(move |_, (request, mut respond)| {
        let (counted, seen) = (counted.clone(), seen.clone());
        async move {
            let (head, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            while let Some(Ok(part)) = body.data().await {
                let _ = body.flow_control().release_capacity(part.len());
                bytes.extend_from_slice(&part);
            }
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            seen.lock().unwrap().push((head.method.to_string(), String::from_utf8(bytes).unwrap()));
            respond.send_response(http::Response::new(()), true).unwrap();
        }
    });
    let (issuer, upstream) = (issuer().await, upstream.await);
    let gate =
        gate(&issuer, &upstream).upstream(&format!("{{ url: '{}', protocol: http2, retries: {{ replay_bytes: 1KiB }} }}", upstream.url()));
    let gate = gate.routes("\n      /**: public").start().await;

    let answer = gate.ask("POST", "/a").body("once").send().await;
    assert_eq!((answer.status, count.load(Ordering::SeqCst)), (200, 2));
    assert_eq!(*arrived.lock().unwrap(), [("POST".to_owned(), "once".to_owned())]);

    // What is too long to be kept is gone.
    count.store(0, Ordering::SeqCst);
    let answer = gate.ask("POST", "/a").body(&"x".repeat(2000)).send().await;
    assert_eq!((answer.status, count.load(Ordering::SeqCst)), (502, 1));
}

/// RFC 9110 §9.2.2: a proxy must not automatically retry a request with a method that is not idempotent, once it was sent.
#[tokio::test]
async fn a_post_that_was_taken_is_never_sent_twice() {
    let (issuer, (breaks, taken), other) = (issuer().await, takes_and_breaks().await, Upstream::friendly().await);
    let gate = before(&issuer, &other, &[breaks.url(), other.url()], EVERYTHING).start().await;
    let read = token(&issuer, "write:weather");

    for (method, path) in [("POST", "/forecast/oslo"), ("PATCH", "/public/a"), ("POST", "/public/a")] {
        let before = taken.load(Ordering::SeqCst);
        // In turn; the one that breaks is first, and ejected only later.
        let answer = gate.ask(method, path).token(&read).body("order").send().await;
        let answer =
            if taken.load(Ordering::SeqCst) == before { gate.ask(method, path).token(&read).body("order").send().await } else { answer };
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_broken"), "{method}");
        assert_eq!(taken.load(Ordering::SeqCst), before + 1, "{method}");
    }

    let series = "wicketgate_upstream_retries_total{reason=\"reset\",service=\"weather\"}";
    assert_eq!(gate.metric(series).await, None);
}

#[tokio::test]
async fn a_post_that_provably_never_left_goes_to_another_endpoint() {
    let (issuer, gone, other) = (issuer().await, nobody_there().await, Upstream::friendly().await);
    // By default.
    let gate = before(&issuer, &other, &[format!("http://{gone}"), other.url()], "ejection: { max_ejected: 0 }").start().await;
    let write = token(&issuer, "write:weather");

    for _ in 0..6 {
        assert_eq!(gate.ask("POST", "/forecast/oslo").token(&write).body("order").send().await.status, 200);
    }

    let received = other.received();
    assert!(received.len() == 6 && received.iter().all(|request| request.text() == "order"), "{received:?}");
    assert_eq!(gate.metric("wicketgate_upstream_retries_total{reason=\"connect\",service=\"weather\"}").await, Some(3.0));
}

#[tokio::test]
async fn a_put_is_sent_again_with_its_body_if_all_of_it_was_kept() {
    let (issuer, (breaks, taken), other) = (issuer().await, takes_and_breaks().await, Upstream::friendly().await);
    let more = "retries: { on: [reset], replay_bytes: 1KiB }, ejection: { max_ejected: 0 }";
    let gate = before(&issuer, &other, &[breaks.url(), other.url()], more).start().await;

    let answer = gate.ask("PUT", "/public/a").body("what it is to be").send().await;
    assert_eq!((answer.status, other.only().text().as_str()), (200, "what it is to be"));
    assert_eq!(other.only().one("content-length"), Some("16"));

    // In chunks, with a trailer: as it came.
    let chunked = "5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n";
    let ask = gate.ask("PUT", "/public/a").header("Transfer-Encoding: chunked").header("Trailer: X-Sum");
    let before = taken.load(Ordering::SeqCst);
    while taken.load(Ordering::SeqCst) == before {
        let mut client = Connection::open(gate.address()).await;
        client.write(&[ask.bytes(""), chunked.as_bytes().to_vec()].concat()).await;
        assert_eq!(client.answer("PUT").await.status, 200);
    }
    let text = other.received().last().unwrap().text();
    assert!(text.contains("hello") && text.contains(" world"), "{text:?}");

    // One that is larger than what is kept is not.
    let large = "x".repeat(2000);
    let before = taken.load(Ordering::SeqCst);
    let mut statuses = Vec::new();
    while taken.load(Ordering::SeqCst) == before {
        statuses.push(gate.ask("PUT", "/public/a").body(&large).send().await.status);
    }
    assert_eq!(statuses.last(), Some(&502));
}

#[tokio::test]
async fn a_request_whose_body_is_partly_gone_is_not_sent_again() {
    let issuer = issuer().await;
    let ((breaks, mut calls), other) = (Upstream::manual().await, Upstream::friendly().await);
    let gate = before(&issuer, &other, &[breaks.url(), other.url()], EVERYTHING).start().await;
    let mut client = Connection::open(gate.address()).await;

    client.write(&gate.ask("PUT", "/public/a").header("Content-Length: 10").bytes("")).await;
    client.write(b"half.").await;
    let mut call = calls.next().await;
    call.read_until("half.").await;
    drop(call);

    assert_eq!(client.answer("PUT").await.status, 502);
    assert!(other.received().is_empty());
}

#[tokio::test]
async fn an_answer_of_a_status_that_is_named_is_asked_for_again_elsewhere() {
    let issuer = issuer().await;
    let unwell = Upstream::answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy").await;
    let other = Upstream::friendly().await;
    let more = format!("{EVERYTHING}, ejection: {{ max_ejected: 0 }}");
    let gate = before(&issuer, &other, &[unwell.url(), other.url()], &more).start().await;

    for _ in 0..4 {
        assert_eq!(gate.get("/public/a").send().await.status, 200);
    }
    assert_eq!(gate.metric("wicketgate_upstream_retries_total{reason=\"503\",service=\"weather\"}").await, Some(2.0));
    // What a POST was answered is its answer.
    let mut statuses: Vec<u16> = Vec::new();
    for _ in 0..4 {
        statuses.push(gate.ask("POST", "/public/a").body("x").send().await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_made_elsewhere_and_all_of_them_are_bounded() {
    let (issuer, (hangs, permits), other) = (issuer().await, Upstream::held().await, Upstream::friendly().await);
    let more = "retries: { on: [timeout], per_try_timeout: 100ms }, ejection: { max_ejected: 0 }";
    let gate = before(&issuer, &other, &[hangs.url(), other.url()], more).start().await;
    for _ in 0..4 {
        assert_eq!(gate.get("/public/a").send().await.status, 200);
    }
    assert_eq!(hangs.received().len(), 2);
    permits.add_permits(100);

    // The route's time-out holds for all tries together.
    let (hangs, also) = (Upstream::held().await, Upstream::held().await);
    let more = "retries: { on: [timeout], per_try_timeout: 100ms, attempts: 10, backoff: 1ms }, ejection: { max_ejected: 0 }";
    let builder = before(&issuer, &other, &[hangs.0.url(), also.0.url()], more);
    let gate = builder.routes("\n      /short: { access: public, timeout: 250ms }").start().await;
    let answer = gate.get("/short").send().await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_slow"));
    let tries = hangs.0.received().len() + also.0.received().len();
    assert_eq!(tries, 3, "at 0, 100 and 200 ms");
}

/// Everything fails, everybody wants two more tries: the service sees a fifth more requests, not three times as many.
#[tokio::test]
async fn retries_never_exceed_their_budget_in_an_outage() {
    const REQUESTS: usize = 300;
    let issuer = issuer().await;
    let fails = |_: &Received| b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (a, b) = (Upstream::answering_each(fails).await, Upstream::answering_each(fails).await);
    let more = "retries: { on: [503], budget: 20, budget_floor: 10 }";
    let gate = before(&issuer, &a, &[a.url(), b.url()], more).start().await;

    let clients: Vec<_> = (0..6).map(|_| tokio::spawn(ask_steadily(gate.address(), REQUESTS / 6))).collect();
    for client in clients {
        assert_eq!(client.await.unwrap(), vec![503; REQUESTS / 6]);
    }

    let seen = a.received().len() + b.received().len();
    assert!(seen > REQUESTS && seen <= REQUESTS + REQUESTS / 5, "{seen} of {REQUESTS}");
    let series = "wicketgate_upstream_retries_total{reason=\"503\",service=\"weather\"}";
    assert_eq!(gate.metric(series).await, Some((seen - REQUESTS) as f64));
    assert!(gate.metric("wicketgate_upstream_retries_refused_total{service=\"weather\"}").await >= Some(1.0));
}

#[tokio::test]
async fn with_one_attempt_nothing_is_tried_again() {
    let (issuer, gone, other) = (issuer().await, nobody_there().await, Upstream::friendly().await);
    let more = "retries: { attempts: 1, on: [connect] }, ejection: { max_ejected: 0 }";
    let gate = before(&issuer, &other, &[format!("http://{gone}"), other.url()], more).start().await;

    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(gate.get("/public/a").send().await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
}
