//! The right to send one request on a connection. Dropped, the connection is free for the next.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tokio::time::timeout;

use super::lent::{Lent, Tail};
use super::pool::{Pool, spawn};
use super::resting::{Place, Shared};

/// How long a stream has to be reset, before its connection takes no more requests.
const RESET_WITHIN: Duration = Duration::from_secs(1);

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
    /// What is still to be sent.
    tail: Option<Tail>,
}

impl Lease {
    pub(super) fn new(carrier: Carrier, place: Arc<Place>, pool: Arc<Pool>, reused: bool) -> Self {
        Self { carrier: Some(carrier), place, pool, reused, tail: None }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.carrier, Some(Carrier::Http2(_)))
    }

    /// Sends, and waits for the head of the answer. A request that did not leave is in the error.
    pub async fn send(&mut self, mut request: Request<Lent>) -> Result<Response<Incoming>, Unanswered> {
        self.tail = request.body_mut().watch();
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

    /// Whether the connection has not done with the request's body.
    pub fn is_sending(&mut self) -> bool {
        self.tail.as_mut().is_some_and(|tail| !tail.is_over())
    }

    /// How long what is left of a request's body may take when its answer has ended.
    pub fn patience(&self) -> Duration {
        self.pool.bounds.load().timeouts.body
    }

    /// Returns when the connection has done with the request's body, which it is made to after a while: HTTP/1.1 has no way
    /// but to close, HTTP/2 resets the stream. A stream that does not end even so leaves its connection to those that are on
    /// it: nobody knows any more how many it may carry.
    pub async fn finish(mut self, patience: Duration) {
        let Some(mut tail) = self.tail.take() else { return };
        if timeout(patience, tail.over()).await.is_ok() {
            return;
        }
        tracing::debug!(target: "wicketgate::upstream", "a request went on for too long after its answer");
        if !self.is_http2() {
            return self.discard();
        }
        tail.give_up();
        if timeout(RESET_WITHIN, tail.over()).await.is_err() {
            self.retire();
        }
    }

    /// Closes an HTTP/1.1 connection, whatever goes on there.
    pub fn discard(&mut self) {
        if let Some(Carrier::Http1(_)) = self.carrier {
            self.place.close();
            self.carrier = None;
        }
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
                let (pool, place, patience) = (self.pool.clone(), self.place.clone(), self.patience());
                let settle = async move {
                    match timeout(patience, sender.ready()).await {
                        Ok(Ok(())) => pool.give_back(sender, place),
                        Ok(Err(_)) => {}
                        Err(_) => place.close(),
                    }
                };
                spawn(settle);
            }
            Some(Carrier::Http1(_)) | None => {}
        }
    }
}
