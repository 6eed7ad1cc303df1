//! Step 2. A client's byte stream with what hyper lacks: a deadline for each head, one for a client that takes nothing
//! of its response, and a watch on how requests are framed.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use super::flood::FloodWatch;
use super::framing::{FramingTracker, HeadFacts};
use super::pace::{LeastRate, Pace};
use crate::clock;
use crate::observe::{Limit, Observer};
use crate::policy::Policy;

/// When a client that is silent, and to which nothing is sent, is asked whether it is there, and how often then.
const ASKED_AFTER: Duration = Duration::from_secs(60);
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// Any of the streams that a listener accepts.
pub enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    TlsUnix(Box<TlsStream<UnixStream>>),
}

/// Has the kernel end the connection of a client that is gone without a word: one that acknowledges nothing of what was
/// sent for as long as it may take nothing. Little that is sent now and then, as events are, never fills the buffers, so that
/// writing never waits. A client to which nothing is sent is asked now and then.
pub fn notice_loss(stream: &TcpStream, patience: Duration) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(patience));
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ASKED_AFTER).with_interval(ASKED_EVERY));
}

impl Stream {
    /// Waits for bytes without room to put them: what a connection at rest costs is its socket.
    pub async fn wait_readable(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Tcp(stream) => stream.readable().await?,
            Self::Unix(stream) => stream.readable().await?,
            // TLS may hold bytes that the socket no longer has, so one is read.
            Self::Tls(stream) => return one_byte(stream).await,
            Self::TlsUnix(stream) => return one_byte(stream).await,
        }
        Ok(Vec::new())
    }

    /// Whether something has come that nobody has read. The kernel is asked, since a busy runtime hears of it later.
    pub fn has_unread(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
            Self::Tls(stream) => SockRef::from(stream.get_ref().0),
            Self::TlsUnix(stream) => SockRef::from(stream.get_ref().0),
        };
        socket.peek(&mut [MaybeUninit::uninit(); 1]).is_ok_and(|count| count > 0)
    }

    /// The protocol that was agreed upon in TLS.
    pub fn agreed_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
            Self::TlsUnix(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }
}

async fn one_byte(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut byte = [0];
    let count = stream.read(&mut byte).await?;
    Ok(byte[..count].to_vec())
}

macro_rules! on_each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::TlsUnix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        on_each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::TlsUnix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// What a connection's handlers share with its stream.
#[derive(Debug, Default)]
pub struct StreamFacts {
    tracker: Mutex<FramingTracker>,
    tunnel: AtomicBool,
    resting: AtomicBool,
    restless: AtomicBool,
    /// Whether the parser is about to close the stream unless something has come.
    closing: AtomicBool,
    unread: AtomicBool,
}

impl StreamFacts {
    /// The facts of the head that the next request was parsed from.
    pub fn next_head(&self) -> HeadFacts {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner).next_head()
    }

    /// From now on the parser stays: it may want to close the connection, or there may be more of a body to come, and
    /// a new parser would take what follows for a request.
    pub fn never_rests(&self) {
        self.restless.store(true, Ordering::Release);
    }

    /// Whether nothing is left of any request, so that a new parser would begin where this one ended.
    pub fn may_rest(&self) -> bool {
        !self.restless.load(Ordering::Acquire) && self.tracker.lock().unwrap_or_else(PoisonError::into_inner).is_between_heads()
    }

    /// Whether the client has yet to send something of a body.
    pub fn has_body_left(&self) -> bool {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner).is_inside_body()
    }

    /// The parser in front of the stream is about to be put away: what it takes for the end is none.
    pub fn rests(&self) {
        self.resting.store(true, Ordering::Release);
    }

    /// Has the stream look, the next time that the parser asks for more, whether the kernel has something for it.
    pub fn look_before_closing(&self) {
        self.unread.store(false, Ordering::Release);
        self.closing.store(true, Ordering::Release);
    }

    /// What it found.
    pub fn found_unread(&self) -> bool {
        self.closing.store(false, Ordering::Release);
        self.unread.load(Ordering::Acquire)
    }

    /// From now on the bytes are those of a tunnel: no heads, no deadlines.
    pub fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Release);
    }
}

/// How the bytes on a stream are to be read.
#[derive(Debug)]
pub enum Framing {
    Http1(Arc<StreamFacts>),
    /// HTTP/2 frames have their own rules, and hyper keeps them; the bytes that the client takes are counted, and frames that
    /// could be a flood.
    Http2(Arc<AtomicU64>, Box<FloodWatch>),
}

/// What a client's stream is held to, and where it is counted when it ends.
#[derive(Debug)]
pub struct Patience {
    pub policy: Arc<Policy>,
    pub observer: Arc<Observer>,
}

pub struct GuardedStream {
    stream: Stream,
    /// Bytes that were read to tell the protocol.
    prefix: Vec<u8>,
    framing: Framing,
    patience: Patience,
    /// Once the client has been waited for.
    pace: Option<Box<Pace>>,
    head_deadline: Option<Pin<Box<Sleep>>>,
    write_deadline: Option<Pin<Box<Sleep>>>,
}

impl GuardedStream {
    pub fn new(stream: Stream, prefix: Vec<u8>, framing: Framing, patience: Patience) -> Self {
        Self { stream, prefix, framing, patience, pace: None, head_deadline: None, write_deadline: None }
    }

    /// The stream itself, and what was read of it and not yet asked for.
    pub fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.prefix)
    }

    /// Ends a connection on which a head stays unfinished, counted from the first byte of the head: a client that
    /// sends one byte now and then gets no more time than one that sends none.
    fn watch_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Framing::Http1(facts) = &self.framing else { return Poll::Pending };
        if facts.tunnel.load(Ordering::Acquire) || !facts.tracker.lock().unwrap_or_else(PoisonError::into_inner).is_inside_head() {
            self.head_deadline = None;
            return Poll::Pending;
        }
        let timeout = self.patience.policy.timeouts.header;
        let deadline = self.head_deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(self.over(Limit::HeadTime, io::ErrorKind::TimedOut, "the head did not end in time")))
    }

    fn watch_write<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_deadline = None;
            return outcome;
        }
        if let Framing::Http1(facts) = &self.framing
            && facts.tunnel.load(Ordering::Acquire)
        {
            return Poll::Pending;
        }
        let timeout = self.patience.policy.timeouts.body;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(self.over(Limit::BodyTime, io::ErrorKind::TimedOut, "the client takes nothing of the response")))
    }

    /// Counts the limit that ends the connection.
    fn over(&self, limit: Limit, kind: io::ErrorKind, text: &'static str) -> io::Error {
        self.patience.observer.metrics.limits.count(limit);
        io::Error::new(kind, text)
    }

    /// What came of writing these buffers.
    fn wrote(&mut self, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>], outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Framing::Http2(written, watch), Poll::Ready(Ok(count))) = (&mut self.framing, &outcome) {
            written.fetch_add(*count as u64, Ordering::Relaxed);
            let mut left = *count;
            for buffer in buffers {
                let part = left.min(buffer.len());
                watch.sent(&buffer[..part]);
                left -= part;
            }
        }
        self.watch_rate(&outcome)?;
        self.watch_write(cx, outcome)
    }

    /// Ends a connection whose client takes so little of its answers, whenever there is something to take, that it would keep
    /// them for ever.
    fn watch_rate(&mut self, outcome: &Poll<io::Result<usize>>) -> io::Result<()> {
        let Some(bytes_per_second) = self.patience.policy.limits.body_rate else { return Ok(()) };
        let least = LeastRate { bytes_per_second, window: self.patience.policy.timeouts.body };
        match outcome {
            Poll::Pending => self.pace.get_or_insert_default().waits(clock::instant_now()),
            // Nobody was waited for: nothing to reckon, and no need for the time.
            Poll::Ready(Ok(_)) if self.write_deadline.is_none() => {}
            Poll::Ready(Ok(count)) => {
                let tunnel = matches!(&self.framing, Framing::Http1(facts) if facts.tunnel.load(Ordering::Acquire));
                if self.pace.get_or_insert_default().moved(*count, clock::instant_now(), least) && !tunnel {
                    return Err(self.over(Limit::BodyRate, io::ErrorKind::TimedOut, "the client takes too little of the response"));
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        Ok(())
    }

    fn saw(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        match &mut self.framing {
            Framing::Http1(facts) if facts.tunnel.load(Ordering::Acquire) => {}
            Framing::Http1(facts) => {
                let mut tracker = facts.tracker.lock().unwrap_or_else(PoisonError::into_inner);
                tracker.watch(bytes);
                if !tracker.is_inside_head() {
                    drop(tracker);
                    self.head_deadline = None;
                }
            }
            Framing::Http2(_, watch) => {
                if let Some(limit) = watch.received(bytes, clock::instant_now()) {
                    if let Some(farewell) = watch.farewell() {
                        // If there is no room for it, the client does not read, and would not read it.
                        let _ = Pin::new(&mut self.stream).poll_write(cx, &farewell);
                        let _ = Pin::new(&mut self.stream).poll_flush(cx);
                    }
                    return Err(self.over(limit, io::ErrorKind::QuotaExceeded, "a flood of frames"));
                }
            }
        }
        Ok(())
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.prefix.is_empty() {
            match Pin::new(&mut this.stream).poll_read(cx, buf) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => {
                    if let Framing::Http1(facts) = &this.framing
                        && facts.closing.load(Ordering::Acquire)
                    {
                        facts.unread.store(this.stream.has_unread(), Ordering::Release);
                    }
                    return this.watch_head(cx);
                }
            }
        } else {
            let count = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..count]);
            this.prefix.drain(..count);
        }
        Poll::Ready(this.saw(cx, &buf.filled()[before..]))
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(cx, &[io::IoSlice::new(buf)], outcome)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(cx, bufs, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.watch_write(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Framing::Http1(facts) = &this.framing
            && facts.resting.load(Ordering::Acquire)
        {
            return Poll::Ready(Ok(()));
        }
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch_write(cx, outcome)
    }
}
