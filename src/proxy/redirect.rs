//! Sending plain HTTP away to https, to hosts that the configuration names and to no others.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, FORWARDED, LOCATION};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use super::handle::Peer;
use super::respond::{self, Asked};
use super::response_body::ResponseBody;
use super::rewrite::{X_FORWARDED_PROTO, X_REQUEST_ID};
use super::screen::Screened;
use crate::access::{Denial, Refusal, at_https};
use crate::observe::{Outcome, Record};
use crate::policy::Policy;

/// The answer to a request on a listener that redirects, unless it came over TLS as far as the gate believes: a load
/// balancer that takes TLS off would otherwise be sent in circles.
pub fn answer<B>(
    request: &Request<B>,
    screened: &Screened,
    policy: &Arc<Policy>,
    peer: &Peer,
    asked: &Asked<'_>,
    record: &mut Record,
) -> Option<Response<ResponseBody>> {
    let port = peer.redirect_to_https?;
    if !is_plain(request.headers(), policy, peer) {
        return None;
    }
    if !is_ours(policy, &screened.host) {
        let refusal = Refusal { denial: Denial::HostUnknown, service: None, route: None, identity: None };
        record.decide(policy, None, None, Outcome::Denied);
        record.reason = Some(refusal.denial.row().code);
        return Some(respond::denied(policy, &refusal, asked));
    }
    record.decide(policy, None, None, Outcome::Own);
    let target = request.uri().path_and_query().map(|target| target.as_str()).filter(|target| target.starts_with('/')).unwrap_or("/");
    let mut response = Response::new(ResponseBody::own(""));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::try_from(at_https(&screened.host, port, target)) {
        headers.insert(LOCATION, location);
    }
    // A browser would keep it for ever otherwise, also when the operator has thought better of it.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    if let Ok(id) = HeaderValue::try_from(asked.request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    Some(response)
}

/// Whether some service has this host, by its hosts or by the address where clients reach it.
fn is_ours(policy: &Policy, host: &str) -> bool {
    policy.hosts.contains_key(host) || policy.services.iter().any(|service| !service.own && service.is_published_at(host))
}

/// Whether the client sent the request without TLS: as the nearest trusted proxy says, else as it came in here.
pub fn is_plain(headers: &HeaderMap, policy: &Policy, peer: &Peer) -> bool {
    let said = if peer.address.is_some_and(|address| policy.trusts(address)) { said_https(headers) } else { None };
    !said.unwrap_or(peer.tls)
}

/// What the nearest proxy says of the client's scheme, by `X-Forwarded-Proto` or else by `Forwarded` (RFC 7239 §5.4): its
/// line or element is the last one, and what stands above it may be the client's own.
fn said_https(headers: &HeaderMap) -> Option<bool> {
    if let Some(said) = headers.get_all(&X_FORWARDED_PROTO).iter().next_back() {
        let last = said.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        // `wss` is how Traefik speaks of a WebSocket over TLS.
        return Some([&b"https"[..], b"wss"].iter().any(|scheme| last.eq_ignore_ascii_case(scheme)));
    }
    let line = headers.get_all(FORWARDED).iter().next_back()?.to_str().ok()?;
    let (_, element) = line.rsplit_once(',').unwrap_or(("", line));
    // A comma inside of quotes parts nothing, and leaves one of them alone here: nobody's word then.
    if !element.matches('"').count().is_multiple_of(2) {
        return None;
    }
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, proto) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("proto"))?;
    Some(proto.trim().trim_matches('"').eq_ignore_ascii_case("https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_proxy_says_which_scheme_the_client_spoke() {
        type Lines = &'static [(&'static str, &'static str)];
        let table: [(Lines, Option<bool>); 15] = [
            (&[], None),
            (&[("x-forwarded-proto", "HTTPS")], Some(true)),
            (&[("x-forwarded-proto", "http")], Some(false)),
            (&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")], Some(false)),
            (&[("x-forwarded-proto", "")], Some(false)),
            (&[("x-forwarded-proto", "https, http")], Some(false)),
            (&[("x-forwarded-proto", "http,https")], Some(true)),
            (&[("x-forwarded-proto", "wss")], Some(true)),
            (&[("x-forwarded-proto", "http"), ("forwarded", "proto=https")], Some(false)),
            (&[("forwarded", "for=1.2.3.4;Proto=https")], Some(true)),
            (&[("forwarded", "proto=https, for=\"[::1]\"; proto=\"http\"")], Some(false)),
            (&[("forwarded", "proto=http, proto=http;by=a, proto=https")], Some(true)),
            (&[("forwarded", "proto=https"), ("forwarded", "for=unknown")], None),
            (&[("forwarded", "for=\"a,proto=https;b\"")], None),
            (&[("forwarded", "proto")], None),
        ];
        for (lines, said) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(said_https(&headers), said, "{lines:?}");
        }
    }
}
