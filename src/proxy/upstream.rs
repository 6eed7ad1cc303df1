//! Step 10. To the service and back, over pooled HTTP/1.1 connections.
//!
//! A request goes out a second time only when the first provably never left: a pooled connection that was already
//! closed (`retry_canceled_requests`). Anything else could make the service do a thing twice.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::body::{BodyProgress, RequestBody};
use super::failure::Failure;
use crate::policy::Timeouts;

/// Below the keep-alive time of common servers (Node: 5 s), so that a request seldom meets a connection that the
/// service is just closing.
const POOL_IDLE: Duration = Duration::from_secs(4);
const POOL_IDLE_COUNT_MAX: usize = 1024;
/// The head of a response, and one header line more than any sane service sends.
const RESPONSE_BUFFER_BYTES: usize = 64 << 10;
const RESPONSE_HEADERS_MAX: usize = 200;

#[derive(Clone)]
pub struct Upstreams {
    client: Client<HttpsConnector<HttpConnector>, RequestBody>,
    connect: Duration,
}

impl Upstreams {
    pub fn new(timeouts: &Timeouts) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeouts.connect));
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| format!("no certificates of this system's authorities: {error}"))?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_IDLE_COUNT_MAX)
            .retry_canceled_requests(true)
            .set_host(false)
            .http1_max_buf_size(RESPONSE_BUFFER_BYTES)
            .http1_max_headers(RESPONSE_HEADERS_MAX)
            .build(connector);
        Ok(Self { client, connect: timeouts.connect })
    }

    pub fn fits(&self, timeouts: &Timeouts) -> bool {
        self.connect == timeouts.connect
    }

    /// Sends a request and waits for the head of its answer. The time runs while nothing moves: a long upload is no
    /// silence.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        progress: &Arc<BodyProgress>,
        timeout: Duration,
    ) -> Result<Response<Incoming>, (Failure, String)> {
        let answer = self.client.request(request);
        tokio::pin!(answer);
        loop {
            let (frames, finished) = (progress.frames(), progress.is_finished());
            match tokio::time::timeout(timeout, &mut answer).await {
                Ok(Ok(response)) => return framed_once(response),
                Ok(Err(error)) => return Err(classify(&error, progress)),
                Err(_) if progress.frames() == frames && progress.is_finished() == finished => {
                    return Err((Failure::UpstreamSlow, format!("nothing within {timeout:?}")));
                }
                Err(_) => {}
            }
        }
    }
}

/// Refuses an answer whose body ends in one place for one reader and elsewhere for another (RFC 9112 §6.3). Its connection
/// is closed, since nobody reads the body.
fn framed_once(response: Response<Incoming>) -> Result<Response<Incoming>, (Failure, String)> {
    let headers = response.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(response) };
    let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    match chunked && !headers.contains_key(CONTENT_LENGTH) {
        true => Ok(response),
        false => Err((Failure::UpstreamBroken, "an answer with two lengths, or a coding other than chunked".to_owned())),
    }
}

/// Whose fault it is, and what the log says of it.
fn classify(error: &hyper_util::client::legacy::Error, progress: &BodyProgress) -> (Failure, String) {
    if let Some(failure) = progress.failure() {
        return (failure, String::new());
    }
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    match error.is_connect() {
        true => (Failure::UpstreamRefused, text),
        false => (Failure::UpstreamBroken, text),
    }
}
