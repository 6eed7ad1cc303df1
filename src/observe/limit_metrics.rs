//! What Prometheus reads of limits: how often each of them refused or closed something.

use prometheus::{IntCounterVec, IntGauge};

use super::metrics::Maker;

/// The limits of the wire, each with the operator's keys for it and what a client sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Head,
    Target,
    HeadTime,
    Body,
    BodyTime,
    BodyRate,
    Connections,
    ConnectionsPerAddress,
    ConnectionRequests,
    ConnectionAge,
    Idle,
    Requests,
    QueueTime,
    Tunnels,
    TunnelIdle,
    Streams,
    Http2Resets,
    Http2ControlFrames,
    Http2Framing,
}

/// What a limit looks like from outside.
#[derive(Debug, Clone, Copy)]
pub struct LimitRow {
    /// The label of the metric.
    pub label: &'static str,
    /// Where the operator sets it; nowhere, if it follows from others.
    pub keys: &'static [&'static str],
    /// What a client sees that is over it.
    pub seen: &'static str,
}

const fn row(label: &'static str, keys: &'static [&'static str], seen: &'static str) -> LimitRow {
    LimitRow { label, keys, seen }
}

impl Limit {
    pub const ALL: [Self; 19] = [
        Self::Head,
        Self::Target,
        Self::HeadTime,
        Self::Body,
        Self::BodyTime,
        Self::BodyRate,
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::ConnectionRequests,
        Self::ConnectionAge,
        Self::Idle,
        Self::Requests,
        Self::QueueTime,
        Self::Tunnels,
        Self::TunnelIdle,
        Self::Streams,
        Self::Http2Resets,
        Self::Http2ControlFrames,
        Self::Http2Framing,
    ];

    pub fn row(self) -> LimitRow {
        match self {
            Self::Head => row("head", &["limits.header_bytes", "limits.header_count"], "431"),
            Self::Target => row("uri_bytes", &["limits.uri_bytes"], "414"),
            Self::HeadTime => row("header", &["timeouts.header"], "the connection closes"),
            Self::Body => row(
                "body_bytes",
                &["limits.body_bytes", "services.body_bytes", "services.routes.body_bytes"],
                "413 before anything is sent on, if `Content-Length` says so; else 413 as soon as it is too long, and what was sent on breaks off",
            ),
            Self::BodyTime => row(
                "body",
                &["timeouts.body"],
                "408; a client that takes nothing of its answer: the connection closes, or the stream is reset",
            ),
            Self::BodyRate => {
                row("body_rate", &["limits.body_rate"], "408; a client that takes too little of its answer: the connection closes")
            }
            Self::Connections => row("connections", &["limits.connections"], "the connection waits in the kernel until another one closes"),
            Self::ConnectionsPerAddress => {
                row("connections_per_address", &["limits.connections_per_address"], "the connection closes at once, before TLS")
            }
            Self::ConnectionRequests => row(
                "connection_requests",
                &["limits.connection_requests"],
                "`Connection: close` with the last answer; over HTTP/2 GOAWAY, and open streams go on",
            ),
            Self::ConnectionAge => row(
                "connection_age",
                &["timeouts.connection_age"],
                "`Connection: close` with the next answer; over HTTP/2 GOAWAY, and open streams go on",
            ),
            Self::Idle => row("idle", &["timeouts.idle"], "the connection closes; over HTTP/2 after GOAWAY"),
            Self::Requests => row("requests", &["limits.requests", "limits.request_queue"], "503 `overloaded` at once, with `Retry-After`"),
            Self::QueueTime => row("queue", &["timeouts.queue"], "503 `overloaded` after this time, with `Retry-After`"),
            Self::Tunnels => row(
                "tunnels",
                &["limits.tunnels"],
                "503 `overloaded` instead of a WebSocket; other streams go on, each with a place of `limits.requests`",
            ),
            Self::TunnelIdle => {
                row("tunnel_idle", &["timeouts.tunnel_idle"], "a WebSocket closes; a gRPC call ends with DEADLINE_EXCEEDED, `call_idle`")
            }
            Self::Streams => row(
                "streams",
                &["limits.streams"],
                "clients are told the number and wait by themselves; a stream too many is reset with REFUSED_STREAM. Counted are the requests that took the last place of their connection",
            ),
            Self::Http2Resets => row("http2_resets", &["limits.http2_resets"], "GOAWAY with ENHANCE_YOUR_CALM, and the connection closes"),
            Self::Http2ControlFrames => {
                row("http2_control_frames", &["limits.http2_control_frames"], "GOAWAY with ENHANCE_YOUR_CALM, and the connection closes")
            }
            Self::Http2Framing => row(
                "http2_framing",
                &[],
                "GOAWAY with ENHANCE_YOUR_CALM, and the connection closes: CONTINUATION frames without an end, heads far over `limits.header_bytes`, empty or tiny DATA frames, streams reset before they were looked at",
            ),
        }
    }
}

/// What is counted of limits.
#[derive(Debug)]
pub struct LimitMetrics {
    reached: IntCounterVec,
    /// Requests that wait for a place at the moment.
    pub requests_queued: IntGauge,
    /// Streams with a place among `limits.tunnels` at the moment.
    pub tunnels_open: IntGauge,
}

impl LimitMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        let reached = make.counters("limited_total", "What a limit of the wire refused, closed or kept waiting, by limit.", &["limit"])?;
        // All are there from the start, so that an alert on the first one sees a difference.
        for limit in Limit::ALL {
            reached.with_label_values(&[limit.row().label]);
        }
        Ok(Self {
            reached,
            requests_queued: make.gauge("requests_queued", "Requests that wait for a place among those in flight.")?,
            tunnels_open: make.gauge("tunnels_open", "WebSockets, event streams and gRPC streams that are open.")?,
        })
    }

    pub fn count(&self, limit: Limit) {
        self.reached.with_label_values(&[limit.row().label]).inc();
    }
}
