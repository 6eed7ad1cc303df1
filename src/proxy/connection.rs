//! Step 2. One client connection: HTTP/1.1 or HTTP/2, told apart by our own bounded look at the
//! first bytes, until it ends or the gate drains.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::broken::{count, count_error};
use super::connection_http1::serve_http1;
use super::flood::{FloodLimits, FloodWatch};
use super::gate::{Gate, Phase};
use super::handle::{Peer, handle};
use super::lifetime::Lifetime;
use super::quiet::{idle, stuck};
use super::response_body::{OpenRequest, ResponseBody};
use super::screen::connection_options;
use super::stream::{Framing, GuardedStream, Patience, Stream};
use super::taking::{StreamTasks, Taking};
use crate::clock;
use crate::observe::Limit;
use crate::policy::{Policy, Spoken};

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Streams that a client may have opened and reset before we so much as looked at them, and our own resets of streams that
/// were malformed; more is an attack (CVE-2023-44487, CVE-2025-8671).
const RESET_STREAMS_MAX: usize = 50;
/// How many times `limits.header_bytes` a head over HTTP/2 is read before h2 refuses it: that shows nowhere, so a client's
/// ordinary mistake is to come as far as our own refusal.
const HEADS_READ_MAX: usize = 2;
const WINDOW_BYTES: u32 = 1 << 20;
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// How long a connection on which nothing is asked stays open once the gate drains.
pub(super) const DRAIN_GRACE: Duration = Duration::from_millis(500);

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
        // Heads have a deadline of their own, so that this one is for what comes between two of them.
        if !http2 && error.is_timeout() {
            count_idle(&gate);
        }
        count_error(&gate, &error);
        tracing::debug!(target: "wicketgate::connection", %error, "connection ended");
    }
}

pub(super) fn patience(gate: &Gate, policy: &Arc<Policy>) -> Patience {
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
pub(super) async fn drained(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    tokio::time::sleep(DRAIN_GRACE).await;
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
    let service = service_fn(|request| {
        let answer = counted(gate, &peer, request, (&open, &begun), (&told, lifetime.as_ref()));
        // Nobody tells of streams that h2 refuses; that there was no place left is known.
        if open.load(Ordering::Relaxed) >= policy.limits.streams as usize {
            gate.observer.metrics.limits.count(Limit::Streams);
        }
        answer
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        outcome = connection.as_mut() => return outcome,
        () = draining(&mut phase) => {}
        () = idle(&open, &begun, policy.timeouts.idle) => count_idle(gate),
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

/// Counts a connection that was closed because nothing was asked on it.
pub(super) fn count_idle(gate: &Gate) {
    gate.observer.metrics.limits.count(Limit::Idle);
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
pub(super) async fn draining(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
}

/// Handles a request, counted as begun from now on, and as open until the last of its response has gone.
pub(super) fn counted(
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

fn says_close(headers: &HeaderMap) -> bool {
    connection_options(headers).any(|option| option.eq_ignore_ascii_case("close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, F>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    /// It stays for as long as the connection is open, whatever goes on.
    #[test]
    fn the_task_of_a_connection_takes_4_kib_at_most() {
        let bytes = future_bytes(|(gate, accepted)| serve(gate, accepted));
        assert!(bytes <= 4 << 10, "{bytes} bytes");
    }
}
