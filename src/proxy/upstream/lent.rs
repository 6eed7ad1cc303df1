//! A request's body, lent to an HTTP/1.1 connection: one that is not sent comes back with its request, and it is known when
//! the connection has done with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::proxy::request_body::{BodyError, RequestBody};

/// What a connection reads.
pub struct Lent {
    body: RequestBody,
    /// Dropped with it.
    watched: Option<oneshot::Sender<Infallible>>,
}

/// What a connection has still to send of a body.
pub struct Tail {
    pub(super) over: oneshot::Receiver<Infallible>,
    /// Dropped, it has a stream of HTTP/2 reset.
    pub(super) wanted: Option<oneshot::Sender<Infallible>>,
}

impl Tail {
    /// Whether the connection has done with the body: all of it was taken, or the connection or stream has ended.
    pub fn is_over(&mut self) -> bool {
        self.over.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    /// Returns when it has.
    pub async fn over(&mut self) {
        let Err(_closed) = (&mut self.over).await;
    }

    /// Has a stream of HTTP/2 reset.
    pub fn give_up(&mut self) {
        self.wanted = None;
    }
}

impl Lent {
    pub fn new(body: RequestBody) -> Self {
        Self { body, watched: None }
    }

    /// Tells when the connection has done with it; `None` where there is nothing to read.
    pub fn watch(&mut self) -> Option<Tail> {
        if self.is_end_stream() {
            return None;
        }
        let (sender, over) = oneshot::channel();
        self.watched = Some(sender);
        Some(Tail { over, wanted: None })
    }

    /// The body of a request that the connection gave back unsent.
    pub fn into_body(self) -> RequestBody {
        self.body
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
