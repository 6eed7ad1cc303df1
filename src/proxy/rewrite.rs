//! Step 9. From the client's head to the upstream's, and back. What the client nominated goes first, then every name
//! that is the gate's to set, then the gate sets its own: in this order a client can neither forge nor remove them.

use std::net::IpAddr;

use http::header::{
    ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, Entry, FORWARDED, HOST, MAX_FORWARDS, PROXY_AUTHENTICATE,
    SEC_WEBSOCKET_PROTOCOL, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::screen::{Screened, connection_options, nominated};
use crate::access::{Offer, Permit};
use crate::policy::{CheckedPath, HostRewrite, Policy, Rewriting};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Marks a request whose `Host` is that of the endpoint which it comes to go to.
#[derive(Debug, Clone, Copy)]
pub struct HostOfEndpoint;

/// What the gate itself knows of a request's way.
pub struct Way<'w> {
    pub peer: Option<IpAddr>,
    pub tls: bool,
    pub request_id: &'w str,
    /// The gate's name in `Via`.
    pub via: &'w str,
}

/// The head for the upstream. It takes the permit by value: without one there is nothing to forward.
pub fn to_upstream<B>(request: &Request<B>, screened: &Screened, permit: Permit, policy: &Policy, way: &Way<'_>) -> Option<Request<()>> {
    let service = &policy.services[permit.service()];
    let rewriting = &*service.routes[permit.route()].rewriting;
    let client = request.headers();
    let nominated: Vec<&str> = connection_options(client).collect();
    let mut headers = HeaderMap::with_capacity(client.len() + 16);
    for (name, value) in client {
        let text = name.as_str();
        let hop = nominated.iter().any(|option| option.eq_ignore_ascii_case(text));
        if !hop && !policy.managed.covers(text) && *name != COOKIE && *name != TRAILER && *name != VIA {
            headers.append(name, value.clone());
        }
    }
    let offer = Offer::of(client);
    if let Some(offer) = &offer {
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        headers.extend(offer.rest.clone().map(|rest| (SEC_WEBSOCKET_PROTOCOL, rest)));
    }
    carry_body_headers((client, request.version() == Version::HTTP_2), &mut headers, policy, rewriting);
    if !nominated.iter().any(|option| option.eq_ignore_ascii_case(COOKIE.as_str())) {
        carry_cookies(client, &mut headers);
    }
    // Only a token that was verified and that the rules allow: on a public route nobody has looked at it, and a route that
    // only reports lets any through.
    if service.forward_authorization && permit.identity().is_some() && permit.reported().is_none() {
        let offered = || bearer(offer.as_ref()?.token.as_deref()?);
        headers.extend(client.get(AUTHORIZATION).cloned().or_else(offered).map(|value| (AUTHORIZATION, value)));
    }
    rewriting.request.apply(&mut headers);
    if screened.websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    decrement_max_forwards(request.method(), &mut headers);
    forwarded(client, &mut headers, screened, policy, way);
    forwarded_prefix(client, &mut headers, rewriting, policy, way);
    insert(&mut headers, VIA, &format!("{} {}", via_version(request.version()), way.via), list(client, &VIA));
    name_request(&mut headers, way.request_id);
    match rewriting.authority(service.upstream.base.authority()) {
        Some(authority) => insert(&mut headers, HOST, authority.as_str(), None),
        None if screened.authority.is_empty() => {}
        None => insert(&mut headers, HOST, &screened.authority, None),
    }
    for (name, value) in permit.headers() {
        headers.insert(name, value.clone());
    }
    let mut upstream = Request::new(());
    *upstream.method_mut() = request.method().clone();
    *upstream.uri_mut() = upstream_uri(&service.upstream.base, request.uri(), rewriting)?;
    *upstream.headers_mut() = headers;
    if rewriting.host == HostRewrite::Upstream {
        upstream.extensions_mut().insert(HostOfEndpoint);
    }
    Some(upstream)
}

/// A token that came among a WebSocket's subprotocols, where the service expects tokens.
fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The path and query go on as they came, byte for byte; in front of the path prefixes may have been exchanged.
fn upstream_uri(base: &Uri, client: &Uri, rewriting: &Rewriting) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = base.scheme().cloned();
    parts.authority = base.authority().cloned();
    parts.path_and_query = match (rewriting.path.is_none(), client.query()) {
        (true, _) => client.path_and_query().cloned(),
        (false, None) => Some(PathAndQuery::try_from(rewriting.path_to_upstream(client.path())?.as_ref()).ok()?),
        (false, Some(query)) => Some(PathAndQuery::try_from(format!("{}?{query}", rewriting.path_to_upstream(client.path())?)).ok()?),
    };
    Uri::from_parts(parts).ok()
}

/// How long the body is, and whether trailers follow it. hyper has checked the length, and frames the body anew.
fn carry_body_headers((client, http2): (&HeaderMap, bool), headers: &mut HeaderMap, policy: &Policy, rewriting: &Rewriting) {
    // Over HTTP/2 every body without a length may have trailers.
    let coded = http2 || client.contains_key(TRANSFER_ENCODING);
    if let (Some(length), false) = (client.get(CONTENT_LENGTH), client.contains_key(TRANSFER_ENCODING)) {
        headers.insert(CONTENT_LENGTH, length.clone());
    }
    let wants_trailers = client.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    if wants_trailers.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers")) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let streamed = !client.contains_key(CONTENT_LENGTH);
    if streamed && (coded || headers.contains_key(TE)) {
        let lists = client.get_all(TRAILER).iter().filter_map(|value| value.to_str().ok());
        let names = lists.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase());
        let passes = |name: &String| !name.is_empty() && !policy.managed.covers_trailer(name) && !rewriting.request.takes(name);
        let kept: Vec<String> = names.filter(passes).collect();
        if !kept.is_empty() {
            insert(headers, TRAILER, &kept.join(", "), None);
        }
    }
}

/// HTTP/2 sends cookies in crumbs; HTTP/1 wants them in one line (RFC 9113 §8.2.3).
fn carry_cookies(client: &HeaderMap, headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = client.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !crumbs.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, value);
    }
}

/// Whether an OPTIONS request may go no further than here (RFC 9110 §7.6.2).
pub fn is_last_hop<B>(request: &Request<B>) -> bool {
    let left = request.headers().get(MAX_FORWARDS).and_then(|left| left.to_str().ok());
    *request.method() == Method::OPTIONS && left.is_some_and(|left| left.parse() == Ok(0_u64))
}

fn decrement_max_forwards(method: &Method, headers: &mut HeaderMap) {
    if *method != Method::OPTIONS {
        return;
    }
    if let Entry::Occupied(mut entry) = headers.entry(MAX_FORWARDS) {
        let left = entry.get().to_str().ok().and_then(|text| text.parse::<u64>().ok());
        match left {
            Some(left) => drop(entry.insert(left.saturating_sub(1).into())),
            None => drop(entry.remove()),
        }
    }
}

/// `X-Forwarded-*` and `Forwarded` (RFC 7239) as the gate saw it; what a trusted proxy in front said is kept.
fn forwarded(client: &HeaderMap, headers: &mut HeaderMap, screened: &Screened, policy: &Policy, way: &Way<'_>) {
    let trusted = is_trusted(policy, way);
    // The nearest proxy's line is the last one; what is above it may be the client's own.
    let said = |name: &HeaderName| client.get_all(name).iter().next_back().filter(|_| trusted);
    let said_by_all = |name: &HeaderName| list(client, name).filter(|_| trusted);
    let peer = way.peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
    let scheme = if way.tls { "https" } else { "http" };
    insert(headers, X_FORWARDED_FOR, &peer, said_by_all(&X_FORWARDED_FOR));
    match said(&X_FORWARDED_PROTO) {
        Some(value) => drop(headers.insert(X_FORWARDED_PROTO, value.clone())),
        None => drop(headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme))),
    }
    match said(&X_FORWARDED_HOST) {
        Some(value) => drop(headers.insert(X_FORWARDED_HOST, value.clone())),
        None => insert(headers, X_FORWARDED_HOST, &screened.authority, None),
    }
    let node = match way.peer {
        Some(IpAddr::V6(_)) => format!("\"[{peer}]\""),
        _ => peer,
    };
    let element = format!("for={node};host=\"{}\";proto={scheme}", screened.authority);
    insert(headers, FORWARDED, &element, said_by_all(&FORWARDED));
}

/// What was stripped of the path on the way, by a trusted proxy in front and then by the gate, so that a service can write
/// whole addresses. Nobody's standard, and read by many frameworks.
fn forwarded_prefix(client: &HeaderMap, headers: &mut HeaderMap, rewriting: &Rewriting, policy: &Policy, way: &Way<'_>) {
    let trusted = is_trusted(policy, way);
    let said = client.get_all(X_FORWARDED_PREFIX).iter().next_back().filter(|_| trusted).and_then(|value| value.to_str().ok());
    let said = said.map(|said| said.strip_suffix('/').unwrap_or(said)).filter(|said| CheckedPath::new(said).is_ok());
    let prefix = format!("{}{}", said.unwrap_or_default(), rewriting.path.strip);
    if !prefix.is_empty() {
        insert(headers, X_FORWARDED_PREFIX, &prefix, None);
    }
}

fn is_trusted(policy: &Policy, way: &Way<'_>) -> bool {
    way.peer.is_some_and(|peer| policy.trusts(peer))
}

/// The lines of a list header as one (RFC 9110 §5.3).
fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).filter(|line| !line.is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// Sets a header, behind what was there before it.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str, before: Option<String>) {
    let whole = match before {
        Some(before) => format!("{before}, {value}"),
        None => value.to_owned(),
    };
    if let Ok(value) = HeaderValue::try_from(whole) {
        headers.insert(name, value);
    }
}

fn via_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// Cleans the upstream's head: hop-by-hop fields (RFC 9110 §7.6.1), identity headers, which are for requests alone, and
/// `Alt-Svc`, which would lead clients around the gate.
///
/// What `Connection` nominated is returned: it also concerns the trailers.
pub fn to_client(headers: &mut HeaderMap, policy: &Policy, request_id: &str) -> Vec<String> {
    let nominated = nominated(headers);
    for name in &nominated {
        headers.remove(name.as_str());
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE, ALT_SVC] {
        headers.remove(name);
    }
    let identity: Vec<HeaderName> = headers.keys().filter(|name| policy.managed.is_identity(name.as_str())).cloned().collect();
    for name in identity {
        headers.remove(name);
    }
    name_request(headers, request_id);
    nominated
}

/// Puts a request's id into a head, as a field that HPACK does not remember (RFC 7541 §6.2.3): it is another one each time,
/// so that remembering it would only push out of the table what comes again, and make each search of it longer.
pub fn name_request(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(mut id) = HeaderValue::try_from(request_id) {
        id.set_sensitive(true);
        headers.insert(X_REQUEST_ID, id);
    }
}
