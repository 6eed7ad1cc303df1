//! The right to send one request on a connection. Dropped, the connection is free for the next.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;

use super::lent::Lent;
use super::pool::{Pool, spawn};
use super::resting::{Place, Shared};

pub enum Carrier {
    Http1(http1::SendRequest<Lent>),
    Http2(Arc<Shared>),
}

/// A request without an answer: why, and itself if it was not sent.
pub struct Unanswered {
    pub error: Option<hyper::Error>,
    pub request: Option<Request<Lent>>,
}

pub struct Lease {
    carrier: Option<Carrier>,
    place: Arc<Place>,
    pool: Arc<Pool>,
    /// Whether the connection has carried a request before, so that it may have been closed since.
    pub reused: bool,
}

impl Lease {
    pub(super) fn new(carrier: Carrier, place: Arc<Place>, pool: Arc<Pool>, reused: bool) -> Self {
        Self { carrier: Some(carrier), place, pool, reused }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.carrier, Some(Carrier::Http2(_)))
    }

    /// Sends, and waits for the head of the answer. A request that did not leave is in the error.
    pub async fn send(&mut self, request: Request<Lent>) -> Result<Response<Incoming>, Unanswered> {
        let answer = match self.carrier.as_mut() {
            Some(Carrier::Http1(sender)) => sender.try_send_request(request).await,
            Some(Carrier::Http2(shared)) => {
                let mut sender = shared.sender.clone();
                sender.try_send_request(request).await
            }
            None => return Err(Unanswered { error: None, request: Some(request) }),
        };
        answer.map_err(|mut error| Unanswered { request: error.take_message(), error: Some(error.into_error()) })
    }

    /// The service takes no more on this connection.
    pub fn retire(&self) {
        if let Some(Carrier::Http2(shared)) = &self.carrier {
            self.pool.retire(shared);
        }
    }

    /// The place among the connections, for what goes on after HTTP has ended.
    pub fn place(&self) -> Arc<Place> {
        self.place.clone()
    }

    pub(super) fn into_http1(mut self) -> Option<(http1::SendRequest<Lent>, Arc<Place>)> {
        match self.carrier.take() {
            Some(Carrier::Http1(sender)) => Some((sender, self.place.clone())),
            other => {
                self.carrier = other;
                None
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.carrier.take() {
            Some(Carrier::Http2(shared)) => self.pool.stream_ended(&shared),
            Some(Carrier::Http1(sender)) if sender.is_ready() => self.pool.give_back(sender, self.place.clone()),
            Some(Carrier::Http1(mut sender)) if !sender.is_closed() => {
                // The connection has not finished with it yet, or is about to close.
                let (pool, place) = (self.pool.clone(), self.place.clone());
                let settle = async move {
                    if sender.ready().await.is_ok() {
                        pool.give_back(sender, place);
                    }
                };
                spawn(settle);
            }
            Some(Carrier::Http1(_)) | None => {}
        }
    }
}
