//! The body of an answer: it holds its connection until its end, and ends when nothing comes for too long.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::http2;
use super::lease::Lease;
use super::pool::spawn;
use super::resting::Place;
use crate::clock;
use crate::proxy::admission;
use crate::proxy::response_body::BoxError;

/// Counts a request at its endpoint for as long as it lives.
pub struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The service was too slow in the middle of an answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AnswerStopped(&'static str);

/// What an exchange holds until it has ended both ways.
pub struct Held {
    lease: Lease,
    _flight: InFlight,
    /// Its place among the requests in flight, while its own body is not whole.
    place: Option<Arc<admission::Place>>,
}

impl Held {
    pub fn new(lease: Lease, flight: InFlight) -> Self {
        Self { lease, _flight: flight, place: None }
    }

    /// Gives the request's body so much time, and lets go.
    async fn finish(self, patience: Duration) {
        let Self { lease, _flight, place: _place } = self;
        lease.finish(patience).await;
    }
}

/// What comes of an answer, over either version.
pub enum AnswerBody {
    Http1(Incoming),
    Http2(http2::Answer),
}

pub struct UpstreamBody {
    inner: AnswerBody,
    /// Let go at the end, so that the connection is free before the client has read everything.
    held: Option<Held>,
    idle: Duration,
    waits: Option<Pin<Box<Sleep>>>,
    total: Option<Pin<Box<Sleep>>>,
}

impl UpstreamBody {
    pub fn new(inner: AnswerBody, held: Held, idle: Duration, deadline: Option<std::time::Instant>) -> Self {
        let total = deadline.map(|at| Box::pin(sleep_until(Instant::from_std(at))));
        Self { inner, held: Some(held), idle, waits: None, total }
    }

    /// The place of its request is kept for as long as the request's own body goes on, even beyond the answer.
    pub fn keep(&mut self, place: &Arc<admission::Place>) {
        if let Some(held) = &mut self.held
            && held.lease.is_sending()
        {
            held.place = Some(place.clone());
        }
    }

    /// The answer is over. What is left of the request has some time if the answer is whole: an upload that is nearly there
    /// then ends in good order, and its connection may be used again. Nobody wants the rest of one that broke off.
    fn let_go(&mut self, whole: bool) {
        let Some(mut held) = self.held.take() else { return };
        if !held.lease.is_sending() {
            return;
        }
        let patience = match (whole, &self.total) {
            (false, _) => Duration::ZERO,
            (true, None) => held.lease.patience(),
            (true, Some(total)) => {
                let left = total.deadline().into_std().saturating_duration_since(clock::instant_now());
                held.lease.patience().min(left)
            }
        };
        spawn(held.finish(patience));
    }

    /// What a tunnel keeps: its place among the endpoint's connections.
    pub fn into_place(mut self) -> Option<Arc<Place>> {
        self.held.take().map(|held| held.lease.place())
    }

    fn stopped(&mut self, cx: &mut Context<'_>) -> Option<AnswerStopped> {
        if self.total.as_mut().is_some_and(|total| total.as_mut().poll(cx).is_ready()) {
            return Some(AnswerStopped("the answer took longer than timeouts.total"));
        }
        let idle = self.idle;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(idle)));
        waits.as_mut().poll(cx).is_ready().then_some(AnswerStopped("nothing came of the answer for timeouts.idle"))
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        let whole = self.inner.is_end_stream();
        self.let_go(whole);
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Pending => match this.stopped(cx) {
                Some(stopped) => {
                    this.let_go(false);
                    Poll::Ready(Some(Err(stopped.into())))
                }
                None => Poll::Pending,
            },
            Poll::Ready(frame) => {
                this.waits = None;
                match &frame {
                    Some(Ok(_)) if !this.inner.is_end_stream() => {}
                    Some(Ok(_)) | None => this.let_go(true),
                    Some(Err(_)) => this.let_go(false),
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
