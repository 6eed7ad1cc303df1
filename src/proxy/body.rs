//! Step 11. Bodies on their way, frame by frame: counted, limited, timed, and without trailers that are the gate's to
//! set. Nothing is buffered: a frame is asked for when the other side has room for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HOST, SET_COOKIE, TRANSFER_ENCODING};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::failure::Failure;
use crate::access::Snapshot;
use crate::observe::{CLIENT_GONE, Outcome, Record};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body broke off, for the sides that only see an error.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.row().title)]
pub struct BodyError(pub Failure);

/// How far a request's body has come: what the wait for an answer must know.
#[derive(Debug, Default)]
pub struct BodyProgress {
    frames: AtomicU64,
    finished: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl BodyProgress {
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }

    pub fn failure(&self) -> Option<Failure> {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, failure: Failure) -> BodyError {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        BodyError(failure)
    }
}

/// A request's body on its way to the upstream.
pub struct RequestBody {
    inner: Incoming,
    snapshot: Arc<Snapshot>,
    /// Names of trailers that end here.
    nominated: Vec<String>,
    progress: Arc<BodyProgress>,
    bytes_left: u64,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub fn new(inner: Incoming, snapshot: Arc<Snapshot>, nominated: Vec<String>, progress: Arc<BodyProgress>) -> Self {
        progress.finished.store(inner.is_end_stream(), Ordering::Relaxed);
        let bytes_left = snapshot.policy.limits.body_bytes;
        let stall = snapshot.policy.timeouts.body;
        Self { inner, snapshot, nominated, progress, bytes_left, stall, stalled: None }
    }

    fn watch_stall(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let stall = self.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall)));
        match stalled.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Some(Err(self.progress.fail(Failure::BodyTooSlow)))),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Pending => return this.watch_stall(cx),
            Poll::Ready(frame) => frame,
        };
        this.stalled = None;
        this.progress.frames.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(match frame {
            None => {
                this.progress.finished.store(true, Ordering::Relaxed);
                None
            }
            Some(Err(_)) => Some(Err(this.progress.fail(Failure::BodyBroken))),
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    match this.bytes_left.checked_sub(data.len() as u64) {
                        Some(left) => this.bytes_left = left,
                        None => return Poll::Ready(Some(Err(this.progress.fail(Failure::BodyTooLarge)))),
                    }
                }
                if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers, &this.snapshot, &this.nominated);
                }
                if this.inner.is_end_stream() {
                    this.progress.finished.store(true, Ordering::Relaxed);
                }
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Takes fields out of a trailer section that only mean something in a header section (RFC 9110 §6.5.1), those that
/// `Connection` nominated (§7.6.1), and those that are the gate's to set.
fn clean_trailers(trailers: &mut HeaderMap, snapshot: &Snapshot, nominated: &[String]) {
    let names: Vec<_> = trailers.keys().cloned().collect();
    for name in names {
        let misplaced = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, SET_COOKIE].contains(&name);
        let hop = nominated.iter().any(|option| option == name.as_str());
        if misplaced || hop || snapshot.policy.managed.covers_trailer(name.as_str()) {
            trailers.remove(&name);
        }
    }
}

/// Counts a request as open for as long as it lives.
pub struct OpenRequest(Arc<AtomicUsize>);

impl OpenRequest {
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response's body on its way to the client, with the record that ends with it.
pub struct ResponseBody {
    source: Source,
    snapshot: Option<Arc<Snapshot>>,
    nominated: Vec<String>,
    record: Option<Record>,
    open: Option<OpenRequest>,
    ended: bool,
}

enum Source {
    Own(Full<Bytes>),
    Upstream(Incoming),
    /// Over HTTP/2 a client that gives no room stops the polling of this body, so a watchman has a hand on it too.
    Watched(Arc<Watched>),
}

/// A client that takes as little as this within `timeouts.body` takes something.
const PIECE_BYTES_MAX: usize = 8 << 10;

/// An upstream's body that is let go when its client takes nothing for too long: the client keeps its stream, but no
/// connection to the service.
struct Watched {
    body: Mutex<Option<Incoming>>,
    /// What is left of a large frame. Frames are handed out in pieces, so that each that goes shows that the client takes.
    rest: Mutex<Bytes>,
    frames: AtomicU64,
    /// Whether the last poll waits for the service; the client cannot be blamed then.
    waiting: AtomicBool,
}

impl Watched {
    fn start(body: Incoming, patience: Duration) -> Arc<Self> {
        let watched = Arc::new(Self {
            body: Mutex::new(Some(body)),
            rest: Mutex::default(),
            frames: AtomicU64::new(0),
            waiting: AtomicBool::new(true),
        });
        let weak = Arc::downgrade(&watched);
        tokio::spawn(async move {
            let mut before = u64::MAX;
            loop {
                sleep(patience).await;
                let Some(watched) = weak.upgrade() else { return };
                let frames = watched.frames.load(Ordering::Relaxed);
                if frames == before && !watched.waiting.load(Ordering::Relaxed) {
                    *watched.body.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    return;
                }
                before = frames;
            }
        });
        watched
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(body) = body.as_mut() else { return Poll::Ready(Some(Err("the client took nothing for too long".into()))) };
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        self.frames.fetch_add(1, Ordering::Relaxed);
        let frame = match rest.is_empty() {
            true => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            false => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut *rest))))),
        };
        self.waiting.store(frame.is_pending(), Ordering::Relaxed);
        let Poll::Ready(Some(Ok(frame))) = frame else { return frame };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(mut data) => {
                *rest = data.split_off(data.len().min(PIECE_BYTES_MAX));
                Frame::data(data)
            }
            Err(trailers) => trailers,
        })))
    }

    fn has_rest(&self) -> bool {
        !self.rest.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn with<T>(&self, ask: impl FnOnce(&Incoming) -> T, gone: T) -> T {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(gone, ask)
    }
}

impl ResponseBody {
    pub fn own(bytes: impl Into<Bytes>) -> Self {
        Self { source: Source::Own(Full::new(bytes.into())), snapshot: None, nominated: Vec::new(), record: None, open: None, ended: false }
    }

    /// `watched` lets go of the upstream when the client takes nothing for too long. HTTP/1.1 needs none of it: there
    /// the stream itself is watched.
    pub fn upstream(inner: Incoming, snapshot: Arc<Snapshot>, nominated: Vec<String>, watched: bool) -> Self {
        let source = match watched && !inner.is_end_stream() {
            true => Source::Watched(Watched::start(inner, snapshot.policy.timeouts.body)),
            false => Source::Upstream(inner),
        };
        Self { source, snapshot: Some(snapshot), nominated, record: None, open: None, ended: false }
    }

    /// The request is open until the body is gone.
    pub fn hold(&mut self, open: OpenRequest) {
        self.open = Some(open);
    }

    /// Ties the record to the body: it is written when the last byte went out, or when the client left.
    pub fn attach(&mut self, record: Record) {
        self.ended = self.is_end_stream();
        self.record = Some(record);
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let ended = self.ended || self.is_end_stream();
        if let (Some(record), false) = (&mut self.record, ended) {
            record.reason.get_or_insert(CLIENT_GONE);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Source::Upstream(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Source::Watched(watched) => watched.poll(cx),
        };
        let Poll::Ready(mut frame) = frame else { return Poll::Pending };
        match &mut frame {
            None => this.ended = true,
            Some(Ok(frame)) => {
                if let (Some(data), Some(record)) = (frame.data_ref(), &mut this.record) {
                    record.response_bytes += data.len() as u64;
                }
                if let (Some(trailers), Some(snapshot)) = (frame.trailers_mut(), &this.snapshot) {
                    clean_trailers(trailers, snapshot, &this.nominated);
                }
            }
            Some(Err(_)) => {
                this.ended = true;
                if let Some(record) = &mut this.record {
                    record.outcome = Outcome::Failed;
                    let let_go = matches!(&this.source, Source::Watched(watched) if watched.with(|_| false, true));
                    record.reason = Some(if let_go { "client_gone" } else { Failure::UpstreamBroken.row().code });
                    record.detail = if let_go { "took nothing for too long" } else { "while sending its body" }.into();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Upstream(body) => body.is_end_stream(),
            Source::Watched(watched) => !watched.has_rest() && watched.with(Incoming::is_end_stream, false),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Upstream(body) => body.size_hint(),
            Source::Watched(watched) => watched.with(Incoming::size_hint, SizeHint::default()),
        }
    }
}
