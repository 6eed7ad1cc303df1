//! Sending plain HTTP away to https, to hosts that the configuration names and to no others.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderValue, Request, Response, StatusCode};

use super::body::ResponseBody;
use super::handle::Peer;
use super::respond::{self, Asked};
use super::rewrite::{self, X_REQUEST_ID};
use super::screen::Screened;
use crate::access::{Denial, Refusal};
use crate::observe::{Outcome, Record};
use crate::policy::{Policy, Service};

const HTTPS_PORT: u16 = 443;

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
    if peer.tls || rewrite::said_https(request.headers(), policy, peer.address) {
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
    let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
    let mut response = Response::new(ResponseBody::own(""));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::try_from(format!("https://{}{port}{target}", screened.host)) {
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
    let published = |service: &Service| {
        let uri = service.metadata_url.parse::<http::Uri>().ok();
        uri.and_then(|uri| uri.host().map(|known| known.eq_ignore_ascii_case(host))).unwrap_or(false)
    };
    policy.hosts.contains_key(host) || policy.services.iter().filter(|service| !service.own).any(published)
}
