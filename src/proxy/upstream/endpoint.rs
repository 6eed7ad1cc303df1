//! One endpoint: an address or a socket, its connections, and what is asked of it at the moment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use tokio::time::timeout;

use super::answer::{AnswerBody, Held, InFlight, UpstreamBody};
use super::connect::{Connector, Target, chain};
use super::http2::{self, Sender, Standing};
use super::lease::Lease;
use super::lent::Lent;
use super::pool::{Bounds, NoConnection, Pool, Want};
use super::tls::{ClientTls, server_name};
use crate::clock;
use crate::observe::EndpointMetrics;
use crate::policy::{Protocol, UpstreamTls};
use crate::proxy::failure::Failure;
use crate::proxy::progress::BodyProgress;
use crate::proxy::request_body::RequestBody;
use crate::proxy::rewrite::HostOfEndpoint;

/// What an endpoint is: two of one key are one, and keep their connections over a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointKey {
    pub address: Address,
    pub protocol: Protocol,
    pub tls: Option<Arc<UpstreamTls>>,
    /// Whose certificate is expected.
    pub host: String,
    /// In metrics.
    pub label: Arc<str>,
}

impl EndpointKey {
    /// What a request of the gate's own is addressed to.
    pub fn authority(&self) -> String {
        match self.address {
            Address::Tcp(_) => self.label.to_string(),
            Address::Unix(_) => self.host.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub struct Endpoint {
    pub key: EndpointKey,
    pool: Arc<Pool>,
    in_flight: Arc<AtomicUsize>,
}

/// Connections that one request meets closed, at most.
const TRIES_MAX: usize = 3;

/// How long a request may take, and how its body comes along.
pub struct Patience {
    pub progress: Arc<BodyProgress>,
    /// To the head of the answer, while nothing moves.
    pub response: Duration,
    /// Between two pieces of its body.
    pub idle: Duration,
    /// The end of it all.
    pub deadline: Option<Instant>,
    /// How much of the body is kept while it is sent over HTTP/2, to have it back if the service did not look at it.
    pub keep_bytes_max: usize,
}

/// A request that got no answer.
pub struct Attempt {
    pub failure: Failure,
    /// For the log.
    pub detail: String,
    /// Whether it provably was not acted upon, so that any request may go elsewhere: no connection, a connection that was
    /// already closed, or HTTP/2 says so (RFC 9113 §8.7).
    pub unsent: bool,
    /// Whether a connection could not even be made.
    pub unreached: bool,
    /// Whether that is because the connection was closed already, or takes no more requests.
    pub stale: bool,
    /// Whether this very endpoint is worth asking again in a moment.
    pub again: bool,
    /// Whether the connection broke, or the stream was reset, before there was an answer.
    pub reset: bool,
    /// The request as it was, where it can be had back.
    pub request: Option<Box<Request<RequestBody>>>,
}

impl Endpoint {
    pub fn new(
        key: EndpointKey,
        tls: Option<&ClientTls>,
        others: Vec<SocketAddr>,
        bounds: Bounds,
        metrics: EndpointMetrics,
    ) -> Result<Arc<Self>, String> {
        let target = match &key.address {
            Address::Tcp(address) => Target::Tcp(*address, ArcSwap::from_pointee(others)),
            Address::Unix(path) => Target::Unix(path.clone()),
        };
        let tls = match (tls, &key.tls) {
            (Some(tls), Some(files)) => Some((tls.clone(), server_name(files, &key.host)?)),
            _ => None,
        };
        let prior_knowledge = key.protocol == Protocol::Http2;
        let pool = Pool::new(Connector { target, tls, prior_knowledge }, bounds, metrics);
        Ok(Arc::new(Self { key, pool, in_flight: Arc::default() }))
    }

    /// Requests that are on their way here or back.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The addresses behind it: its own, and those of the other family.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match &self.pool.connector().target {
            Target::Tcp(first, others) => [*first].into_iter().chain(others.load().iter().copied()).collect(),
            Target::Unix(_) => Vec::new(),
        }
    }

    /// Takes over what may change while the connections stay.
    pub fn adopt(&self, others: Vec<SocketAddr>, bounds: &Bounds) {
        if let Target::Tcp(_, known) = &self.pool.connector().target {
            known.store(Arc::new(others));
        }
        self.pool.adopt(bounds);
    }

    /// Sends a request and waits for the head of its answer. The time runs while nothing moves: a long upload is no
    /// silence.
    ///
    /// It goes out a second time only when the first provably never left: a pooled connection that was already closed.
    /// Anything else could make the service do a thing twice.
    pub async fn send(&self, request: Request<RequestBody>, patience: &Patience) -> Result<Response<UpstreamBody>, Attempt> {
        let flight = InFlight::new(&self.in_flight);
        let tunnel = request.headers().contains_key(UPGRADE);
        if tunnel && self.key.protocol == Protocol::Http2 {
            return Err(Attempt::unsent(Failure::UpgradeUnavailable, String::new(), request));
        }
        let (mut request, mut want) = (request, Want::Any);
        if request.extensions().get::<HostOfEndpoint>().is_some()
            && let Ok(own) = HeaderValue::try_from(self.key.authority())
        {
            request.headers_mut().insert(HOST, own);
        }
        for again in (0..TRIES_MAX).rev() {
            let mut lease = match self.lease(want, tunnel, patience).await {
                Ok(lease) => lease,
                Err(none) => {
                    let mut attempt = Attempt::unsent(none.failure, none.detail, request);
                    attempt.unreached = none.failure == Failure::UpstreamRefused;
                    attempt.again = none.at_once;
                    return Err(attempt);
                }
            };
            let reused = lease.reused;
            match self.exchange(&mut lease, request, patience).await {
                Ok(response) => {
                    let (idle, deadline) = (patience.idle, patience.deadline);
                    return match framed_once(response) {
                        Ok(response) => Ok(response.map(|body| UpstreamBody::new(body, Held::new(lease, flight), idle, deadline))),
                        Err(attempt) => {
                            lease.discard();
                            Err(attempt)
                        }
                    };
                }
                // One that is closed makes it likely that others of its age are.
                Err(Attempt { stale: true, request: Some(back), .. }) if reused && again > 0 => {
                    (request, want) = (*back, Want::Fresh);
                }
                Err(attempt) => return Err(attempt),
            }
        }
        Err(Attempt::unsent(Failure::UpstreamBroken, "every connection was closed".to_owned(), request))
    }

    async fn lease(&self, want: Want, tunnel: bool, patience: &Patience) -> Result<Lease, NoConnection> {
        if tunnel {
            return self.pool.lease_for_tunnel(want).await;
        }
        if let Some(lease) = self.pool.take(want) {
            return Ok(lease);
        }
        let slow = || NoConnection {
            at_once: false,
            failure: Failure::UpstreamSlow,
            detail: format!("no connection within {:?}", patience.response),
        };
        timeout(patience.response, self.pool.lease(want)).await.unwrap_or_else(|_| Err(slow()))
    }

    async fn exchange(
        &self,
        lease: &mut Lease,
        request: Request<RequestBody>,
        patience: &Patience,
    ) -> Result<Response<AnswerBody>, Attempt> {
        let (mut head, body) = request.into_parts();
        if let Some(way) = lease.http2() {
            return self.exchange_http2(lease, way, (head, body), patience).await;
        }
        let target = std::mem::take(&mut head.uri);
        head.uri = origin_form(&target);
        let sent = lease.send(Request::from_parts(head, Lent::new(body)));
        let answer = waited(sent, patience).await?.map_err(|unanswered| {
            let mut attempt = Attempt::of(unanswered.error.as_ref().map(|error| (error as _, broke(error))), patience);
            attempt.request = unanswered.request.map(|request| {
                let (mut head, body) = request.into_parts();
                head.uri = target;
                Box::new(Request::from_parts(head, body.into_body()))
            });
            attempt.unsent = attempt.request.is_some();
            attempt.stale = attempt.unsent;
            attempt
        })?;
        Ok(answer.map(AnswerBody::Http1))
    }

    async fn exchange_http2(
        &self,
        lease: &mut Lease,
        way: (Sender, Arc<Standing>),
        (head, body): (Parts, RequestBody),
        patience: &Patience,
    ) -> Result<Response<AnswerBody>, Attempt> {
        let scheme = if self.key.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let sent = http2::head_of(&head, scheme);
        let answer = waited(http2::exchange(way, sent, body, patience.keep_bytes_max), patience).await?;
        let (answer, tail) = answer.map_err(|unanswered| {
            let mut attempt = Attempt::of(Some((&unanswered.error, true)), patience);
            let verdict = verdict(&unanswered.error);
            let closing = unanswered.unsent || verdict == Verdict::Closing;
            if closing {
                lease.retire();
            }
            attempt.stale = closing;
            attempt.unsent = closing || verdict == Verdict::Refused;
            if attempt.unsent {
                attempt.request = unanswered.body.map(|body| Box::new(Request::from_parts(head, body)));
            }
            attempt
        })?;
        lease.goes_on(tail);
        Ok(answer.map(AnswerBody::Http2))
    }
}

impl Attempt {
    pub(super) fn unsent(failure: Failure, detail: String, request: Request<RequestBody>) -> Self {
        Self { failure, detail, unsent: true, unreached: false, stale: false, again: true, reset: false, request: Some(Box::new(request)) }
    }

    fn sent(failure: Failure, detail: String) -> Self {
        Self { failure, detail, unsent: false, unreached: false, stale: false, again: true, reset: false, request: None }
    }

    /// Whose fault it is, and what the log says of it: an error, and whether the connection or stream ended with it.
    fn of(error: Option<(&dyn std::error::Error, bool)>, patience: &Patience) -> Self {
        match patience.progress.failure() {
            Some(failure) => Self::sent(failure, String::new()),
            None => {
                let detail = error.map(|(error, _)| chain(error)).unwrap_or_default();
                Self { reset: error.is_some_and(|(_, broke)| broke), ..Self::sent(Failure::UpstreamBroken, detail) }
            }
        }
    }
}

/// Whether a connection ended, and not what it carried was wrong.
fn broke(error: &hyper::Error) -> bool {
    let broken = std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>());
    broken || error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}

/// Waits for as long as something moves.
async fn waited<T>(answer: impl Future<Output = T>, patience: &Patience) -> Result<T, Attempt> {
    tokio::pin!(answer);
    let progress = &patience.progress;
    loop {
        let (frames, finished) = (progress.frames(), progress.is_finished());
        let left = patience.deadline.map(|deadline| deadline.saturating_duration_since(clock::instant_now()));
        let patient = left.map_or(patience.response, |left| left.min(patience.response));
        match timeout(patient, &mut answer).await {
            Ok(answer) => return Ok(answer),
            Err(_) if left.is_some_and(|left| left <= patience.response) => {
                return Err(Attempt::sent(Failure::UpstreamSlow, "longer than timeouts.total".to_owned()));
            }
            Err(_) if progress.frames() == frames && progress.is_finished() == finished => {
                return Err(Attempt::sent(Failure::UpstreamSlow, format!("nothing within {:?}", patience.response)));
            }
            Err(_) => {}
        }
    }
}

/// What HTTP/2 says of a request that it did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Not processed, and the connection takes no more.
    Closing,
    /// Not processed.
    Refused,
    Unknown,
}

/// RFC 9113 §8.7: a stream that was refused, and one above the last that a GOAWAY names, was not acted upon.
fn verdict(error: &h2::Error) -> Verdict {
    match error.is_remote() {
        true if error.is_go_away() => Verdict::Closing,
        true if error.reason() == Some(h2::Reason::REFUSED_STREAM) => Verdict::Refused,
        true | false => Verdict::Unknown,
    }
}

fn origin_form(target: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = target.path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_default()
}

/// Refuses an answer whose body ends in one place for one reader and elsewhere for another (RFC 9112 §6.3), even where the
/// lengths are the same (RFC 9110 §8.6). Its connection must not be used again: nobody knows what the next answer on it is.
fn framed_once(response: Response<AnswerBody>) -> Result<Response<AnswerBody>, Attempt> {
    let headers = response.headers();
    let only = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        (values.next(), values.next().is_none())
    };
    let good = match (only(TRANSFER_ENCODING), only(CONTENT_LENGTH)) {
        ((None, _), (None, _)) => true,
        ((None, _), (Some(length), true)) => length.as_bytes().iter().all(u8::is_ascii_digit),
        ((Some(coding), true), (None, _)) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        ((Some(_), _) | (None, _), _) => false,
    };
    match good {
        true => Ok(response),
        false => {
            let detail = "an answer with two lengths, or a coding other than chunked";
            Err(Attempt::sent(Failure::UpstreamBroken, detail.to_owned()))
        }
    }
}

impl Endpoint {
    /// Keeps no connections any more. Who still comes is served.
    pub fn close(&self) {
        self.pool.close();
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.pool.close();
    }
}
