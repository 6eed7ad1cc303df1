//! HTTP/2 to a service: what moves a connection, one exchange on it, and the body of its answer.
//!
//! It is built on h2 itself: hyper's client takes no body before the request's head is written, which is a write and two
//! wake-ups more for each small call.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lent::Tail;
use super::pool::spawn;
use super::wire::Wire;
use crate::proxy::request_body::RequestBody;

/// What a service may send on one stream before somebody takes it, and what of a request waits for room.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// What may follow a request's head before it is known that there is room: a frame as every service takes it.
const FIRST_PIECE_BYTES_MAX: usize = 16 << 10;
/// How long a connection may take to end once nobody asks anything on it.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub type Sender = SendRequest<Bytes>;

pub struct Connection {
    frames: h2::client::Connection<Wire, Bytes>,
    sender: Sender,
}

/// Says the first words (RFC 9113 §3.4).
pub async fn greet(wire: Wire, streams: usize, head_bytes_max: usize) -> Result<Connection, h2::Error> {
    let streams = u32::try_from(streams).unwrap_or(u32::MAX);
    let (sender, frames) = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        // Room for all streams at once: one that nobody reads must not hold up the others.
        .initial_connection_window_size(STREAM_WINDOW_BYTES.saturating_mul(streams).min(i32::MAX.unsigned_abs()))
        .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX))
        .max_send_buffer_size(STREAM_WINDOW_BYTES as usize)
        .handshake(wire)
        .await?;
    Ok(Connection { frames, sender })
}

impl Connection {
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Moves its frames until it has ended. `allowed` is how many streams the service takes: none as soon as it takes no
    /// more requests, which `closing` is told of while those that are on it go on. `unasked` ends when nobody holds it.
    pub async fn run(self, allowed: &AtomicUsize, unasked: oneshot::Receiver<Infallible>, closing: impl FnOnce()) -> Result<(), h2::Error> {
        let Self { mut frames, mut sender } = self;
        let mut unasked = pin!(unasked);
        let ended = poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut frames).poll(cx) {
                return Poll::Ready(Some(ended));
            }
            let closing = matches!(sender.poll_ready(cx), Poll::Ready(Err(_)));
            if closing || unasked.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            allowed.store(frames.max_concurrent_send_streams().max(1), Ordering::Relaxed);
            Poll::Pending
        });
        let ended = ended.await;
        allowed.store(0, Ordering::Relaxed);
        closing();
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
    mut sender: Sender,
    mut head: Request<()>,
    body: RequestBody,
) -> Result<(Response<Answer>, Option<Tail>), Unanswered> {
    let whole = body.is_end_stream();
    tell_length(&mut head, &body);
    let (mut answer, stream) = match sender.send_request(head, whole) {
        Ok(sent) => sent,
        Err(error) => return Err(Unanswered { error, unsent: true, body: Some(body) }),
    };
    drop(sender);
    let mut upload = Upload { body, stream, taken: Taken::Nothing, piece: None, over: whole };
    match poll_fn(|cx| poll_exchange(&mut upload, &mut answer, cx)).await {
        Ok(answer) => {
            let (head, stream) = answer.into_parts();
            let body = Answer::of(&head.headers, stream);
            let tail = (!upload.over).then(|| upload.go_on());
            Ok((Response::from_parts(head, body), tail))
        }
        Err(error) => Err(Unanswered { error, unsent: false, body: upload.take_back() }),
    }
}

fn poll_exchange(upload: &mut Upload, answer: &mut ResponseFuture, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, h2::Error>> {
    if !upload.over {
        upload.over = upload.poll(cx).is_ready();
    }
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

/// A request's body on its way. What becomes of it is said by the answer.
struct Upload {
    body: RequestBody,
    stream: SendStream<Bytes>,
    taken: Taken,
    /// What was taken and not sent.
    piece: Option<Piece>,
    over: bool,
}

/// What was taken of a body.
enum Taken {
    Nothing,
    /// One piece, which can be put back.
    First(Bytes),
    More,
}

struct Piece {
    bytes: Bytes,
    last: bool,
    /// Whether it needs no room.
    at_once: bool,
}

impl Upload {
    /// Ends when all is sent, or the stream has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.stream.poll_reset(cx).is_pending() {
            let more = match &self.piece {
                None => ready!(self.poll_take(cx)),
                Some(piece) => {
                    let room = piece.at_once || ready!(poll_room(&mut self.stream, cx));
                    room && self.piece.take().is_some_and(|piece| self.stream.send_data(piece.bytes, piece.last).is_ok() && !piece.last)
                }
            };
            if !more {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Takes the next piece of the body. Whether there was one.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let first = matches!(self.taken, Taken::Nothing);
        self.taken = Taken::More;
        let _ended = match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(bytes))) => {
                let (last, length) = (self.body.is_end_stream(), bytes.len());
                let at_once = length == 0 || (first && length <= FIRST_PIECE_BYTES_MAX);
                if !at_once {
                    // h2 asks for room for all of it once it has it; to ask before would keep room from other streams.
                    self.stream.reserve_capacity(1);
                }
                if first {
                    self.taken = Taken::First(bytes.clone());
                }
                self.piece = Some(Piece { bytes, last, at_once });
                return Poll::Ready(true);
            }
            Some(Ok(Err(frame))) => {
                self.stream.reserve_capacity(0);
                frame.into_trailers().map_or(Ok(()), |trailers| self.stream.send_trailers(trailers))
            }
            None => self.stream.send_data(Bytes::new(), true),
            Some(Err(_)) => {
                self.stream.send_reset(Reason::CANCEL);
                Ok(())
            }
        };
        Poll::Ready(false)
    }

    /// The body, if it can be made as it was.
    fn take_back(self) -> Option<RequestBody> {
        match self.taken {
            Taken::Nothing => Some(self.body),
            Taken::First(piece) => Some(self.body.put_back(piece)),
            Taken::More => None,
        }
    }

    /// Lets it go on by itself, until it is given up.
    fn go_on(mut self) -> Tail {
        let (moves, over) = oneshot::channel();
        let (wanted, unwanted) = oneshot::channel();
        spawn(async move {
            let given_up = matches!(select(poll_fn(|cx| self.poll(cx)), unwanted).await, Either::Right(_));
            if given_up {
                self.stream.send_reset(Reason::CANCEL);
            }
            drop((self, moves));
        });
        Tail { over, wanted: Some(wanted) }
    }
}

/// Whether there is room for a piece, as soon as that is known.
fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<bool> {
    while stream.capacity() == 0 {
        if !matches!(ready!(stream.poll_capacity(cx)), Some(Ok(_))) {
            return Poll::Ready(false);
        }
    }
    Poll::Ready(true)
}

/// The body of an answer. One that is reset before it is whole has broken off, whatever the reason is called.
pub struct Answer {
    stream: RecvStream,
    /// What is still to come, if the service said.
    left: Option<u64>,
}

impl Answer {
    fn of(head: &HeaderMap, stream: RecvStream) -> Self {
        let length = head.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let left = if stream.is_end_stream() { length.or(Some(0)) } else { length };
        Self { stream, left }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(bytes)) => {
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
