//! The right to send one request on a connection. Dropped, the connection is free for the next.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tokio::time::timeout;

use super::http2::{Sender, Standing};
use super::lent::{Lent, Tail};
use super::pool::{Pool, spawn};
use super::resting::{Place, Shared};

pub enum Carrier {
    Http1(http1::SendRequest<Lent>),
    Http2(Arc<Shared>),
}

/// A request without an answer over HTTP/1.1: why, and itself if it was not sent.
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

    /// The way to a stream, where the connection speaks HTTP/2.
    pub fn http2(&self) -> Option<(Sender, Arc<Standing>)> {
        match &self.carrier {
            Some(Carrier::Http2(shared)) => Some((shared.sender.clone(), shared.standing.clone())),
            Some(Carrier::Http1(_)) | None => None,
        }
    }

    /// Sends over HTTP/1.1, and waits for the head of the answer. A request that did not leave is in the error.
    pub async fn send(&mut self, mut request: Request<Lent>) -> Result<Response<Incoming>, Unanswered> {
        self.tail = request.body_mut().watch();
        let Some(Carrier::Http1(sender)) = self.carrier.as_mut() else {
            return Err(Unanswered { error: None, request: Some(request) });
        };
        let answer = sender.try_send_request(request).await;
        answer.map_err(|mut error| Unanswered { request: error.take_message(), error: Some(error.into_error()) })
    }

    /// What is still to be sent of the request's body.
    pub fn goes_on(&mut self, tail: Option<Tail>) {
        self.tail = tail;
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
    /// but to close, HTTP/2 resets the stream.
    pub async fn finish(mut self, patience: Duration) {
        let Some(mut tail) = self.tail.take() else { return };
        if timeout(patience, tail.over()).await.is_ok() {
            return;
        }
        tracing::debug!(target: "wicketgate::upstream", "a request went on for too long after its answer");
        match self.carrier {
            Some(Carrier::Http2(_)) => {
                tail.give_up();
                tail.over().await;
            }
            Some(Carrier::Http1(_)) | None => self.discard(),
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
