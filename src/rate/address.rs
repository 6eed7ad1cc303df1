//! Whose address a request comes from, when trusted proxies stand in between.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The nearest address that is no trusted proxy's: the peer itself or, if that is one, what it says in
/// `X-Forwarded-For`, read from the end, where the proxies wrote. What stands before is the client's own word.
pub fn client_address(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let mut nearest = peer?.to_canonical();
    if !is_trusted(peer?) && !is_trusted(nearest) {
        return Some(nearest);
    }
    let lines = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    for entry in lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(',')) {
        // What is no address was not written by a proxy that knows its own job: whoever passed it on is the last known.
        let Some(address) = address(entry.trim()) else { break };
        nearest = address;
        if !is_trusted(nearest) {
            break;
        }
    }
    Some(nearest)
}

/// An address, as some proxies write it with a port or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = plain.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

/// What counts as one address: one of IPv4, a /64 of IPv6, which is the least that a customer gets.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_says_who_stands_behind_it() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let table: [(&str, &[&str], &str); 15] = [
            ("192.0.2.9", &[], "192.0.2.9"),
            ("192.0.2.9", &["198.51.100.1"], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1", "10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, "], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
        ];
        for (peer, lines, client) in table {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, line.parse().unwrap());
            }
            let found = client_address(Some(peer.parse().unwrap()), &headers, &trusted);
            assert_eq!(found, Some(client.parse().unwrap()), "{peer} {lines:?}");
        }
        assert_eq!(client_address(None, &HeaderMap::new(), &trusted), None);
    }
}
