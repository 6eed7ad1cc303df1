//! A request's body, lent to a connection: while nothing of it was taken it can be had back, and sent elsewhere.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::body::{BodyError, RequestBody};

/// What a connection reads.
pub enum Lent {
    /// A connection that gives back what it did not send (HTTP/1.1).
    Given(RequestBody),
    /// One that does not (HTTP/2): the lender has the other end.
    Shared(Arc<Mutex<Loan>>),
}

pub struct Loan {
    body: Option<RequestBody>,
    touched: bool,
}

/// The right to have a body back.
pub struct Lender(Arc<Mutex<Loan>>);

impl Lender {
    pub fn lend(body: RequestBody) -> (Self, Lent) {
        let loan = Arc::new(Mutex::new(Loan { body: Some(body), touched: false }));
        (Self(loan.clone()), Lent::Shared(loan))
    }

    /// The body, if it is as it was. Whoever still holds the other end reads nothing more.
    pub fn take_back(&self) -> Option<RequestBody> {
        let mut loan = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if loan.touched { None } else { loan.body.take() }
    }
}

impl Lent {
    /// The body of a request that a connection gave back unsent.
    pub fn into_body(self) -> Option<RequestBody> {
        match self {
            Self::Given(body) => Some(body),
            Self::Shared(loan) => Lender(loan).take_back(),
        }
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Given(body) => Pin::new(body).poll_frame(cx),
            Self::Shared(loan) => {
                let mut loan = loan.lock().unwrap_or_else(PoisonError::into_inner);
                // Taken back: its stream is gone, and nobody reads what is said here.
                let Some(body) = &mut loan.body else { return Poll::Ready(None) };
                let frame = Pin::new(body).poll_frame(cx);
                loan.touched |= frame.is_ready();
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Given(body) => body.is_end_stream(),
            Self::Shared(loan) => loan.lock().unwrap_or_else(PoisonError::into_inner).body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Given(body) => body.size_hint(),
            Self::Shared(loan) => {
                let loan = loan.lock().unwrap_or_else(PoisonError::into_inner);
                loan.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
            }
        }
    }
}
