//! Step 2. A client's byte stream with what hyper lacks: a deadline for each head, one for a client that takes nothing
//! of its response, and a watch on how requests are framed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use super::framing::{FramingTracker, HeadFacts};

/// Any of the streams that a listener accepts.
pub enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// Waits for bytes without room to put them: what a connection at rest costs is its socket.
    pub async fn wait_readable(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Tcp(stream) => stream.readable().await?,
            Self::Unix(stream) => stream.readable().await?,
            // TLS may hold bytes that the socket no longer has, so one is read.
            Self::Tls(stream) => {
                let mut byte = [0];
                let count = stream.read(&mut byte).await?;
                return Ok(byte[..count].to_vec());
            }
        }
        Ok(Vec::new())
    }
}

macro_rules! on_each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
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

    /// From now on the bytes are those of a tunnel: no heads, no deadlines.
    pub fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Release);
    }
}

/// How the bytes on a stream are to be read.
#[derive(Debug, Clone)]
pub enum Framing {
    Http1(Arc<StreamFacts>),
    /// HTTP/2 frames have their own rules, and hyper keeps them; only the bytes that the client takes are counted.
    Http2(Arc<AtomicU64>),
}

pub struct GuardedStream {
    stream: Stream,
    /// Bytes that were read to tell the protocol.
    prefix: Vec<u8>,
    framing: Framing,
    head_timeout: Duration,
    write_timeout: Duration,
    head_deadline: Option<Pin<Box<Sleep>>>,
    write_deadline: Option<Pin<Box<Sleep>>>,
}

impl GuardedStream {
    pub fn new(stream: Stream, prefix: Vec<u8>, framing: Framing, head_timeout: Duration, write_timeout: Duration) -> Self {
        Self { stream, prefix, framing, head_timeout, write_timeout, head_deadline: None, write_deadline: None }
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
        let timeout = self.head_timeout;
        let deadline = self.head_deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head did not end in time")))
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
        let timeout = self.write_timeout;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of the response")))
    }

    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        if let (Framing::Http2(written), Poll::Ready(Ok(count))) = (&self.framing, outcome) {
            written.fetch_add(*count as u64, Ordering::Relaxed);
        }
    }

    fn saw(&mut self, bytes: &[u8]) {
        if let Framing::Http1(facts) = &self.framing
            && !facts.tunnel.load(Ordering::Acquire)
        {
            let mut tracker = facts.tracker.lock().unwrap_or_else(PoisonError::into_inner);
            tracker.watch(bytes);
            if !tracker.is_inside_head() {
                drop(tracker);
                self.head_deadline = None;
            }
        }
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.prefix.is_empty() {
            match Pin::new(&mut this.stream).poll_read(cx, buf) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => return this.watch_head(cx),
            }
        } else {
            let count = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..count]);
            this.prefix.drain(..count);
        }
        this.saw(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(&outcome);
        this.watch_write(cx, outcome)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(&outcome);
        this.watch_write(cx, outcome)
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
