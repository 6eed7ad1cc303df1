//! Step 2 for HTTP/1.1: a connection's requests with rests in between, and how it closes.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Response, StatusCode};
use hyper::server::conn::http1::{self, Parts};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::connection::{DRAIN_GRACE, count_idle, counted, drained, draining, patience};
use super::gate::{Gate, Phase};
use super::handle::Peer;
use super::lifetime::Lifetime;
use super::quiet::{idle, quiet};
use super::response_body::ResponseBody;
use super::stream::{Framing, GuardedStream, Stream, StreamFacts};
use crate::policy::Policy;

/// After this long without a request, a connection is put to rest.
const REST_AFTER: Duration = Duration::from_millis(250);

/// A connection's requests, with rests in between: after a while without one, hyper and its buffers are put away and
/// only the socket is kept, until bytes come. Only a connection rests that had none but simple requests: HTTP/1.1, to be
/// kept, without a body. On any other hyper may have more to do, closing it first of all.
pub async fn serve_http1(
    gate: &Arc<Gate>,
    policy: &Arc<Policy>,
    mut stream: Stream,
    mut prefix: Vec<u8>,
    (mut peer, lifetime): (Peer, Option<Arc<Lifetime>>),
    mut phase: watch::Receiver<Phase>,
) -> hyper::Result<()> {
    let (rest_after, told) = (REST_AFTER.min(policy.timeouts.idle), phase.clone());
    loop {
        let facts = Arc::new(StreamFacts::default());
        peer.facts = Some(facts.clone());
        let guarded = GuardedStream::new(stream, prefix, Framing::Http1(facts.clone()), patience(gate, policy));
        let (open, begun) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let leaving = Arc::new(AtomicBool::new(false));
        let service = service_fn(|request| saying_so(&leaving, counted(gate, &peer, request, (&open, &begun), (&told, lifetime.as_ref()))));
        let mut connection = http1_builder(policy).serve_connection(TokioIo::new(guarded), service).with_upgrades();
        tokio::select! {
            // First, so that it has read what came before it is asked to end: hyper drops a connection that has read nothing.
            biased;
            outcome = &mut connection => {
                outcome?;
                linger(connection.into_parts(), &facts).await;
                return Ok(());
            }
            () = draining(&mut phase) => {
                leaving.store(true, Ordering::Relaxed);
                leave(Pin::new(&mut connection), |connection| connection.graceful_shutdown(), (&open, &begun), &facts).await?;
                linger(connection.into_parts(), &facts).await;
                return Ok(());
            }
            () = quiet(&open, &begun, &facts, rest_after) => {}
        }
        let before = begun.load(Ordering::Relaxed);
        facts.rests();
        Pin::new(&mut connection).graceful_shutdown();
        (&mut connection).await?;
        // A request that came just then was told that the connection closes.
        let told = begun.load(Ordering::Relaxed) > before;
        let Some(Parts { io, read_buf, .. }) = connection.into_parts() else { return Ok(()) };
        let unasked;
        (stream, unasked) = io.into_inner().into_parts();
        if told {
            let _ = tokio::time::timeout(policy.timeouts.body, stream.shutdown()).await;
            return Ok(());
        }
        prefix = [&read_buf[..], &unasked].concat();
        // What is left of hyper's buffer goes before the rest begins.
        drop(read_buf);
        if prefix.is_empty() {
            let Some(bytes) = rest(gate, &mut stream, &mut phase, policy.timeouts.idle - rest_after).await else { return Ok(()) };
            prefix = bytes;
        }
    }
}

/// Serves what is on its way once the gate drains, and then closes: a request that came too late for an answer would be lost.
async fn leave<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    close: impl Fn(Pin<&mut C>),
    (open, begun): (&AtomicUsize, &AtomicUsize),
    facts: &StreamFacts,
) -> hyper::Result<()> {
    loop {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => return outcome,
            () = idle(open, begun, DRAIN_GRACE) => {}
        }
        // One that came while this task waited for its turn is no less on its way.
        facts.look_before_closing();
        if let Poll::Ready(outcome) = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await {
            return outcome;
        }
        if !facts.found_unread() {
            close(connection.as_mut());
            return connection.await;
        }
    }
}

/// Keeps the socket alone until bytes come, and returns them; nothing if the connection is to close.
async fn rest(gate: &Gate, stream: &mut Stream, phase: &mut watch::Receiver<Phase>, limit: Duration) -> Option<Vec<u8>> {
    let drains = tokio::select! {
        woken = stream.wait_readable() => return woken.ok(),
        () = drained(phase) => true,
        () = tokio::time::sleep(limit) => false,
    };
    if stream.has_unread() {
        return Some(Vec::new());
    }
    if !drains {
        count_idle(gate);
    }
    None
}

/// Reads a little of what a refused client still sends of its body, behind our half-close (RFC 9112 §9.6). Closing at once
/// would reset the connection, and many a client that is still writing then loses the answer.
async fn linger<S>(parts: Option<Parts<TokioIo<GuardedStream>, S>>, facts: &StreamFacts) {
    const LEFT_BYTES_MAX: usize = 256 << 10;
    const LEFT_TIME_MAX: Duration = Duration::from_secs(1);
    let Some(Parts { io, .. }) = parts.filter(|_| facts.has_body_left()) else { return };
    let (mut stream, _) = io.into_inner().into_parts();
    let read = async {
        let (mut part, mut left) = (vec![0; 8 << 10], LEFT_BYTES_MAX);
        while left > 0 {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    let _ = tokio::time::timeout(LEFT_TIME_MAX, read).await;
}

fn http1_builder(policy: &Policy) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(policy.timeouts.idle)
        .max_headers(policy.limits.header_count)
        .max_header_size(policy.limits.header_bytes)
        .max_buf_size(policy.limits.header_bytes.max(16 << 10));
    builder
}

/// An answer that says that its connection closes, once it does.
fn saying_so<A: Future<Output = Result<Response<ResponseBody>, Infallible>>>(
    leaving: &Arc<AtomicBool>,
    answer: A,
) -> impl Future<Output = A::Output> + use<A> {
    let leaving = leaving.clone();
    async move {
        let mut response = answer.await?;
        if leaving.load(Ordering::Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}
