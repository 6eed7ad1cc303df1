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

use super::lease::Lease;
use super::resting::Place;
use crate::proxy::body::BoxError;

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

pub struct UpstreamBody {
    inner: Incoming,
    /// Let go at the end, so that the connection is free before the client has read everything.
    held: Option<(Lease, InFlight)>,
    idle: Duration,
    waits: Option<Pin<Box<Sleep>>>,
    total: Option<Pin<Box<Sleep>>>,
}

impl UpstreamBody {
    pub fn new(inner: Incoming, lease: Lease, flight: InFlight, idle: Duration, deadline: Option<std::time::Instant>) -> Self {
        let total = deadline.map(|at| Box::pin(sleep_until(Instant::from_std(at))));
        Self { inner, held: Some((lease, flight)), idle, waits: None, total }
    }

    /// What a tunnel keeps: its place among the endpoint's connections.
    pub fn into_place(mut self) -> Option<Arc<Place>> {
        self.held.take().map(|(lease, _)| lease.place())
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

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Pending => match this.stopped(cx) {
                Some(stopped) => {
                    this.held = None;
                    Poll::Ready(Some(Err(stopped.into())))
                }
                None => Poll::Pending,
            },
            Poll::Ready(frame) => {
                this.waits = None;
                if !matches!(frame, Some(Ok(_))) || this.inner.is_end_stream() {
                    this.held = None;
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
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
