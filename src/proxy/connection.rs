//! Step 2. One client connection: HTTP/1.1 or HTTP/2, told apart by our own bounded look at the
//! first bytes, until it ends or the gate drains.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Parts};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::body::{OpenRequest, ResponseBody};
use super::broken::{count, count_error};
use super::flood::{FloodLimits, FloodWatch};
use super::gate::{Gate, Phase};
use super::handle::{Peer, handle};
use super::lifetime::Lifetime;
use super::screen::connection_options;
use super::stream::{Framing, GuardedStream, Patience, Stream, StreamFacts};
use super::taking::{PIECE_BYTES_MAX, StreamTasks, Taking};
use crate::clock;
use crate::observe::Limit;
use crate::policy::{Policy, Spoken};

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Streams that a client may have opened and reset before we so much as looked at them, and our own resets of streams that
/// were malformed; more is an attack (CVE-2023-44487, CVE-2025-8671).
const RESET_STREAMS_MAX: usize = 50;
/// After this long without a request, a connection is put to rest.
const REST_AFTER: Duration = Duration::from_millis(250);
/// How many times `limits.header_bytes` a head over HTTP/2 is read before h2 refuses it: that shows nowhere, so a client's
/// ordinary mistake is to come as far as our own refusal.
const HEADS_READ_MAX: usize = 2;
const WINDOW_BYTES: u32 = 1 << 20;
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// How long a connection on which nothing is asked stays open once the gate drains.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// A connection that was accepted, and what it was accepted with.
pub struct Accepted {
    pub stream: Stream,
    pub peer: Peer,
    pub phase: watch::Receiver<Phase>,
    pub protocol: Spoken,
}

/// What a tunnel takes along of the connection that it was opened on.
#[derive(Clone)]
pub struct Berth {
    /// The connection is in use for as long as it has a tunnel: over HTTP/2 it would be taken for idle.
    _open: Arc<OpenRequest>,
    pub phase: watch::Receiver<Phase>,
}

/// Serves a connection to its end.
pub async fn serve(gate: Arc<Gate>, accepted: Accepted) {
    let snapshot = gate.snapshot();
    let policy = &snapshot.policy;
    let Accepted { mut stream, peer, mut phase, protocol } = accepted;
    let lifetime = Lifetime::begin(policy);
    let look = tokio::time::timeout(policy.timeouts.header, first_bytes(&mut stream, &mut phase, protocol));
    let (prefix, http2) = match look.await {
        Ok(Ok(seen)) => seen,
        Ok(Err(_)) => return,
        Err(_) => {
            gate.observer.metrics.limits.count(Limit::HeadTime);
            return count(&gate, "silent");
        }
    };
    let outcome = match http2 {
        true => {
            let written = Arc::new(AtomicU64::new(0));
            let floods = FloodLimits { resets: policy.limits.http2_resets, control_frames: policy.limits.http2_control_frames };
            let framing = Framing::Http2(written.clone(), Box::new(FloodWatch::new(floods)));
            let stream = GuardedStream::new(stream, prefix, framing, patience(&gate, policy));
            serve_http2(&gate, policy, stream, &written, (peer, lifetime), phase).await
        }
        false => serve_http1(&gate, policy, stream, prefix, (peer, lifetime), phase).await,
    };
    if let Err(error) = outcome {
        count_error(&gate, &error);
        tracing::debug!(target: "wicketgate::connection", %error, "connection ended");
    }
}

fn patience(gate: &Gate, policy: &Arc<Policy>) -> Patience {
    Patience { policy: policy.clone(), observer: gate.observer.clone() }
}

/// Reads as much as tells HTTP/2 from HTTP/1: up to the preface's length, fewer when a byte already differs or TLS
/// or the listener has told. A connection on which nothing is asked ends soon after the gate began to drain.
async fn first_bytes(stream: &mut Stream, phase: &mut watch::Receiver<Phase>, protocol: Spoken) -> io::Result<(Vec<u8>, bool)> {
    let told = match protocol {
        Spoken::Auto => stream.agreed_protocol().map(|protocol| protocol == b"h2"),
        Spoken::Http1 => Some(false),
        Spoken::Http2 => Some(true),
    };
    let mut seen = Vec::with_capacity(PREFACE.len());
    while seen.len() < PREFACE.len() {
        let mut part = [0; PREFACE.len()];
        let room = PREFACE.len() - seen.len();
        let count = tokio::select! {
            biased;
            count = stream.read(&mut part[..room]) => count?,
            () = drained(phase), if seen.is_empty() => match stream.has_unread() {
                true => continue,
                false => 0,
            },
        };
        match count {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => seen.extend_from_slice(&part[..count]),
        }
        if let Some(http2) = told {
            return Ok((seen, http2));
        }
        if !PREFACE.starts_with(&seen) {
            return Ok((seen, false));
        }
    }
    Ok((seen, true))
}

/// Ends a moment after the gate began to drain: a request that is on its way still comes in.
async fn drained(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    tokio::time::sleep(DRAIN_GRACE).await;
}

/// A connection's requests, with rests in between: after a while without one, hyper and its buffers are put away and
/// only the socket is kept, until bytes come. Only a connection rests that had none but simple requests: HTTP/1.1, to be
/// kept, without a body. On any other hyper may have more to do, closing it first of all.
async fn serve_http1(
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
                // A request that is on its way would be lost if the connection closed now: it is answered, and told so.
                leaving.store(true, Ordering::Relaxed);
                loop {
                    tokio::select! {
                        biased;
                        outcome = &mut connection => {
                            outcome?;
                            break;
                        }
                        () = idle(&open, &begun, DRAIN_GRACE) => {}
                    }
                    // One that came while this task waited for its turn is no less on its way.
                    facts.look_before_closing();
                    if let Poll::Ready(outcome) = poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx))).await {
                        outcome?;
                        break;
                    }
                    if !facts.found_unread() {
                        Pin::new(&mut connection).graceful_shutdown();
                        (&mut connection).await?;
                        break;
                    }
                }
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
            let woken = tokio::select! {
                woken = stream.wait_readable() => match woken {
                    Ok(bytes) => {
                        prefix = bytes;
                        true
                    }
                    Err(_) => return Ok(()),
                },
                () = drained(&mut phase) => stream.has_unread(),
                () = tokio::time::sleep(policy.timeouts.idle - rest_after) => stream.has_unread(),
            };
            if !woken {
                return Ok(());
            }
        }
    }
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

async fn serve_http2(
    gate: &Arc<Gate>,
    policy: &Arc<Policy>,
    stream: GuardedStream,
    written: &AtomicU64,
    (peer, lifetime): (Peer, Option<Arc<Lifetime>>),
    mut phase: watch::Receiver<Phase>,
) -> hyper::Result<()> {
    let mut builder = http2::Builder::new(StreamTasks { patience: policy.timeouts.body });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(policy.limits.streams)
        .max_header_list_size(u32::try_from(policy.limits.header_bytes.saturating_mul(HEADS_READ_MAX)).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(RESET_STREAMS_MAX)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES / 4)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .enable_connect_protocol()
        .keep_alive_interval(policy.timeouts.idle)
        .keep_alive_timeout(policy.timeouts.header);
    let open = Arc::new(AtomicUsize::new(0));
    let (begun, told) = (Arc::new(AtomicUsize::new(0)), phase.clone());
    let service = service_fn(|request| counted(gate, &peer, request, (&open, &begun), (&told, lifetime.as_ref())));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        outcome = connection.as_mut() => return outcome,
        () = draining(&mut phase) => {}
        () = idle(&open, &begun, policy.timeouts.idle) => {}
        () = over(gate, lifetime.as_deref()) => {}
        () = certificate_lost(&peer) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stuck(&open, &begun, written, policy.timeouts.body) => {
            gate.observer.metrics.limits.count(Limit::BodyTime);
            count(gate, "timeout");
            Ok(())
        }
    }
}

/// Ends when no request was open for this long and the client took nothing of what is left of earlier answers: their last
/// pieces are with the connection, and no stream's task watches them any more.
async fn stuck(open: &AtomicUsize, begun: &AtomicUsize, written: &AtomicU64, limit: Duration) {
    loop {
        let before = written.load(Ordering::Relaxed);
        idle(open, begun, limit).await;
        if written.load(Ordering::Relaxed) - before < PIECE_BYTES_MAX as u64 {
            return;
        }
    }
}

/// Ends with the connection's lifetime, if it has one.
async fn over(gate: &Gate, lifetime: Option<&Lifetime>) {
    match lifetime {
        Some(lifetime) => gate.observer.metrics.limits.count(lifetime.over().await),
        None => std::future::pending().await,
    }
}

/// Ends when the client's certificate was found to count no more.
async fn certificate_lost(peer: &Peer) {
    match &peer.shown {
        Some(shown) => shown.lost().await,
        None => std::future::pending().await,
    }
}

/// Ends when the gate drains.
async fn draining(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
}

/// Handles a request, counted as begun from now on, and as open until the last of its response has gone.
fn counted(
    gate: &Arc<Gate>,
    peer: &Peer,
    mut request: Request<Incoming>,
    (open, begun): (&Arc<AtomicUsize>, &AtomicUsize),
    (phase, lifetime): (&watch::Receiver<Phase>, Option<&Arc<Lifetime>>),
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + Send + use<> {
    let (gate, peer, open) = (gate.clone(), peer.clone(), Arc::new(OpenRequest::new(open)));
    begun.fetch_add(1, Ordering::Relaxed);
    let last = lifetime.and_then(|lifetime| lifetime.carries(clock::instant_now())).filter(|_| request.version() < Version::HTTP_2);
    let facts = peer.facts.clone();
    if request.headers().contains_key(UPGRADE) || *request.method() == Method::CONNECT {
        request.extensions_mut().insert(Berth { _open: open.clone(), phase: phase.clone() });
    }
    let simple = request.version() == Version::HTTP_11 && request.body().is_end_stream() && !says_close(request.headers());
    async move {
        let metrics = last.map(|limit| (gate.observer.clone(), limit));
        let mut response = handle(gate, peer, request).await;
        if let Some((observer, limit)) = metrics.filter(|_| response.status() != StatusCode::SWITCHING_PROTOCOLS) {
            observer.metrics.limits.count(limit);
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(facts) = facts.filter(|_| !simple || says_close(response.headers())) {
            facts.never_rests();
        }
        response.body_mut().hold(open, Taking::of_this_stream());
        Ok(response)
    }
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

fn says_close(headers: &HeaderMap) -> bool {
    connection_options(headers).any(|option| option.eq_ignore_ascii_case("close"))
}

/// Ends when a request has been and none began or was open for this long.
async fn quiet(open: &AtomicUsize, begun: &AtomicUsize, facts: &StreamFacts, limit: Duration) {
    loop {
        idle(open, begun, limit).await;
        if begun.load(Ordering::Relaxed) > 0 && facts.may_rest() {
            return;
        }
    }
}

/// Ends when no request began or was open for this long. GOAWAY lets streams that still send finish.
async fn idle(open: &AtomicUsize, begun: &AtomicUsize, limit: Duration) {
    loop {
        let (begun_before, open_before) = (begun.load(Ordering::Relaxed), open.load(Ordering::Relaxed));
        tokio::time::sleep(limit).await;
        let began = begun.load(Ordering::Relaxed) != begun_before;
        if open_before == 0 && open.load(Ordering::Relaxed) == 0 && !began {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn a_connection_is_idle_when_its_last_request_ended_that_long_ago() {
        const LIMIT: Duration = Duration::from_millis(200);
        let (open, begun) = (AtomicUsize::new(1), AtomicUsize::new(1));
        let ends = async {
            tokio::time::sleep(LIMIT / 4).await;
            open.store(0, Ordering::Relaxed);
            clock::instant_now()
        };
        let ((), ended) = tokio::join!(idle(&open, &begun, LIMIT), ends);
        assert!(clock::instant_now().duration_since(ended) >= LIMIT);
    }
}
