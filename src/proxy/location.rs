//! Step 13. Addresses and cookies in an answer, led back to what the client knows: the upstream writes them for the path
//! and the host that it was asked for.

use http::header::{CONTENT_LOCATION, LOCATION, REFRESH, SET_COOKIE};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::{EndpointAt, Rewriting};

/// Under which names a request came and went.
pub struct Hosts<'h> {
    /// The authority that the client asked.
    pub client: &'h str,
    /// The upstream's own, that of its first endpoint.
    pub upstream: Option<&'h Authority>,
    /// All that it may have gone to.
    pub endpoints: &'h [EndpointAt],
}

impl Hosts<'_> {
    /// What the upstream may call itself: as it was asked for, and as its endpoints are written.
    fn of_upstream<'a>(&'a self, rewriting: &'a Rewriting) -> impl Iterator<Item = &'a str> {
        let sent = rewriting.authority(self.upstream).map_or(self.client, Authority::as_str);
        std::iter::once(sent).chain(self.upstream.map(Authority::as_str)).chain(self.endpoints.iter().map(|endpoint| &*endpoint.label))
    }
}

/// Rewrites what the answer says of places, where the route's changes made it wrong.
pub fn lead_back(rewriting: &Rewriting, hosts: &Hosts<'_>, headers: &mut HeaderMap) {
    if rewriting.location {
        let fields: [(HeaderName, Change); 3] = [(LOCATION, address), (CONTENT_LOCATION, address), (REFRESH, refresh)];
        for (name, change) in fields {
            if headers.contains_key(&name) {
                each(headers, name, &|text| change(rewriting, hosts, text));
            }
        }
    }
    if rewriting.cookies && headers.contains_key(SET_COOKIE) {
        each(headers, SET_COOKIE, &|text| cookie(rewriting, hosts, text));
    }
}

/// A value as it should be; `None` leaves it as it is.
type Change = fn(&Rewriting, &Hosts<'_>, &str) -> Option<String>;

fn each(headers: &mut HeaderMap, name: HeaderName, change: &dyn Fn(&str) -> Option<String>) {
    let changed = |value: &HeaderValue| HeaderValue::try_from(change(value.to_str().ok()?)?).ok();
    let values: Vec<HeaderValue> = headers.get_all(&name).iter().map(|value| changed(value).unwrap_or_else(|| value.clone())).collect();
    headers.remove(&name);
    for value in values {
        headers.append(&name, value);
    }
}

/// An address as the client would reach it. One of another host, or of a path that no client can ask for, stays.
fn address(rewriting: &Rewriting, hosts: &Hosts<'_>, text: &str) -> Option<String> {
    // Browsers take these for something else, or for nothing; what they then read is not what was compared here.
    if text.bytes().any(|byte| byte <= b' ' || byte == b'\\') {
        return None;
    }
    let (before, authority, rest) = parts(text)?;
    let (path, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let to_client = rewriting.path.to_client(path)?;
    let found = match authority {
        None => format!("{to_client}{tail}"),
        Some(authority) if same(authority, hosts.client) => format!("{before}{authority}{to_client}{tail}"),
        // Without a host: the client knows better than the gate by which it came.
        Some(authority) if is_the_upstreams(rewriting, hosts, authority) => format!("{to_client}{tail}"),
        Some(_) => return None,
    };
    // Two slashes at the front would be a host.
    (!found.starts_with("//") && found != text).then_some(found)
}

/// What stands before the authority, the authority, and what follows. `None` for what is relative to the path.
fn parts(text: &str) -> Option<(&str, Option<&str>, &str)> {
    if text.starts_with('/') && !text.starts_with("//") {
        return Some(("", None, text));
    }
    let start = text.find("//")?;
    let scheme = &text[..start];
    if !scheme.is_empty() && !scheme.eq_ignore_ascii_case("http:") && !scheme.eq_ignore_ascii_case("https:") {
        return None;
    }
    let (before, rest) = text.split_at(start + 2);
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    Some((before, Some(authority), rest))
}

/// Host and port, where no port is that of either scheme.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let authority = text.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'))?;
    Some((authority.host().to_ascii_lowercase(), authority.port_u16().filter(|port| !matches!(port, 80 | 443))))
}

fn same(one: &str, other: &str) -> bool {
    host_and_port(one).is_some_and(|one| Some(one) == host_and_port(other))
}

/// Whether this is the upstream's address or the host that it was asked for, or one with the port of the other: servers
/// write the port that they listen on behind the name that they were called by.
fn is_the_upstreams(rewriting: &Rewriting, hosts: &Hosts<'_>, authority: &str) -> bool {
    let known: Vec<_> = hosts.of_upstream(rewriting).filter_map(host_and_port).collect();
    let within = |(host, port)| known.iter().any(|known| known.0 == host) && known.iter().any(|known| known.1 == port);
    host_and_port(authority).is_some_and(within)
}

/// `5; url=/there`, which no standard knows and every browser follows.
fn refresh(rewriting: &Rewriting, hosts: &Hosts<'_>, text: &str) -> Option<String> {
    let start = text.to_ascii_lowercase().find("url=")? + 4;
    let (before, value) = text.split_at(start);
    let quote = value.chars().next().filter(|first| matches!(first, '"' | '\''));
    let (open, value) = value.split_at(quote.map_or(0, char::len_utf8));
    let (value, after) = match quote.and_then(|quote| value.find(quote)) {
        Some(end) => value.split_at(end),
        None => (value, ""),
    };
    address(rewriting, hosts, value.trim()).map(|address| format!("{before}{open}{address}{after}"))
}

/// A cookie whose `Path` is the client's, and whose `Domain` is not one that only the upstream knows (RFC 6265 §5.2).
fn cookie(rewriting: &Rewriting, hosts: &Hosts<'_>, text: &str) -> Option<String> {
    // Such a cookie counts with `Path=/` alone.
    let pinned = text.trim_start().get(..7).is_some_and(|start| start.eq_ignore_ascii_case("__Host-"));
    let mut kept: Vec<String> = Vec::new();
    for (i, part) in text.split(';').enumerate() {
        let (name, value) = part.split_once('=').map_or((part.trim(), ""), |(name, value)| (name.trim(), value.trim()));
        let path = i > 0 && name.eq_ignore_ascii_case("path") && value.starts_with('/') && !pinned;
        let domain = i > 0 && name.eq_ignore_ascii_case("domain");
        if domain && is_only_the_upstreams(rewriting, hosts, value) {
            continue;
        }
        // `/` itself without its slash, so that the prefix alone is also below it.
        match rewriting.path.to_client(if value == "/" { "" } else { value }).filter(|_| path) {
            Some(to_client) => kept.push(format!(" Path={to_client}")),
            None => kept.push(part.to_owned()),
        }
    }
    let found = kept.join(";");
    (found != text).then_some(found)
}

fn is_only_the_upstreams(rewriting: &Rewriting, hosts: &Hosts<'_>, domain: &str) -> bool {
    let domain = domain.trim_start_matches('.').to_ascii_lowercase();
    let within = |host: &str| {
        let host = host.to_ascii_lowercase();
        host == domain || host.strip_suffix(&domain).is_some_and(|below| below.ends_with('.'))
    };
    let of = |text: &str| host_and_port(text).is_some_and(|(host, _)| within(&host));
    !domain.is_empty() && !of(hosts.client) && hosts.of_upstream(rewriting).any(of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{At, HostRewrite, PathRewrite};
    use proptest::prelude::*;
    use url::Url;

    fn rewriting(strip: &str, add: &str, host: HostRewrite) -> Rewriting {
        let path = PathRewrite { strip: strip.to_owned(), add: add.to_owned() };
        Rewriting { path, host, location: true, cookies: true, ..Rewriting::default() }
    }

    fn led_back(rewriting: &Rewriting, name: HeaderName, text: &str) -> String {
        let upstream = Authority::from_static("10.0.0.7:3000");
        let other = "10.0.0.8:4000";
        let at = At::Address(other.parse().unwrap());
        let endpoints = [EndpointAt { label: other.into(), at, host: "10.0.0.8".to_owned(), weight: 1 }];
        let hosts = Hosts { client: "api.example", upstream: Some(&upstream), endpoints: &endpoints };
        let mut headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_str(text).unwrap())]);
        lead_back(rewriting, &hosts, &mut headers);
        headers[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn an_address_of_the_upstreams_becomes_one_that_the_client_can_ask_for() {
        let host = || HostRewrite::Named(Authority::from_static("legacy.internal"));
        let table = [
            ("/api/v1", "/app", "/app/x?a=/app/b#c", "/api/v1/x?a=/app/b#c"),
            ("/api/v1", "/app", "/app", "/api/v1"),
            ("/api/v1", "/app", "/app/", "/api/v1/"),
            ("/api/v1", "/app", "/apple", "/apple"),
            ("/api/v1", "/app", "/other", "/other"),
            ("/api/v1", "/app", "x/y", "x/y"),
            ("/api/v1", "/app", "?page=2", "?page=2"),
            ("/api/v1", "/app", "http://legacy.internal/app/x", "/api/v1/x"),
            ("/api/v1", "/app", "https://LEGACY.internal:443/app/x", "/api/v1/x"),
            ("/api/v1", "/app", "http://10.0.0.7:3000/app/x?y", "/api/v1/x?y"),
            ("/api/v1", "/app", "http://10.0.0.8:4000/app/x", "/api/v1/x"),
            ("/api/v1", "/app", "//legacy.internal/app/x", "/api/v1/x"),
            ("/api/v1", "/app", "http://legacy.internal:3000/app/x", "/api/v1/x"),
            ("/api/v1", "/app", "http://legacy.internal:8080/app/x", "http://legacy.internal:8080/app/x"),
            ("/api/v1", "/app", "http://api.example:3000/app/x", "http://api.example:3000/app/x"),
            ("/api/v1", "/app", "https://api.example/app/x", "https://api.example/api/v1/x"),
            ("/api/v1", "/app", "https://login.example/app/x", "https://login.example/app/x"),
            ("/api/v1", "/app", "https://legacy.internal@evil.example/app/x", "https://legacy.internal@evil.example/app/x"),
            ("/api/v1", "", "http://legacy.internal", "/api/v1/"),
            ("/api/v1", "", "/", "/api/v1/"),
            ("/api/v1", "", "mailto:x@legacy.internal", "mailto:x@legacy.internal"),
            ("", "", "http://legacy.internal/x", "/x"),
            ("", "", "/x", "/x"),
        ];
        for (strip, add, text, expected) in table {
            for name in [LOCATION, CONTENT_LOCATION] {
                assert_eq!(led_back(&rewriting(strip, add, host()), name, text), expected, "-{strip} +{add} {text}");
            }
        }
    }

    #[test]
    fn a_server_that_writes_its_own_port_behind_the_clients_name_is_understood() {
        let preserved = rewriting("/api", "", HostRewrite::Preserve);
        assert_eq!(led_back(&preserved, LOCATION, "http://api.example:3000/x"), "/api/x");
        assert_eq!(led_back(&preserved, LOCATION, "https://api.example/x"), "https://api.example/api/x");
        assert_eq!(led_back(&preserved, LOCATION, "http://api.example:8080/x"), "http://api.example:8080/x");
    }

    #[test]
    fn no_path_becomes_a_host_on_its_way_back() {
        let added = rewriting("", "/app", HostRewrite::Upstream);
        for text in ["/app//evil.example", "http://10.0.0.7:3000/app//evil.example/x", "/app/\\evil.example", "/app/\t/evil.example"] {
            assert_eq!(led_back(&added, LOCATION, text), text);
        }
        assert_eq!(
            led_back(&rewriting("", "", HostRewrite::Upstream), LOCATION, "http://10.0.0.7:3000//evil"),
            "http://10.0.0.7:3000//evil"
        );
    }

    #[test]
    fn a_refresh_is_an_address_too() {
        let changed = rewriting("/api", "", HostRewrite::Preserve);
        let table = [
            ("5; url=/x", "5; url=/api/x"),
            ("0;URL='/x'", "0;URL='/api/x'"),
            ("0, url=\"http://10.0.0.7:3000/x\"; y", "0, url=\"/api/x\"; y"),
            ("5", "5"),
            ("5; url=https://other.example/", "5; url=https://other.example/"),
        ];
        for (text, expected) in table {
            assert_eq!(led_back(&changed, REFRESH, text), expected);
        }
    }

    #[test]
    fn a_cookie_comes_back_to_where_it_was_set() {
        let named = HostRewrite::Named(Authority::from_static("legacy.internal"));
        let table = [
            ("/api", "", "a=1; Path=/; HttpOnly", "a=1; Path=/api; HttpOnly"),
            ("/api", "", "a=1;path=/x;Secure", "a=1; Path=/api/x;Secure"),
            ("/api", "/app", "a=1; Path=/app/", "a=1; Path=/api/"),
            ("/api", "/app", "a=1; Path=/", "a=1; Path=/"),
            ("/api", "/app", "a=1; Path=/other", "a=1; Path=/other"),
            ("", "/app", "a=1; Path=/app", "a=1; Path=/"),
            ("/api", "", "path=/; Secure", "path=/; Secure"),
            ("/api", "", "__Host-a=1; Path=/; Secure", "__Host-a=1; Path=/; Secure"),
            ("", "", "a=1; Domain=legacy.internal; Path=/", "a=1; Path=/"),
            ("", "", "a=1; Domain=.Internal", "a=1"),
            ("", "", "a=1; Domain=api.example", "a=1; Domain=api.example"),
            ("", "", "a=1; Domain=.example", "a=1; Domain=.example"),
            ("", "", "a=1; Domain=other.example", "a=1; Domain=other.example"),
        ];
        for (strip, add, text, expected) in table {
            assert_eq!(led_back(&rewriting(strip, add, named.clone()), SET_COOKIE, text), expected);
        }
    }

    proptest! {
        /// Whatever a service is made to write: what the gate makes of it leads a browser to the client's own host.
        #[test]
        fn what_is_rewritten_leads_to_the_clients_host_alone(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "http:", "https:", "HTTP:", "//", "/", "\\", "@", ":", ":3000", ":80", "?", "#", ".", "..", "\t", " ", ";", "%2f", "/app", "app",
                "legacy.internal", "10.0.0.7", "10.0.0.8:4000", "api.example", "evil.example", "[::1]", "url=", "x",
            ]), 0..9),
            (strip, add) in prop::sample::select(vec![("/api", ""), ("", "/app"), ("/api", "/app"), ("", "")]),
        ) {
            let text = pieces.concat();
            prop_assume!(HeaderValue::from_str(&text).is_ok());
            let rewriting = rewriting(strip, add, HostRewrite::Named(Authority::from_static("legacy.internal")));
            let found = led_back(&rewriting, LOCATION, &text);
            if found != text {
                let there = Url::parse("https://api.example/api/here").unwrap().join(&found).unwrap();
                prop_assert_eq!(there.host_str(), Some("api.example"), "{} became {}", text, found);
            }
        }
    }

    #[test]
    fn nothing_is_led_back_where_the_operator_says_so() {
        let as_it_is = Rewriting { location: false, cookies: false, ..rewriting("/api", "", HostRewrite::Upstream) };
        assert_eq!(led_back(&as_it_is, LOCATION, "/x"), "/x");
        assert_eq!(led_back(&as_it_is, SET_COOKIE, "a=1; Path=/"), "a=1; Path=/");
    }
}
