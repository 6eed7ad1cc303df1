//! Steps 9 to 12 of a permitted request: rewritten, sent, and answered by the service.

use std::pin::pin;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;

use super::ending::{Watch, stream_of};
use super::failure::Failure;
use super::gate::{Gate, InForce};
use super::grpc::{CallTime, is_grpc};
use super::handle::Peer;
use super::opening::Opening;
use super::progress::BodyProgress;
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::rewrite::{self, Way};
use super::screen::{Screened, nominated};
use super::upgrade::Tunnel;
use super::upstream::{Tries, Unanswered, balance_key};
use crate::access::Permit;
use crate::clock;
use crate::observe::Record;
use crate::policy::{Protocol, Upstream};

/// What the service answered.
pub enum Forwarded {
    Response(Response<ResponseBody>),
    Tunnel(Response<ResponseBody>, Tunnel),
}

/// Sends a permitted request on its way, and makes of the answer what the client gets.
pub async fn forward(
    gate: &Arc<Gate>,
    in_force: &Arc<InForce>,
    peer: &Peer,
    mut request: Request<Incoming>,
    screened: &Screened,
    permit: Permit,
    record: &mut Record,
) -> Result<Forwarded, Unanswered> {
    let snapshot = &in_force.snapshot;
    let service = &snapshot.policy.services[permit.service()];
    let route = &service.routes[permit.route()];
    let (patience, rewriting, body_bytes_max) = (route.timeout, &route.rewriting, route.body_bytes);
    let key = balance_key(&service.upstream.balancing.balance, request.headers(), &permit);
    let watch = Watch::of(gate, snapshot, &permit);
    let way = Way { peer: peer.address, tls: peer.tls, request_id: &record.request_id, via: &gate.via };
    let broken = || (Failure::TargetInvalid, String::new());
    let mut head = rewrite::to_upstream(&request, screened, permit, &snapshot.policy, &way).ok_or_else(broken)?;
    // hyper leaves out the body of a GET or HEAD that says neither its length nor this.
    if !request.body().is_end_stream() && !head.headers().contains_key(CONTENT_LENGTH) {
        head.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if declared_length(request.headers()).is_some_and(|length| length > body_bytes_max) {
        return Err((Failure::BodyTooLarge, String::new()).into());
    }
    let opening = Opening::of(gate, &mut request, screened)?;
    if let Some(opening) = &opening {
        opening.ask(head.headers_mut());
    }
    let conversation = is_conversation(&request, &service.upstream);
    let progress = Arc::new(BodyProgress::of(conversation));
    let mut call = CallTime::of(request.headers(), snapshot.policy.timeouts.tunnel_idle, &progress, record.elapsed());
    let nominated = [nominated(request.headers()), rewriting.request.gone.clone()].concat();
    let body = RequestBody::new(request.into_body(), snapshot.clone(), nominated, progress.clone()).within(body_bytes_max, conversation);
    let sent = clock::instant_now();
    let cluster = in_force.upstreams.cluster(&service.name).ok_or_else(|| (Failure::UpstreamRefused, "the service is gone".to_owned()))?;
    let mut tries = Tries::default();
    // Pinned, so that what waits for it holds an address, not the large future itself, once for each layer.
    let answer = in_time(gate, &mut call, pin!(cluster.send(head.map(|()| body), key, (&progress, patience), &mut tries))).await;
    record.upstream = Some(clock::instant_now().duration_since(sent));
    (record.tries, record.endpoint) = (tries.count, tries.endpoint);
    let response = answer?;
    progress.note_answer();
    match opening {
        Some(opening) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let (response, tunnel) = opening.open((gate, snapshot, peer), response, watch, &record.request_id)?;
            return Ok(Forwarded::Tunnel(response, tunnel));
        }
        Some(opening) if opening.is_misled_by(response.status()) => {
            return Err((Failure::UpgradeInvalid, format!("{} instead of 101", response.status().as_u16())).into());
        }
        None if response.status() == StatusCode::SWITCHING_PROTOCOLS => return Err((Failure::UpgradeInvalid, String::new()).into()),
        Some(_) | None => {}
    }
    let (mut parts, body) = response.into_parts();
    // Each hop speaks its own version (RFC 9112 §2.3), hyper the client's; a 1.0 here would make it end the body by
    // closing, and a body that broke off would look whole.
    parts.version = Version::HTTP_11;
    let nominated =
        [rewrite::to_client(&mut parts.headers, &snapshot.policy, &record.request_id), rewriting.response.gone.clone()].concat();
    let body = match stream_of(&parts.headers, body, (watch, call), gate.closing_tunnels.subscribe()) {
        Ok(stream) => ResponseBody::stream(stream, snapshot.clone(), nominated),
        Err(body) => ResponseBody::upstream(body, snapshot.clone(), nominated),
    };
    Ok(Forwarded::Response(Response::from_parts(parts, body)))
}

/// An answer, unless its call has had its time, or the gate goes down and has waited for it long enough.
async fn in_time<T>(
    gate: &Gate,
    call: &mut Option<CallTime>,
    answer: impl Future<Output = Result<T, Unanswered>>,
) -> Result<T, Unanswered> {
    match call {
        Some(call) => unless_closing(gate, call.bound(answer)).await,
        None => unless_closing(gate, answer).await,
    }
}

async fn unless_closing<T>(gate: &Gate, answer: impl Future<Output = Result<T, Unanswered>>) -> Result<T, Unanswered> {
    let mut closing = gate.closing_tunnels.subscribe();
    tokio::select! {
        biased;
        answer = answer => answer,
        _ = closing.wait_for(|closing| *closing) => Err((Failure::GoingDown, String::new()).into()),
    }
}

/// Whether it is a gRPC call, whose client may be silent for as long as it wants. That a client says so is not enough: the
/// times for slow clients would be off for whoever sends a header. gRPC is POST over HTTP/2, to a service that speaks it.
fn is_conversation(request: &Request<Incoming>, upstream: &Upstream) -> bool {
    let speaks_http2 = match upstream.protocol {
        Protocol::Http2 => true,
        Protocol::Auto => upstream.tls.is_some(),
        Protocol::Http1 => false,
    };
    speaks_http2 && request.version() == Version::HTTP_2 && *request.method() == Method::POST && is_grpc(request.headers())
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
