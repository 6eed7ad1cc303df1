//! A request's body, lent to a connection: while nothing of it was taken it can be had back, and sent elsewhere; and it is
//! known when the connection has done with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::proxy::request_body::{BodyError, RequestBody};

/// What a connection reads.
pub struct Lent {
    source: Source,
    /// Dropped with it.
    watched: Option<oneshot::Sender<Infallible>>,
}

enum Source {
    /// A connection that gives back what it did not send (HTTP/1.1).
    Given(RequestBody),
    /// One that does not (HTTP/2): the lender has the other end.
    Shared(Arc<Mutex<Loan>>),
}

struct Loan {
    body: Option<RequestBody>,
    touched: bool,
    /// Whether nobody wants the rest of it.
    given_up: bool,
    /// Who waits for more of it.
    waits: Option<Waker>,
}

/// Why a connection reads no more of a body.
#[derive(Debug, thiserror::Error)]
pub enum LentError {
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The stream is reset with this.
    #[error("the answer has ended, and the rest of the request is not waited for")]
    GivenUp(#[source] h2::Error),
}

/// The right to have a body back.
pub struct Lender(Arc<Mutex<Loan>>);

/// What a connection has still to read of a body.
pub struct Tail {
    dropped: oneshot::Receiver<Infallible>,
    loan: Option<Arc<Mutex<Loan>>>,
}

fn locked(loan: &Mutex<Loan>) -> MutexGuard<'_, Loan> {
    loan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lender {
    pub fn lend(body: RequestBody) -> (Self, Lent) {
        let loan = Arc::new(Mutex::new(Loan { body: Some(body), touched: false, given_up: false, waits: None }));
        (Self(loan.clone()), Lent { source: Source::Shared(loan), watched: None })
    }

    /// The body, if it is as it was. Whoever still holds the other end reads nothing more.
    pub fn take_back(&self) -> Option<RequestBody> {
        let mut loan = locked(&self.0);
        if loan.touched { None } else { loan.body.take() }
    }
}

impl Tail {
    /// Whether the connection has done with the body: all of it was taken, or the connection or stream has ended.
    pub fn is_over(&mut self) -> bool {
        self.dropped.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    /// Returns when it has.
    pub async fn over(&mut self) {
        let Err(_closed) = (&mut self.dropped).await;
    }

    /// Has a stream of HTTP/2 reset when the connection next asks for more.
    pub fn give_up(&self) {
        if let Some(loan) = &self.loan {
            let mut loan = locked(loan);
            loan.given_up = true;
            if let Some(waker) = loan.waits.take() {
                waker.wake();
            }
        }
    }
}

impl Lent {
    pub fn given(body: RequestBody) -> Self {
        Self { source: Source::Given(body), watched: None }
    }

    /// Tells when the connection has done with it; `None` where there is nothing to read.
    pub fn watch(&mut self) -> Option<Tail> {
        if self.is_end_stream() {
            return None;
        }
        let (sender, dropped) = oneshot::channel();
        self.watched = Some(sender);
        let loan = match &self.source {
            Source::Given(_) => None,
            Source::Shared(loan) => Some(loan.clone()),
        };
        Some(Tail { dropped, loan })
    }

    /// The body of a request that a connection gave back unsent.
    pub fn into_body(self) -> Option<RequestBody> {
        match self.source {
            Source::Given(body) => Some(body),
            Source::Shared(loan) => Lender(loan).take_back(),
        }
    }
}

impl Loan {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, LentError>>> {
        if self.given_up {
            return Poll::Ready(Some(Err(LentError::GivenUp(h2::Reason::CANCEL.into()))));
        }
        // Taken back: its stream is gone, and nobody reads what is said here.
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        self.touched |= frame.is_ready();
        if frame.is_pending() {
            match &mut self.waits {
                Some(waker) => waker.clone_from(cx.waker()),
                None => self.waits = Some(cx.waker().clone()),
            }
        }
        frame.map_err(LentError::from)
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = LentError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, LentError>>> {
        match &mut self.get_mut().source {
            Source::Given(body) => Pin::new(body).poll_frame(cx).map_err(LentError::from),
            Source::Shared(loan) => locked(loan).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Given(body) => body.is_end_stream(),
            Source::Shared(loan) => locked(loan).body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Given(body) => body.size_hint(),
            Source::Shared(loan) => locked(loan).body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint),
        }
    }
}
