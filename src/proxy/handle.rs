//! The way of a request, on one screen: screen, decide, rewrite, send, respond, record.
//!
//! **Invariant:** there is always an answer and always a record. Every way out of [`handle`] returns a response.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::accept::Held;
use super::answer_fields::AnswerFields;
use super::ending::is_stream;
use super::extended;
use super::failure::Failure;
use super::forward::{Forwarded, forward};
use super::gate::{Gate, InForce};
use super::grpc::is_grpc;
use super::limit::limit;
use super::noted::{failed, finish, finish_failed, note_permit, note_refusal};
use super::own;
use super::redirect;
use super::respond::{self, Asked};
use super::response_body::ResponseBody;
use super::rewrite::{self, X_REQUEST_ID};
use super::screen::{Screened, screen};
use super::stream::StreamFacts;
use super::tls::{Shown, Standing};
use super::upstream::Unanswered;
use super::webhook;
use crate::access::{
    ClientCertificate, Denial, Head, Refusal, Snapshot, Verdict, answered_preflight, decide, decide_with, leads_to, unasked_token,
};
use crate::clock;
use crate::keys::Checked;
use crate::observe::{Outcome, Record};

/// Who is at the other end of a connection.
#[derive(Clone)]
pub struct Peer {
    /// `None` on a Unix socket.
    pub address: Option<IpAddr>,
    pub tls: bool,
    /// The certificate that the client showed when it connected.
    pub shown: Option<Arc<Shown>>,
    /// The port to which requests are sent away.
    pub redirect_to_https: Option<u16>,
    /// What the stream knows of each head; `None` for HTTP/2.
    pub facts: Option<Arc<StreamFacts>>,
    /// The connection's place among `limits.connections`: a tunnel keeps it when the connection has become one.
    pub held: Arc<Held>,
}

impl Peer {
    /// The client's certificate, as far as it still counts.
    fn certificate(&self) -> Result<Option<&ClientCertificate>, Failure> {
        let Some(shown) = &self.shown else { return Ok(None) };
        match shown.standing() {
            Standing::Good => Ok(Some(&shown.certificate)),
            Standing::Unasked => Ok(None),
            // Another connection may show a better one (RFC 9110 §15.5.20).
            Standing::Lost => Err(Failure::CertificateLost),
        }
    }
}

pub async fn handle(gate: Arc<Gate>, peer: Peer, mut request: Request<Incoming>) -> Response<ResponseBody> {
    extended::as_get(&mut request);
    let id = request_id(request.headers());
    let mut record = Record::begin(&gate.observer, id.clone(), request.method().clone(), request.uri().path(), request.version());
    record.peer = peer.address;
    let (version, grpc, asks_for_head) = (request.version(), is_grpc(request.headers()), request.method() == Method::HEAD);
    let extended = extended::is_websocket(&request);
    // On the heap for as long as the request lasts: hyper keeps room for a handler as long as its connection is open.
    let work = Box::pin(serve(gate.clone(), peer, request, record));
    let mut response = caught(work, &Asked { request_id: &id, version, grpc }).await;
    // Said before the listener closes: a client that connects anew then finds another gate, and none sends its next
    // request into a connection that is just closing.
    if gate.health.is_draining() && version < Version::HTTP_2 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if extended && extended::misleads(&response) {
        return respond::failed(Failure::ProtocolUnknown, &Asked { request_id: &id, version, grpc });
    }
    if asks_for_head && version == Version::HTTP_2 {
        without_body(&mut response);
    }
    response
}

/// Takes the gate's own words out of an answer to HEAD (RFC 9110 §9.3.2). hyper does so over HTTP/1.1 alone.
fn without_body(response: &mut Response<ResponseBody>) {
    if response.body().is_end_stream() {
        return;
    }
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    response.body_mut().leave_out();
}

/// An answer even if the work panics. Its record was dropped while unwinding, and is written.
async fn caught(work: impl Future<Output = Response<ResponseBody>>, asked: &Asked<'_>) -> Response<ResponseBody> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(response) => response,
        Err(_) => respond::failed(Failure::Panicked, asked),
    }
}

/// Takes a place for the request, or refuses it before anything is decided: refusing is cheap then.
async fn serve(gate: Arc<Gate>, peer: Peer, request: Request<Incoming>, mut record: Record) -> Response<ResponseBody> {
    let snapshot = gate.in_force();
    let (id, version, grpc) = (record.request_id.clone(), request.version(), is_grpc(request.headers()));
    let asked = Asked { request_id: &id, version, grpc };
    record.judge(&snapshot.policy);
    let facts = peer.facts.as_ref().map(|facts| facts.next_head());
    let screened = screen(&request, facts, &snapshot.policy, &gate.via);
    let (screened, certificate) = match screened.and_then(|screened| Ok((screened, peer.certificate()?))) {
        Ok(both) => both,
        Err(failure) => return finish_failed(failure, String::new(), &asked, record),
    };
    if let Some(response) = redirect::answer(&request, &screened, &snapshot.policy, &peer, &asked, &mut record) {
        leave_body(request);
        return finish(response, record);
    }
    let mut place = match gate.admission.enter(&snapshot.policy, &gate.observer.metrics).await {
        Ok(place) => place,
        Err(none) => {
            let head = head(&snapshot, &peer, &request, &screened, certificate);
            let response = turn_away(&snapshot, &head, none, &asked, record);
            leave_body(request);
            return response;
        }
    };
    // What was changed while it waited for its place counts for it.
    let snapshot = gate.in_force();
    record.judge(&snapshot.policy);
    let mut response = serve_admitted(&gate, (snapshot, &peer), request, (screened, certificate, &asked), record).await;
    // A stream may last for hours: it leaves the place of its request to others, if there is one for streams.
    if is_stream(response.headers())
        && let Some(streams) = gate.admission.enter_tunnel(&gate.observer.metrics)
    {
        place = streams;
    }
    response.body_mut().keep(place);
    response
}

async fn serve_admitted(
    gate: &Arc<Gate>,
    (snapshot, peer): (Arc<InForce>, &Peer),
    request: Request<Incoming>,
    (screened, certificate, asked): (Screened, Option<&ClientCertificate>, &Asked<'_>),
    mut record: Record,
) -> Response<ResponseBody> {
    let asked_for = head(&snapshot, peer, &request, &screened, certificate);
    let (snapshot, verdict) = decide_with_keys(gate, snapshot, &asked_for).await;
    gate.note_client(&verdict);
    let fields = AnswerFields::of(&snapshot.policy, &verdict, request.headers());
    let permit = match verdict {
        Ok(Verdict::Forward(permit)) => permit,
        Ok(Verdict::Preflight { service, route }) => return preflight(&snapshot, (service, route), request, asked, record),
        Ok(Verdict::Metadata { service, slash }) => {
            record.decide(&snapshot.policy, None, None, Outcome::Own);
            return finish(respond::metadata(&snapshot.policy, (service, slash), request.method(), asked), record);
        }
        Ok(Verdict::Own { endpoint, client }) => {
            let (response, ended) = own::answer(gate, &snapshot.snapshot, (endpoint, client), request, asked, peer.address).await;
            let (outcome, reason, detail) = ended;
            record.decide(&snapshot.policy, None, None, outcome);
            (record.reason, record.detail) = (reason, detail);
            return finish(response, record);
        }
        Ok(Verdict::Webhook) => {
            return match webhook::take(gate, &snapshot, request).await {
                Ok(response) => {
                    record.decide(&snapshot.policy, None, None, Outcome::Own);
                    finish(response, record)
                }
                Err(failure) => finish_failed(failure, String::new(), asked, record),
            };
        }
        Err(refusal) => {
            note_refusal(&mut record, &snapshot, &refusal);
            leave_body(request);
            return finish(fields.on_own(respond::denied(&snapshot.policy, &refusal, asked)), record);
        }
    };
    note_permit(&mut record, &snapshot, &permit);
    let limited = limit(gate, &snapshot, peer.address, request.headers(), &permit, &mut record).await;
    if let Some(refusal) = limited.refusal {
        note_refusal(&mut record, &snapshot, &refusal);
        leave_body(request);
        return finish(fields.on_own(limited.fields.on(respond::denied(&snapshot.policy, &refusal, asked))), record);
    }
    if rewrite::is_last_hop(&request) {
        record.outcome = Outcome::Own;
        return finish(fields.on_own(respond::last_hop(asked)), record);
    }
    match forward(gate, &snapshot, peer, request, &screened, permit, &mut record).await {
        Ok(Forwarded::Response(response)) => finish(limited.fields.on(fields.on_upstreams(response, &screened)), record),
        Ok(Forwarded::Tunnel(response, tunnel)) => {
            // Over HTTP/2, too, where the answer itself is a 200: what went on here is one thing.
            record.status = StatusCode::SWITCHING_PROTOCOLS;
            record.reason = None;
            record.audit();
            tokio::spawn(tunnel.run(record));
            fields.on_tunnels(response)
        }
        Err(Unanswered { failure, detail, retry_after }) => {
            let mut response = finish(fields.on_own(respond::failed(failure, asked)), failed(failure, detail, record));
            if let Some(wait) = retry_after {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64));
            }
            response
        }
    }
}

/// What is decided on.
fn head<'r>(
    snapshot: &Snapshot,
    peer: &Peer,
    request: &'r Request<Incoming>,
    screened: &'r Screened,
    certificate: Option<&'r ClientCertificate>,
) -> Head<'r> {
    Head {
        method: request.method(),
        host: &screened.host,
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
        websocket: screened.websocket,
        plain: redirect::is_plain(request.headers(), &snapshot.policy, peer),
        certificate,
    }
}

/// Refuses a request for which there is no place, so that a page may read why. What its browser asks before is answered:
/// that costs no more than to refuse it, and the page would learn nothing.
fn turn_away(
    snapshot: &Snapshot,
    head: &Head<'_>,
    (failure, detail): (Failure, &str),
    asked: &Asked<'_>,
    mut record: Record,
) -> Response<ResponseBody> {
    let policy = &snapshot.policy;
    if let Some(Ok(Verdict::Preflight { service, route })) = answered_preflight(policy, head) {
        record.decide(policy, Some(service), Some(route), Outcome::Own);
        return finish(respond::preflight(&policy.services[service].routes[route], head.headers, asked), record);
    }
    let (service, route) = leads_to(policy, head);
    let fields = AnswerFields::at(policy, service, route, head.headers);
    fields.on_own(finish_failed(failure, detail.to_owned(), asked, record))
}

/// Answers a browser that asks whether a page may send its request.
fn preflight(
    snapshot: &Snapshot,
    (service, route): (usize, usize),
    request: Request<Incoming>,
    asked: &Asked<'_>,
    mut record: Record,
) -> Response<ResponseBody> {
    record.decide(&snapshot.policy, Some(service), Some(route), Outcome::Own);
    let response = respond::preflight(&snapshot.policy.services[service].routes[route], request.headers(), asked);
    leave_body(request);
    finish(response, record)
}

/// Reads a little of the body of a refused HTTP/2 request. Dropping it would reset the stream at once, and some clients
/// (curl 7.88) then lose the answer. Over HTTP/1.1 hyper closes the connection instead.
fn leave_body(request: Request<Incoming>) {
    const LEFT_BYTES_MAX: usize = 256 << 10;
    const LEFT_TIME_MAX: Duration = Duration::from_secs(1);
    if request.version() != Version::HTTP_2 || request.body().is_end_stream() {
        return;
    }
    let mut body = request.into_body();
    let read = async move {
        let mut left = LEFT_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    tokio::spawn(timeout(LEFT_TIME_MAX, read));
}

/// Decides; if the token is opaque, asks the issuer about it and decides once more, by the same policy. If the token's key
/// is unknown, asks for it and decides once more, with what is then in force. A key that
/// could not be asked for is no bad key: a good token signed with a new one must never look bad.
async fn decide_with_keys(gate: &Gate, mut snapshot: Arc<InForce>, head: &Head<'_>) -> (Arc<InForce>, Result<Verdict, Box<Refusal>>) {
    /// The first fetch may have begun before the key was there.
    const QUESTIONS_MAX: usize = 2;
    /// A caller would rather come again than wait for longer.
    const PATIENCE_MAX: Duration = Duration::from_millis(1200);
    let mut verdict = decide(&snapshot, head, clock::unix_now());
    if let Some((service, token)) = unasked_token(&verdict, head) {
        let said = gate.introspect(&snapshot, service, token).await;
        verdict = decide_with(&snapshot, head, &said, clock::unix_now());
        verdict = gate.consents.settle(&snapshot, head, Some(&said), verdict).await;
        return (snapshot, verdict);
    }
    let mut asked = false;
    for _ in 0..QUESTIONS_MAX {
        let Some((issuer, kid)) = wanted_key(&verdict) else { break };
        // While the issuer is away there is nothing to wait for, and a route that only reports waits for nobody.
        let away = snapshot.keyring.0[issuer].unreachable;
        let patience = Some(snapshot.policy.keys.timeout.0.min(PATIENCE_MAX)).filter(|_| !away && verdict.is_err());
        let checked = gate.refresh_keys(&snapshot.policy.issuers[issuer].url, &kid, patience).await;
        snapshot = gate.in_force();
        verdict = decide(&snapshot, head, clock::unix_now());
        match checked {
            Checked::Now => {
                asked = true;
                break;
            }
            Checked::Before => {}
            Checked::TooEarly => break,
        }
    }
    if let Err(refusal) = &mut verdict
        && !asked
        && let Denial::KeyUnknown { issuer, .. } = refusal.denial
    {
        refusal.denial = Denial::KeysUnavailable { issuer };
    }
    verdict = gate.consents.settle(&snapshot, head, None, verdict).await;
    (snapshot, verdict)
}

/// The issuer whose keys may be worth asking for once more, and the key that is wanted.
fn wanted_key(verdict: &Result<Verdict, Box<Refusal>>) -> Option<(usize, String)> {
    let denial = match verdict {
        Err(refusal) => &refusal.denial,
        Ok(Verdict::Forward(permit)) => permit.reported()?,
        Ok(Verdict::Metadata { .. } | Verdict::Preflight { .. } | Verdict::Webhook | Verdict::Own { .. }) => return None,
    };
    denial.wants_key().map(|(issuer, kid)| (issuer, kid.to_owned()))
}

/// The caller's request id if it is a sane one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    const REQUEST_ID_BYTES_MAX: usize = 128;
    let sane = |id: &&str| {
        !id.is_empty()
            && id.len() <= REQUEST_ID_BYTES_MAX
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte))
    };
    let taken = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sane);
    taken.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Metrics, Observer};

    #[tokio::test]
    async fn a_panic_in_one_request_is_answered_and_counted() {
        let observer = Arc::new(Observer::new(Metrics::new().unwrap()));
        let record = Record::begin(&observer, "id".to_owned(), http::Method::GET, "/x", Version::HTTP_11);
        let work = async move {
            let _held = record;
            panic!("on purpose")
        };
        let answer = caught(work, &Asked { request_id: "id", version: Version::HTTP_11, grpc: false }).await;
        assert_eq!((answer.status(), answer.headers()[CONNECTION].as_bytes()), (StatusCode::INTERNAL_SERVER_ERROR, &b"close"[..]));
        assert_eq!(observer.metrics.refused("-", "internal"), 1);
    }
}
