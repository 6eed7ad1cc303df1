//! Step 3. The form of a request, before anyone decides on it: what two readers could understand differently is
//! refused here (RFC 9110, 9112, 9113).

use http::header::{CONNECTION, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE, VIA};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Version};
use hyper::ext::Protocol;

use super::extended;
use super::failure::Failure;
use super::framing::HeadFacts;
use crate::policy::Policy;

/// The longest method; registered ones have 17 letters at most.
const METHOD_BYTES_MAX: usize = 32;

/// What the form of a request settles.
#[derive(Debug)]
pub struct Screened {
    /// In lower case, without a port; empty for an HTTP/1.0 request without one.
    pub host: String,
    /// As it is to be sent on.
    pub authority: String,
    /// Whether the client wants to change to WebSocket.
    pub websocket: bool,
}

pub fn screen<B>(request: &Request<B>, facts: Option<HeadFacts>, policy: &Policy, own_via: &str) -> Result<Screened, Failure> {
    if request.extensions().get::<Protocol>().is_some() && *request.method() == Method::CONNECT {
        return Err(Failure::ProtocolUnknown);
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) || request.method().as_str().len() > METHOD_BYTES_MAX {
        return Err(Failure::MethodRefused);
    }
    let http2 = request.version() == Version::HTTP_2;
    let uri = request.uri();
    let target_bytes = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
    if target_bytes > policy.limits.uri_bytes {
        return Err(Failure::TargetTooLong);
    }
    // Over HTTP/1.1 hyper has counted both; over HTTP/2 it counts no lines, and nobody learns of a head that it refuses.
    let too_large = http2 && header_list_bytes(request) > policy.limits.header_bytes;
    if too_large || request.headers().len() > policy.limits.header_count {
        return Err(Failure::HeadTooLarge);
    }
    if let Some(scheme) = uri.scheme_str()
        && scheme != "http"
        && scheme != "https"
    {
        return Err(Failure::TargetInvalid);
    }
    if facts.is_some_and(|facts| facts.fragment) {
        return Err(Failure::TargetInvalid);
    }
    framing(request.headers(), facts)?;
    let (host, authority) = host(request)?;
    if request.headers().get_all(VIA).iter().any(|via| via.to_str().is_ok_and(|via| via.contains(own_via))) {
        return Err(Failure::Loop);
    }
    let mut expectations = request.headers().get_all(EXPECT).iter();
    if !expectations.all(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Failure::ExpectationUnknown);
    }
    let websocket = extended::is_websocket(request) || (request.version() == Version::HTTP_11 && wants_websocket(request));
    Ok(Screened { host, authority, websocket })
}

/// The size of a head as RFC 9113 §6.5.2 counts it: each line, the target's parts among them, has 32 bytes more.
fn header_list_bytes<B>(request: &Request<B>) -> usize {
    let line = |name: &str, value: &[u8]| name.len() + value.len() + 32;
    let uri = request.uri();
    let lines = request.headers().iter().map(|(name, value)| line(name.as_str(), value.as_bytes()));
    line(":method", request.method().as_str().as_bytes())
        + uri.scheme_str().map_or(0, |scheme| line(":scheme", scheme.as_bytes()))
        + uri.authority().map_or(0, |authority| line(":authority", authority.as_str().as_bytes()))
        + uri.path_and_query().map_or(0, |target| line(":path", target.as_str().as_bytes()))
        + lines.sum::<usize>()
}

/// One way to say how long the body is. hyper refuses wrong lengths; what it lets pass is refused here.
fn framing(headers: &HeaderMap, facts: Option<HeadFacts>) -> Result<(), Failure> {
    if facts.is_some_and(|facts| facts.both_lengths) {
        return Err(Failure::LengthsConflict);
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Failure::TransferCodingUnknown);
    }
    Ok(())
}

/// Exactly one host (RFC 9112 §3.2), the same in the target where it stands there too (RFC 9113 §8.3.1).
fn host<B>(request: &Request<B>) -> Result<(String, String), Failure> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Failure::HostInvalid),
        (None, None) => None,
        (Some(host), None) => Some(authority(host.to_str().map_err(|_| Failure::HostInvalid)?)?),
    };
    let target = match request.uri().authority() {
        Some(target) => Some(authority(target.as_str())?),
        None => None,
    };
    let chosen = match (header, target) {
        (Some(header), Some(target)) if !same(&header, &target, request.uri().scheme_str()) => return Err(Failure::HostInvalid),
        (_, Some(target)) => target,
        (Some(header), None) => header,
        (None, None) if request.version() == Version::HTTP_10 => return Ok((String::new(), String::new())),
        (None, None) => return Err(Failure::HostInvalid),
    };
    Ok((chosen.host().to_ascii_lowercase(), chosen.as_str().to_owned()))
}

fn authority(text: &str) -> Result<Authority, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    let authority = text.parse::<Authority>().map_err(|_| Failure::HostInvalid)?;
    let port_is_number = authority.port().is_some() || !text.ends_with(':') && authority.host().len() == text.len();
    // `name.` is the same name to DNS and to many a server, but not to a comparison of texts.
    let dotted = authority.host().ends_with('.');
    match text.bytes().all(plain) && !authority.host().is_empty() && !dotted && port_is_number {
        true => Ok(authority),
        false => Err(Failure::HostInvalid),
    }
}

fn same(one: &Authority, other: &Authority, scheme: Option<&str>) -> bool {
    let default = if scheme == Some("https") { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

/// `Upgrade: websocket` with `Connection: upgrade` on a GET without a body (RFC 6455 §4.1). Any other upgrade is taken
/// out and the request goes on as it is (RFC 9110 §7.8 allows to ignore it).
fn wants_websocket<B>(request: &Request<B>) -> bool {
    let mut upgrades = request.headers().get_all(UPGRADE).iter();
    let one = upgrades.next().is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let nominated = connection_options(request.headers()).any(|option| option.eq_ignore_ascii_case("upgrade"));
    let no_body = !request.headers().contains_key(TRANSFER_ENCODING)
        && request.headers().get(http::header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0");
    *request.method() == Method::GET && one && upgrades.next().is_none() && nominated && no_body
}

/// The options of all `Connection` headers (RFC 9110 §7.6.1).
pub fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// The fields that concern this connection alone, in a head and in the trailers behind it.
pub fn nominated(headers: &HeaderMap) -> Vec<String> {
    connection_options(headers).map(str::to_ascii_lowercase).collect()
}
