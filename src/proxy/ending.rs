//! Streams outlive their requests: this watches whether the token that opened one still counts, and ends the body of one
//! that does not as its protocol has it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use super::admission::Place;
use super::failure::Failure;
use super::gate::Gate;
use super::grpc::{self, CallTime};
use super::grpc_frames::{Messages, WebFrames};
use super::response_body::BoxError;
use super::upstream::{AnswerStopped, UpstreamBody};
use crate::access::{Denial, Identity, Permit, Snapshot};
use crate::clock;
use crate::observe::Limit;
use crate::policy::Streams;

/// How long a stream may take to come to a place where it can end in good order; it is cut then.
pub const CUT_AFTER: Duration = Duration::from_secs(2);

/// The wall clock may be set while a stream is open, so that nobody sleeps to a date for long.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// Why a stream ends: the code of the refusal that a new request would get.
pub type Reason = &'static str;

/// Whether the token of an open stream still counts.
pub struct Watch {
    gate: Arc<Gate>,
    snapshot: Arc<Snapshot>,
    service: usize,
    route: usize,
    identity: Identity,
}

impl Watch {
    /// That of a request, if its stream is one to be ended: it came with a token, and the route lets it.
    pub fn of(gate: &Arc<Gate>, snapshot: &Arc<Snapshot>, permit: &Permit) -> Option<Self> {
        let (service, route) = (permit.service(), permit.route());
        let wanted = snapshot.policy.services[service].routes[route].streams == Streams::End && permit.reported().is_none();
        let identity = permit.identity().filter(|_| wanted)?.clone();
        Some(Self { gate: gate.clone(), snapshot: snapshot.clone(), service, route, identity })
    }

    /// Returns when it counts no more: it has expired, was revoked, or its user's consent is gone.
    pub async fn end(self) -> Reason {
        let mut revocations = self.gate.revocations.changes();
        let mut unknown_since = None;
        loop {
            // What changes from here on is seen; what changed before, below.
            revocations.borrow_and_update();
            let now = clock::unix_now();
            let (snapshot, service, route) = self.in_force();
            let consent = snapshot.policy.services[service].consent.as_ref();
            let mut wake = SLEEP_MAX;
            match self.gate.consents.still(&snapshot, service, route, &self.identity).await {
                Ok(()) => unknown_since = None,
                // Nobody knows: for as long as an answer would count, it may be as it was.
                Err(denial @ (Denial::ConsentUnknown(_) | Denial::ConsentBusy)) => {
                    let since = *unknown_since.get_or_insert(now);
                    if now - since >= consent.map_or(0, |consent| consent.max_age) {
                        return self.ended(&denial);
                    }
                    wake = Duration::from_secs(1);
                }
                Err(denial) => return self.ended(&denial),
            }
            let left = self.identity.claims().expires_at.saturating_add(snapshot.policy.leeway).saturating_sub(now).max(0);
            wake = wake.min(Duration::from_secs(left.unsigned_abs()));
            if let Some(consent) = consent {
                wake = wake.min(Duration::from_secs((consent.max_age / 10).max(1).unsigned_abs()));
            }
            tokio::select! {
                () = sleep(wake) => {}
                _ = revocations.changed() => {}
            }
        }
    }

    /// The route as it is now; as it was where it is gone.
    fn in_force(&self) -> (Arc<Snapshot>, usize, usize) {
        let opened = &self.snapshot.policy.services[self.service];
        let current = self.gate.snapshot();
        let service = current.policy.services.iter().position(|service| service.name == opened.name && !service.own);
        let same = |service: usize| {
            let mut routes = current.policy.services[service].routes.iter();
            Some((service, routes.position(|route| route.key == opened.routes[self.route].key)?))
        };
        match service.and_then(same) {
            Some((service, route)) => (current, service, route),
            None => (self.snapshot.clone(), self.service, self.route),
        }
    }

    fn ended(&self, denial: &Denial) -> Reason {
        let reason = denial.row().code;
        self.gate.observer.metrics.revocations.streams_ended.with_label_values(&[reason]).inc();
        reason
    }
}

/// How a body that streams is ended.
enum Manner {
    /// Its end is its end: what an event lacks then is not delivered (HTML, server-sent events).
    Events,
    /// Between two messages, with trailers.
    Grpc(Messages),
    /// The same, with trailers that are the body's last message.
    GrpcWeb(WebFrames),
    /// Never in good order: what a gRPC call got that is none. It is cut.
    Other,
}

/// Why and how a stream was ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// For the log.
    pub reason: Reason,
    /// Whether that is a failure, and not what the policy wants.
    pub failed: bool,
    /// The limit that it was over.
    pub limit: Option<Limit>,
    status: StatusCode,
    message: &'static str,
}

impl Ended {
    fn by_token(reason: Reason) -> Self {
        Self { reason, failed: false, limit: None, status: StatusCode::UNAUTHORIZED, message: reason }
    }

    fn by(failure: Failure) -> Self {
        let row = failure.row();
        Self { reason: row.code, failed: true, limit: failure.limit(), status: row.status, message: row.title }
    }
}

/// The body of a stream on its way to the client.
pub struct StreamBody {
    inner: Option<UpstreamBody>,
    watch: Option<Pin<Box<dyn Future<Output = Reason> + Send>>>,
    call: Option<CallTime>,
    /// Returns when the gate goes down and has waited long enough.
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
    manner: Manner,
    ended: Option<Ended>,
    cut: Option<Pin<Box<Sleep>>>,
    /// What the gate says behind it.
    last: Option<Frame<Bytes>>,
}

/// Whether an answer is a stream of events or of gRPC messages, which may go on for as long as its service likes.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/event-stream") || grpc::is_grpc(headers)
}

/// A body that streams, by its type, and every answer to a gRPC call; none else, which is not cut in the middle.
#[allow(clippy::result_large_err, reason = "no error, but the body itself, which goes on either way")]
pub fn stream_of(
    headers: &HeaderMap,
    body: UpstreamBody,
    (watch, call): (Option<Watch>, Option<CallTime>),
    mut closing: watch::Receiver<bool>,
) -> Result<Box<StreamBody>, UpstreamBody> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let web = WebFrames::of(essence).map(Manner::GrpcWeb);
    let manner = match () {
        () if grpc::is_grpc(headers) => Manner::Grpc(Messages::default()),
        () if essence.eq_ignore_ascii_case("text/event-stream") => Manner::Events,
        () => match web.or(call.is_some().then_some(Manner::Other)) {
            Some(manner) => manner,
            None => return Err(body),
        },
    };
    let watch = watch.filter(|_| !matches!(manner, Manner::Other));
    let closing = Box::pin(async move {
        if closing.wait_for(|closing| *closing).await.is_err() {
            std::future::pending().await
        }
    });
    let watch: Option<Pin<Box<dyn Future<Output = Reason> + Send>>> = watch.map(|watch| Box::pin(watch.end()) as _);
    Ok(Box::new(StreamBody { inner: Some(body), watch, call, closing, manner, ended: None, cut: None, last: None }))
}

impl StreamBody {
    /// Its request's place is kept until the request's own body has ended.
    pub fn keep(&mut self, place: &Arc<Place>) {
        if let Some(inner) = &mut self.inner {
            inner.keep(place);
        }
    }

    /// Why it was ended, if it was.
    pub fn ended_by(&self) -> Option<Ended> {
        self.ended
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended.is_none()
            && self.inner.is_some()
            && let Poll::Ready(ended) = self.poll_ended(cx)
        {
            self.ended = Some(ended);
            self.cut = Some(Box::pin(sleep(CUT_AFTER)));
        }
        if self.ended.is_some() && self.may_end() {
            self.end();
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(self.last.take().map(Ok)) };
        let frame = Pin::new(inner).poll_frame(cx).map_err(BoxError::from);
        let Poll::Ready(mut frame) = frame else {
            return match self.cut.as_mut().map(|cut| cut.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => {
                    self.inner = None;
                    Poll::Ready(Some(Err("the stream was to end and did not".into())))
                }
                _ => Poll::Pending,
            };
        };
        if let Some(call) = &mut self.call {
            call.answered();
        }
        if let (Some(Err(error)), Manner::Grpc(messages), None) = (&frame, &self.manner, self.ended)
            && messages.is_between()
        {
            let slow = error.is::<AnswerStopped>();
            return self.broke_off(if slow { Failure::UpstreamSlow } else { Failure::UpstreamBroken });
        }
        if let Some(Ok(frame)) = &mut frame
            && let Some(data) = frame.data_mut()
        {
            match (&mut self.manner, self.ended) {
                (Manner::Grpc(messages), None) => messages.pass(data),
                (Manner::Grpc(messages), Some(_)) => data.truncate(messages.pass_to_boundary(data)),
                (Manner::GrpcWeb(frames), None) => frames.pass(data),
                (Manner::GrpcWeb(frames), Some(_)) => data.truncate(frames.pass_to_boundary(data)),
                (Manner::Events | Manner::Other, _) => {}
            }
        }
        Poll::Ready(frame)
    }

    /// Ready when its token counts no more, the gate goes down, or its call has had its time.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(watch) = &mut self.watch
            && let Poll::Ready(reason) = watch.as_mut().poll(cx)
        {
            return Poll::Ready(Ended::by_token(reason));
        }
        if self.closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ended::by(Failure::GoingDown));
        }
        match &mut self.call {
            Some(call) => call.poll(cx).map(|overdue| Ended::by(overdue.failure())),
            None => Poll::Pending,
        }
    }

    /// The service, or the client's side, broke off between two messages: the client reads a status for it, which tells it
    /// more than a reset.
    fn broke_off(&mut self, upstream: Failure) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let failure = self.call.as_ref().and_then(CallTime::failure).unwrap_or(upstream);
        self.ended = Some(Ended::by(failure));
        self.end();
        Poll::Ready(self.last.take().map(Ok))
    }

    fn may_end(&self) -> bool {
        match &self.manner {
            Manner::Events => true,
            Manner::Grpc(messages) => messages.is_between(),
            Manner::GrpcWeb(frames) => frames.is_between(),
            Manner::Other => false,
        }
    }

    /// Lets the service go, and says why to who can hear it.
    fn end(&mut self) {
        let (Some(_), Some(ended)) = (self.inner.take(), self.ended) else { return };
        let trailers = || grpc::trailers(ended.status, ended.message);
        self.last = match &self.manner {
            Manner::Grpc(_) => Some(Frame::trailers(trailers())),
            Manner::GrpcWeb(frames) => Some(Frame::data(frames.trailers(&trailers()))),
            Manner::Events | Manner::Other => None,
        };
    }

    pub fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.is_end_stream(),
            None => self.last.is_none(),
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
