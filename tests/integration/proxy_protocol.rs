//! Behind a TCP load balancer: its PROXY header says whose connection it is, and nobody else's does.

use super::support::*;

const LISTEN: &str = "listen: { address: 127.0.0.1:0, proxy_protocol: true }\ntimeouts: { header: 300ms }";
const TRUSTING: &str = "trusted_proxies: [127.0.0.0/8, 192.0.2.0/24]";

async fn balanced(settings: &str) -> (Upstream, Gate) {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(LISTEN).settings(settings).start().await;
    (upstream, gate)
}

fn v2(command: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, kind], &length, body].concat()
}

const CLIENT: [u8; 12] = [198, 51, 100, 7, 127, 0, 0, 1, 0x12, 0x34, 0, 80];

/// Sends a request behind these bytes; its status, and 0 for none.
async fn ask(gate: &Gate, header: &[u8], more: &str) -> u16 {
    let mut connection = Connection::open(gate.address()).await;
    let request = gate.get("/public/a").header("Connection: close").bytes(more);
    connection.write(&[header, &request].concat()).await;
    let text = connection.rest().await;
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn the_address_in_the_header_is_the_clients_everywhere() {
    let (upstream, gate) = balanced(TRUSTING).await;
    let v6: Vec<u8> = [&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets()[..], &[0; 20]].concat();
    let mapped: Vec<u8> = [&"::ffff:198.51.100.7".parse::<std::net::Ipv6Addr>().unwrap().octets()[..], &[0; 20]].concat();
    let spoofed = "X-Forwarded-For: 6.6.6.6";

    for header in [
        &b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n"[..],
        b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n",
        &v2(0x21, 0x11, &CLIENT),
        &v2(0x21, 0x21, &v6),
        &v2(0x21, 0x21, &mapped),
        // An HTTP proxy behind the TCP one, trusted itself.
        b"PROXY TCP4 192.0.2.9 127.0.0.1 4711 80\r\n",
        // Somebody's whom the balancer cannot name: his own word counts no more than anybody's.
        b"PROXY UNKNOWN\r\n",
        // The balancer's own, which is trusted.
        &v2(0x20, 0, b""),
    ] {
        assert_eq!(ask(&gate, header, spoofed).await, 200);
    }

    let received = upstream.received();
    let told: Vec<Option<&str>> = received.iter().map(|received| received.one("x-forwarded-for")).collect();
    let expected = [
        "198.51.100.7",
        "2001:db8::7",
        "198.51.100.7",
        "2001:db8::7",
        "198.51.100.7",
        "6.6.6.6, 192.0.2.9",
        "unknown",
        "6.6.6.6, 127.0.0.1",
    ];
    assert_eq!(told, expected.map(Some));
    assert_eq!(received[1].one("forwarded").unwrap().split(';').next(), Some("for=\"[2001:db8::7]\""));
}

#[tokio::test]
async fn limits_by_address_count_the_client_behind_the_balancer() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let limited = gate(&issuer, &upstream).in_service("    rate_limit: { by: address, requests: 1, per: 1h }");
    let gate = limited.settings(LISTEN).settings(TRUSTING).start().await;
    let from = |address: &str| format!("PROXY TCP4 {address} 127.0.0.1 1 80\r\n").into_bytes();

    for (address, status) in [("198.51.100.1", 200), ("198.51.100.1", 429), ("198.51.100.2", 200), ("198.51.100.2", 429)] {
        assert_eq!(ask(&gate, &from(address), "").await, status, "{address}");
    }
}

#[tokio::test]
async fn who_is_not_trusted_is_refused_whatever_he_sends() {
    let (upstream, gate) = balanced("trusted_proxies: [192.0.2.0/24]").await;

    for header in [&b""[..], b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n", &v2(0x20, 0, b"")] {
        assert_eq!(ask(&gate, header, "").await, 0);
    }

    assert!(upstream.received().is_empty());
    assert_eq!(gate.metric("wicketgate_proxy_protocol_refused_total{reason=\"untrusted\"}").await, Some(3.0));
}

#[tokio::test]
async fn a_header_that_is_none_or_does_not_come_ends_the_connection() {
    let (upstream, gate) = balanced(TRUSTING).await;

    for header in [&b""[..], b"PROXY TCP4 198.51.100.7\r\n", &v2(0x21, 0x11, &CLIENT[..4]), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]
    {
        assert_eq!(ask(&gate, header, "").await, 0, "{header:x?}");
    }
    let mut silent = Connection::open(gate.address()).await;
    silent.write(b"PROXY TCP4 198.51").await;
    assert!(silent.is_closed().await);

    assert!(upstream.received().is_empty());
    let refused = |reason: &str| format!("wicketgate_proxy_protocol_refused_total{{reason=\"{reason}\"}}");
    assert_eq!(gate.metric(&refused("malformed")).await, Some(4.0));
    assert_eq!(gate.metric(&refused("timeout")).await, Some(1.0));
}

#[tokio::test]
async fn a_header_may_come_in_pieces_and_takes_no_byte_of_the_request() {
    let (upstream, gate) = balanced(TRUSTING).await;
    let request = gate.get("/public/a").bytes("Connection: close");

    for header in [&b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n"[..], &v2(0x21, 0x11, &CLIENT)] {
        let mut connection = Connection::open(gate.address()).await;
        for byte in header {
            connection.write(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        connection.write(&request).await;
        assert_eq!(connection.answer("GET").await.status, 200);
    }

    assert_eq!(upstream.received().len(), 2);
}

#[tokio::test]
async fn the_header_comes_before_tls_and_tells_of_tls_that_ended_before() {
    let authority = Authority::new("servers");
    let party = authority.sign("gate", &["localhost"]);
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let tls = "listen:\n  - { address: 127.0.0.1:0, proxy_protocol: true }\ntls: { certificate_file: tls.crt, key_file: tls.key }";
    let gate = gate(&issuer, &upstream).settings(tls).settings(TRUSTING).file("tls.crt", &party.pem).file("tls.key", &party.key_pem);
    let gate = gate.start().await;
    let mut connection = Connection::open(gate.address()).await;
    connection.write(b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 443\r\n").await;
    let stream = authority.caller().connect_over(connection.stream).await.unwrap();
    let answer = Http2::over(stream).await.send(http::Request::get("https://localhost/public/a").body(()).unwrap()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.received()[0].one("x-forwarded-for"), Some("198.51.100.7"));

    let (upstream, gate) = balanced(TRUSTING).await;
    let over_tls = [&CLIENT[..], &[0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
    assert_eq!(ask(&gate, &v2(0x21, 0x11, &over_tls), "").await, 200);
    assert_eq!(ask(&gate, &v2(0x21, 0x11, &CLIENT), "").await, 200);
    let received = upstream.received();
    let told: Vec<_> = received.iter().map(|received| received.one("x-forwarded-proto")).collect();
    assert_eq!(told, [Some("https"), Some("http")]);
}

#[tokio::test]
async fn elsewhere_a_proxy_header_is_no_http() {
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let gate = gate(&issuer, &upstream).settings(TRUSTING).start().await;

    assert_eq!(ask(&gate, b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n", "").await, 400);
    assert_ne!(ask(&gate, &v2(0x21, 0x11, &CLIENT), "").await, 200);

    assert!(upstream.received().is_empty());
}
