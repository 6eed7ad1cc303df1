//! Step 11. An answer's body on its way to the client, with what ends with it. As a request's, it goes frame by frame,
//! without trailers that are the gate's to set, and nothing is buffered: a frame is asked for when the other side has room.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HOST, SET_COOKIE, TRANSFER_ENCODING};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::admission::Place;
use super::ending::StreamBody;
use super::failure::Failure;
use super::taking::{PIECE_BYTES_MAX, Taking};
use super::upstream::{AnswerStopped, UpstreamBody};
use crate::access::Snapshot;
use crate::observe::{CLIENT_GONE, Limit, Outcome, Record};
use crate::policy::fold;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Takes fields out of a trailer section that only mean something in a header section (RFC 9110 §6.5.1), those that
/// `Connection` nominated (§7.6.1), and those that are the gate's or the operator's to set.
pub(super) fn clean_trailers(trailers: &mut HeaderMap, snapshot: &Snapshot, nominated: &[String]) {
    let names: Vec<_> = trailers.keys().cloned().collect();
    for name in names {
        let misplaced = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, SET_COOKIE].contains(&name);
        let hop = nominated.iter().any(|option| option == name.as_str() || *option == fold(name.as_str()));
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
    /// What is left of a large frame. Over HTTP/2 frames are handed out in pieces, so that each that goes shows that the
    /// client takes.
    rest: Bytes,
    taking: Option<Arc<Taking>>,
    snapshot: Option<Arc<Snapshot>>,
    nominated: Vec<String>,
    record: Option<Record>,
    open: Option<Arc<OpenRequest>>,
    place: Option<Arc<Place>>,
    ended: bool,
}

enum Source {
    Own(Full<Bytes>),
    Upstream(UpstreamBody),
    Stream(Box<StreamBody>),
}

impl ResponseBody {
    pub fn own(bytes: impl Into<Bytes>) -> Self {
        Self::new(Source::Own(Full::new(bytes.into())), None, Vec::new())
    }

    pub fn upstream(inner: UpstreamBody, snapshot: Arc<Snapshot>, nominated: Vec<String>) -> Self {
        Self::new(Source::Upstream(inner), Some(snapshot), nominated)
    }

    /// One that ends when its token counts no more.
    pub fn stream(stream: Box<StreamBody>, snapshot: Arc<Snapshot>, nominated: Vec<String>) -> Self {
        Self::new(Source::Stream(stream), Some(snapshot), nominated)
    }

    fn new(source: Source, snapshot: Option<Arc<Snapshot>>, nominated: Vec<String>) -> Self {
        Self { source, rest: Bytes::new(), taking: None, snapshot, nominated, record: None, open: None, place: None, ended: false }
    }

    /// Only the head of the answer was asked for.
    pub fn leave_out(&mut self) {
        self.source = Source::Own(Full::default());
    }

    /// The request is open until the body is gone, and its client is watched while it is sent.
    pub fn hold(&mut self, open: Arc<OpenRequest>, taking: Option<Arc<Taking>>) {
        self.open = Some(open);
        self.taking = taking;
    }

    /// The place of its request or stream is given back when the body is gone, and the request's own as well.
    pub fn keep(&mut self, place: Place) {
        let place = Arc::new(place);
        match &mut self.source {
            Source::Upstream(body) => body.keep(&place),
            Source::Stream(body) => body.keep(&place),
            Source::Own(_) => {}
        }
        self.place = Some(place);
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
        if let (Some(record), false) = (&mut self.record, ended)
            && record.reason.is_none()
        {
            record.reason = Some(CLIENT_GONE);
            if self.taking.as_ref().is_some_and(|taking| taking.was_given_up()) {
                record.outcome = Outcome::Failed;
                record.detail = "took nothing for too long".into();
                record.limited(Limit::BodyTime);
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match (&mut this.source, this.rest.is_empty()) {
            (_, false) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.rest))))),
            (Source::Own(body), true) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            (Source::Upstream(body), true) => Pin::new(body).poll_frame(cx),
            (Source::Stream(body), true) => body.poll(cx),
        };
        if let Some(taking) = &this.taking {
            taking.asked();
        }
        let Poll::Ready(mut frame) = frame else { return Poll::Pending };
        if let (Source::Stream(body), Some(record)) = (&this.source, &mut this.record)
            && let Some(ended) = body.ended_by()
        {
            record.reason = Some(ended.reason);
            record.detail = "the stream was ended".into();
            if ended.failed {
                if let Some(limit) = ended.limit.filter(|_| record.outcome != Outcome::Failed) {
                    record.limited(limit);
                }
                record.outcome = Outcome::Failed;
            }
        }
        match &mut frame {
            None => this.ended = true,
            Some(Ok(frame)) => {
                if let (Some(data), Some(_)) = (frame.data_mut(), &this.taking) {
                    this.rest = data.split_off(data.len().min(PIECE_BYTES_MAX));
                }
                if let (Some(data), Some(record)) = (frame.data_ref(), &mut this.record) {
                    record.response_bytes += data.len() as u64;
                }
                if let (Some(trailers), Some(snapshot)) = (frame.trailers_mut(), &this.snapshot) {
                    clean_trailers(trailers, snapshot, &this.nominated);
                }
            }
            Some(Err(error)) => {
                this.ended = true;
                if let Some(record) = &mut this.record {
                    let stopped = error.downcast_ref::<AnswerStopped>();
                    let failure = if stopped.is_some() { Failure::UpstreamSlow } else { Failure::UpstreamBroken };
                    record.outcome = Outcome::Failed;
                    record.reason = Some(failure.row().code);
                    record.detail = stopped.map_or_else(|| "while sending its body".into(), |stopped| stopped.to_string().into());
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let source_ended = match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Upstream(body) => body.is_end_stream(),
            Source::Stream(body) => body.is_end_stream(),
        };
        source_ended && self.rest.is_empty()
    }

    /// As it is before the first piece, which is when it is asked for.
    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Upstream(body) => body.size_hint(),
            Source::Stream(body) => body.size_hint(),
        }
    }
}
