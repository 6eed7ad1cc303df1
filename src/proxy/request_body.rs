//! Step 11. A request's body on its way to the service: limited, timed, and kept if it may be sent once more.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::failure::Failure;
use super::kept::{KeptBody, Replay};
use super::pace::{LeastRate, Pace};
use super::progress::BodyProgress;
use super::response_body::clean_trailers;
use crate::access::Snapshot;
use crate::clock;

/// Why a body broke off, for the sides that only see an error.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.row().title)]
pub struct BodyError(pub Failure);

/// A request's body on its way to the upstream.
pub struct RequestBody {
    inner: RequestSource,
    /// What was taken of it and put back.
    put_back: Option<Replay>,
    /// Where it is kept while it goes by, if it may be sent once more.
    kept: Option<Arc<KeptBody>>,
    /// `None` where it is not a client's.
    snapshot: Option<Arc<Snapshot>>,
    /// Names of trailers that end here.
    nominated: Vec<String>,
    progress: Arc<BodyProgress>,
    bytes_left: u64,
    least: Option<LeastRate>,
    pace: Pace,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

enum RequestSource {
    Client(Incoming),
    /// What was kept of a client's.
    Kept(Replay),
}

impl RequestBody {
    pub fn new(inner: Incoming, snapshot: Arc<Snapshot>, nominated: Vec<String>, progress: Arc<BodyProgress>) -> Self {
        progress.note_finished(inner.is_end_stream());
        let bytes_left = snapshot.policy.limits.body_bytes;
        let stall = snapshot.policy.timeouts.body;
        Self { snapshot: Some(snapshot), nominated, bytes_left, stall, ..Self::of(RequestSource::Client(inner), progress) }
    }

    /// As it was before this, its beginning, was taken.
    pub fn put_back(mut self, mut beginning: Replay) -> Self {
        if let Some(rest) = self.put_back.take() {
            beginning.append(rest);
        }
        Self { put_back: Some(beginning), ..self }
    }

    /// With a route's own length, and a least rate unless it is one side of a conversation.
    pub fn within(self, bytes_max: u64, conversation: bool) -> Self {
        let rate = self.snapshot.as_ref().and_then(|snapshot| snapshot.policy.limits.body_rate).filter(|_| !conversation);
        let least = rate.map(|bytes_per_second| LeastRate { bytes_per_second, window: self.stall });
        Self { bytes_left: bytes_max, least, ..self }
    }

    /// Whether the client sends too little while it is waited for.
    fn trickles(&mut self, bytes: usize) -> bool {
        let Some(least) = self.least else { return false };
        if self.progress.is_answered() {
            self.least = None;
            return false;
        }
        self.pace.moved(bytes, clock::instant_now(), least)
    }

    /// Keeps it while it goes by, up to so many bytes.
    pub fn keep(&mut self, bytes_max: usize) -> Arc<KeptBody> {
        let kept = KeptBody::new(bytes_max, self.size_hint(), self.is_end_stream());
        self.kept = Some(kept.clone());
        kept
    }

    /// One that was kept, once more; or one of the gate's own.
    pub fn again(replay: Replay, progress: Arc<BodyProgress>) -> Self {
        Self::of(RequestSource::Kept(replay), progress)
    }

    fn of(inner: RequestSource, progress: Arc<BodyProgress>) -> Self {
        Self {
            inner,
            put_back: None,
            kept: None,
            snapshot: None,
            nominated: Vec::new(),
            progress,
            bytes_left: 0,
            least: None,
            pace: Pace::default(),
            stall: Duration::ZERO,
            stalled: None,
        }
    }

    fn finish(&self) {
        self.progress.note_finished(true);
        if let Some(kept) = &self.kept {
            kept.end();
        }
    }

    fn watch_stall(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.progress.is_unhurried() {
            return Poll::Pending;
        }
        if self.least.is_some() {
            self.pace.waits(clock::instant_now());
        }
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
        // It was counted, limited and kept when it was taken.
        if let Some(frame) = this.put_back.as_mut().and_then(Replay::next) {
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = match &mut this.inner {
            RequestSource::Kept(replay) => {
                this.progress.note_frame();
                return Poll::Ready(replay.next().map(Ok));
            }
            RequestSource::Client(inner) => match Pin::new(inner).poll_frame(cx) {
                Poll::Pending => return this.watch_stall(cx),
                Poll::Ready(frame) => frame,
            },
        };
        this.stalled = None;
        this.progress.note_frame();
        Poll::Ready(match frame {
            None => {
                this.finish();
                None
            }
            Some(Err(_)) => Some(Err(this.progress.fail(Failure::BodyBroken))),
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    if this.trickles(data.len()) {
                        return Poll::Ready(Some(Err(this.progress.fail(Failure::BodyTrickles))));
                    }
                    match this.bytes_left.checked_sub(data.len() as u64) {
                        Some(left) => this.bytes_left = left,
                        None => return Poll::Ready(Some(Err(this.progress.fail(Failure::BodyTooLarge)))),
                    }
                }
                if let (Some(trailers), Some(snapshot)) = (frame.trailers_mut(), &this.snapshot) {
                    clean_trailers(trailers, snapshot, &this.nominated);
                }
                if let Some(kept) = &this.kept {
                    kept.keep(&frame);
                }
                if this.is_end_stream() {
                    this.finish();
                }
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        let over = match &self.inner {
            RequestSource::Client(inner) => inner.is_end_stream(),
            RequestSource::Kept(replay) => replay.is_empty(),
        };
        over && self.put_back.as_ref().is_none_or(Replay::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = match &self.inner {
            RequestSource::Client(inner) => inner.size_hint(),
            RequestSource::Kept(replay) => replay.hint(),
        };
        let back = self.put_back.as_ref().map_or(0, Replay::bytes);
        hint.exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + back))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use http_body_util::BodyExt;

    use super::*;

    async fn piece(body: &mut RequestBody) -> Option<Bytes> {
        Some(body.frame().await?.unwrap().into_data().unwrap())
    }

    #[tokio::test]
    async fn what_was_taken_can_be_put_back_more_than_once() {
        let mut body = RequestBody::again(Replay::own(Bytes::from_static(b"whole")), Arc::default());
        let mut taken = Replay::beginning();
        taken.push(&Frame::data(piece(&mut body).await.unwrap()));
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
        taken.push(&Frame::data(Bytes::from_static(b" and more")));
        let mut body = body.put_back(taken);
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(14), false));

        let mut taken = Replay::beginning();
        taken.push(&Frame::data(piece(&mut body).await.unwrap()));
        assert_eq!(body.size_hint().exact(), Some(9));
        let body = body.put_back(taken);

        assert_eq!(body.size_hint().exact(), Some(14));
        assert_eq!(pin!(body).collect().await.unwrap().to_bytes(), "whole and more");
    }
}
