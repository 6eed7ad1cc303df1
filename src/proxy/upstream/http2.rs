//! HTTP/2 to a service: what moves a connection, one exchange on it, and the body of its answer.
//!
//! It is built on h2 itself: through hyper's client nothing of a body is sent before the head is written, which is a write and
//! two wake-ups more for each small call.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lent::Tail;
use super::upload::{Chunk, Upload};
use super::wire::Wire;
use crate::clock;
use crate::proxy::request_body::RequestBody;

/// What a service may send on one stream before somebody takes it, and what of a request waits for room.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// From when on a connection from which nothing comes, while a request waits, may be one where nobody is.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a connection may take to end once nobody asks anything on it.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub type Sender = SendRequest<Chunk>;

pub struct Connection {
    frames: h2::client::Connection<Wire, Chunk>,
    sender: Sender,
    pub standing: Arc<Standing>,
}

/// What is known of a connection.
pub struct Standing {
    made: Instant,
    /// How many streams the service takes.
    allowed: AtomicUsize,
    /// Whether it takes no more requests.
    closing: AtomicBool,
    /// Since when something is waited for and nothing came, in milliseconds since it was made; 0 if nothing is.
    waits: AtomicU64,
}

impl Standing {
    fn new(allowed: usize) -> Arc<Self> {
        let (allowed, closing) = (AtomicUsize::new(allowed), AtomicBool::new(false));
        Arc::new(Self { made: clock::instant_now(), allowed, closing, waits: AtomicU64::new(0) })
    }

    /// Whether one more stream may be opened beside so many.
    pub fn has_room(&self, streams: usize) -> bool {
        !self.is_closing() && streams < self.allowed.load(Ordering::Relaxed)
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether nothing came for so long that perhaps nobody is there, whether or not whoever asked still waits.
    pub fn is_silent(&self, now: Instant) -> bool {
        let waits = self.waits.load(Ordering::Relaxed);
        waits > 0 && self.millis(now).saturating_sub(waits) >= SILENCE.as_millis() as u64
    }

    fn note_asked(&self, now: Instant) {
        let _waits_already = self.waits.compare_exchange(0, self.millis(now), Ordering::Relaxed, Ordering::Relaxed);
    }

    fn note_heard(&self) {
        self.waits.store(0, Ordering::Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.made).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Says the first words, and hears the service's (RFC 9113 §3.4): how many streams it takes. One that takes none is not there
/// yet, or not any more.
pub async fn greet(wire: Wire, streams: usize, head_bytes_max: usize) -> Result<Connection, h2::Error> {
    let streams = u32::try_from(streams).unwrap_or(u32::MAX);
    let (sender, mut frames) = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(0)
        .initial_window_size(STREAM_WINDOW_BYTES)
        // Room for all streams at once: one that nobody reads must not hold up the others.
        .initial_connection_window_size(STREAM_WINDOW_BYTES.saturating_mul(streams).min(i32::MAX.unsigned_abs()))
        .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX))
        .max_send_buffer_size(STREAM_WINDOW_BYTES as usize)
        .handshake(wire)
        .await?;
    let allowed = poll_fn(|cx| match (Pin::new(&mut frames).poll(cx), frames.max_concurrent_send_streams()) {
        (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
        (Poll::Ready(Ok(())), _) => Poll::Ready(Err(Reason::REFUSED_STREAM.into())),
        (Poll::Pending, 0) => Poll::Pending,
        (Poll::Pending, allowed) => Poll::Ready(Ok(allowed)),
    });
    let standing = Standing::new(allowed.await?);
    Ok(Connection { frames, sender, standing })
}

impl Connection {
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Moves its frames until it has ended. `changed` is told when it takes no more requests, while those that are on it go
    /// on, and when it takes more at once. `unasked` ends when nobody holds it.
    pub async fn run(self, unasked: oneshot::Receiver<Infallible>, changed: impl Fn()) -> Result<(), h2::Error> {
        let Self { mut frames, mut sender, standing } = self;
        let mut unasked = pin!(unasked);
        let ended = poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut frames).poll(cx) {
                return Poll::Ready(Some(ended));
            }
            let closing = matches!(sender.poll_ready(cx), Poll::Ready(Err(_)));
            if closing || unasked.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            let allowed = frames.max_concurrent_send_streams();
            if standing.allowed.swap(allowed, Ordering::Relaxed) < allowed {
                changed();
            }
            Poll::Pending
        });
        let ended = ended.await;
        standing.closing.store(true, Ordering::Relaxed);
        changed();
        // With a sender about, it would wait for more requests.
        drop(sender);
        if let Some(ended) = ended {
            return ended;
        }
        let unasked = async {
            if !unasked.is_terminated() {
                let Err(_dropped) = unasked.await;
            }
        };
        match select(frames, pin!(unasked)).await {
            Either::Left((ended, _)) => ended,
            Either::Right(((), frames)) => timeout(LAST_WORDS, frames).await.unwrap_or(Ok(())),
        }
    }
}

/// The head of a request as HTTP/2 has it: `:scheme` and `:authority` instead of `Host`, and frames instead of chunks
/// (RFC 9113 §8.2.2, §8.3.1).
pub fn head_of(head: &Parts, scheme: Scheme) -> Request<()> {
    let mut request = Request::from_parts(head.clone(), ());
    let host = request.headers_mut().remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    request.headers_mut().remove(TRANSFER_ENCODING);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = host.or(parts.authority);
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
    request
}

/// A request without an answer.
pub struct Unanswered {
    pub error: h2::Error,
    /// Whether nothing of it was sent.
    pub unsent: bool,
    /// Its body, if it is as it was.
    pub body: Option<RequestBody>,
}

/// Sends a request, and waits for the head of its answer. What is left of its body then goes on by itself. Dropped, it
/// resets the stream.
pub async fn exchange(
    (mut sender, standing): (Sender, Arc<Standing>),
    mut head: Request<()>,
    body: RequestBody,
    keep_bytes_max: usize,
) -> Result<(Response<Answer>, Option<Tail>), Unanswered> {
    let whole = body.is_end_stream();
    tell_length(&mut head, &body);
    let (mut answer, stream) = match sender.send_request(head, whole) {
        Ok(sent) => sent,
        Err(error) => return Err(Unanswered { error, unsent: true, body: Some(body) }),
    };
    drop(sender);
    standing.note_asked(clock::instant_now());
    let mut upload = Upload::new(body, stream, keep_bytes_max);
    match poll_fn(|cx| poll_exchange(&mut upload, &mut answer, cx)).await {
        Ok(answer) => {
            standing.note_heard();
            let (head, stream) = answer.into_parts();
            let body = Answer::of(&head.headers, stream, standing);
            Ok((Response::from_parts(head, body), upload.rest()))
        }
        Err(error) => {
            // What ends here, as with a client that breaks off, says nothing of the service.
            if error.is_remote() {
                standing.note_heard();
            }
            Err(Unanswered { error, unsent: false, body: upload.take_back() })
        }
    }
}

fn poll_exchange(upload: &mut Upload, answer: &mut ResponseFuture, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, h2::Error>> {
    // What becomes of it is said by the answer.
    let _over = upload.poll(cx);
    Pin::new(answer).poll(cx)
}

/// A service that knows how much will come need not find out (RFC 9110 §8.6).
fn tell_length(head: &mut Request<()>, body: &RequestBody) {
    let Some(length) = body.size_hint().exact() else { return };
    let means_something = length > 0 || ![Method::GET, Method::HEAD, Method::DELETE].contains(head.method());
    if means_something {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

/// The body of an answer. One that is reset before it is whole has broken off, whatever the reason is called.
pub struct Answer {
    stream: RecvStream,
    /// What is still to come, if the service said.
    left: Option<u64>,
    standing: Arc<Standing>,
}

impl Answer {
    fn of(head: &HeaderMap, stream: RecvStream, standing: Arc<Standing>) -> Self {
        let length = head.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let left = if stream.is_end_stream() { length.or(Some(0)) } else { length };
        Self { stream, left, standing }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(bytes)) => {
                self.standing.note_heard();
                // It cannot fail: nothing is given back that did not come.
                let _room = self.stream.flow_control().release_capacity(bytes.len());
                self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => self.stream.poll_trailers(cx).map(|trailers| trailers.transpose().map(|trailers| trailers.map(Frame::trailers))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_silent_when_nothing_came_for_long_since_something_was_asked() {
        let standing = Standing::new(1);
        let after = |seconds| standing.made + Duration::from_secs(seconds);
        assert!(!standing.is_silent(after(3600)), "nothing was asked");
        standing.note_asked(after(0));
        standing.note_asked(after(9));
        assert!(!standing.is_silent(after(9)));
        assert!(standing.is_silent(after(10)));
        standing.note_heard();
        assert!(!standing.is_silent(after(10)));
        standing.note_asked(after(20));
        assert!(!standing.is_silent(after(29)));
        assert!(standing.is_silent(after(30)));
    }
}
