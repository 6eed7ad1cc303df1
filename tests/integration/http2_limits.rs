//! How large a head may be over HTTP/2, where it comes compressed and hyper alone would count too little.

use http::Request;

use super::support::*;

const SETTINGS: &str = "limits: { header_bytes: 8KiB, header_count: 16 }";
const HEADER_BYTES_MAX: usize = 8 << 10;
const TOO_LARGE: &str = "wicketgate_refusals_total{reason=\"head_too_large\",service=\"-\"}";

/// A request whose header list has this size, as RFC 9113 §6.5.2 counts it.
fn of_size(bytes: usize) -> Request<()> {
    let line = |name: &str, value: usize| name.len() + value + 32;
    let fixed = line(":method", "GET".len()) + line(":scheme", "http".len()) + line(":authority", "gate".len());
    let padding = bytes - fixed - line(":path", "/public/a".len()) - line("x-padding", 0);
    Request::get("http://gate/public/a").header("x-padding", "x".repeat(padding)).body(()).unwrap()
}

fn of_lines(count: usize) -> Request<()> {
    let request = Request::get("http://gate/public/a");
    (0..count).fold(request, |request, number| request.header(format!("x-{number}"), "a")).body(()).unwrap()
}

#[tokio::test]
async fn a_head_at_its_limits_passes_and_one_beyond_them_is_refused_and_counted() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SETTINGS).start().await;
    let mut client = Http2::open(gate.address()).await;

    for (what, fits, refused) in [
        ("bytes", of_size(HEADER_BYTES_MAX), of_size(HEADER_BYTES_MAX + 1)),
        ("twice the bytes, nearly", of_size(HEADER_BYTES_MAX - 1), of_size(2 * HEADER_BYTES_MAX - 1)),
        ("lines", of_lines(16), of_lines(17)),
    ] {
        let refused = client.send(refused).await;
        let fits = client.send(fits).await;
        assert_eq!((refused.status, refused.code().as_str()), (431, "head_too_large"), "{what}");
        assert_eq!(fits.status, 200, "{what}");
    }

    assert_eq!(upstream.received().len(), 3);
    until("all are counted", || async { gate.metric(TOO_LARGE).await == Some(3.0) }).await;
}

/// RFC 9113 §10.5.1: what is too large by far is refused with a bare 431 and its stream reset; the compression state stays good.
#[tokio::test]
async fn a_head_that_is_far_too_large_costs_its_stream_alone() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SETTINGS).start().await;
    let mut client = Http2::open(gate.address()).await;

    let refused = client.send(of_size(2 * HEADER_BYTES_MAX)).await;
    let next = client.send(of_size(HEADER_BYTES_MAX)).await;

    assert_eq!((refused.status, refused.body.len()), (431, 0));
    assert_eq!(next.status, 200);
    upstream.only();
}

#[tokio::test]
async fn a_head_beyond_all_measure_ends_the_connection_and_is_counted() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(SETTINGS).start().await;
    let mut client = Http2::open(gate.address()).await;

    assert_eq!(client.send(of_size(HEADER_BYTES_MAX)).await.status, 200);
    let mut exchange = client.begin(of_size(9 * HEADER_BYTES_MAX), true).await;
    exchange.fails().await;
    client.closed().await;

    upstream.only();
    let other = "wicketgate_connection_errors_total{reason=\"other\"}";
    until("it is counted", || async { gate.metric(other).await == Some(1.0) }).await;
}
