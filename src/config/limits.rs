//! What the operator writes about limits: how much of each thing the gate takes, and how long each step may take.

use schemars::JsonSchema;
use serde::Deserialize;

use super::units::{Size, Span};

/// How much of each thing the gate takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest access token.
    pub token_bytes: Size,
    /// A request's head: request line and headers together.
    pub header_bytes: Size,
    /// Header lines of a request.
    pub header_count: u32,
    /// The request target: path and query.
    pub uri_bytes: Size,
    /// The value of one identity header; a token whose claim is longer is refused.
    pub identity_header_bytes: Size,
    /// A request's body.
    pub body_bytes: Size,
    /// The least that a client sends of a body, or takes of an answer, in a second: on average over each `timeouts.body` in
    /// which it alone was waited for. `0B` asks for nothing.
    pub body_rate: Size,
    /// Connections of clients open at a time; more are not accepted until one closes.
    pub connections: u32,
    /// Connections of one address (of IPv6: one /64) open at a time; more are closed at once. Trusted proxies have as many as
    /// they like. 0 sets no limit.
    pub connections_per_address: u32,
    /// Requests on one connection, after which it is closed in good order. 0 sets no limit.
    pub connection_requests: u32,
    /// Requests in flight at a time; more wait.
    pub requests: u32,
    /// Requests that wait for a place, longest first; more are refused.
    pub request_queue: u32,
    /// WebSockets, event streams and gRPC streams open at a time.
    pub tunnels: u32,
    /// Requests open at a time on one HTTP/2 connection.
    pub streams: u32,
    /// Streams of one HTTP/2 connection that its client may reset within ten seconds; more end the connection.
    pub http2_resets: u32,
    /// Frames of one HTTP/2 connection that carry nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE) within ten seconds, beyond
    /// those that its answers explain; more end the connection.
    pub http2_control_frames: u32,
    /// Keys taken from one issuer's key set.
    pub key_count: u32,
    /// An issuer's metadata document or key set.
    pub key_set_bytes: Size,
}

/// How long each step may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From the first byte of a request's head to its last; also for the TLS handshake.
    pub header: Span,
    /// A connection on which nothing is asked. Keep it above the idle time of a load balancer in front.
    pub idle: Span,
    /// Between two pieces of a request's body, and while a client takes nothing of a response.
    pub body: Span,
    /// To connect to the upstream.
    pub connect: Span,
    /// From sending a request to the upstream to the first byte of its answer.
    pub response: Span,
    /// A tunnel (WebSocket) on which nothing moves.
    pub tunnel_idle: Span,
    /// How long a request waits for a place among `limits.requests`.
    pub queue: Span,
    /// A connection's age, give or take a tenth, at which it is closed in good order. `0s` sets none.
    pub connection_age: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            token_bytes: Size::kib(16),
            header_bytes: Size::kib(64),
            header_count: 100,
            uri_bytes: Size::kib(8),
            identity_header_bytes: Size::kib(4),
            body_bytes: Size::kib(10 << 20),
            body_rate: Size(240),
            connections: 16_384,
            connections_per_address: 0,
            connection_requests: 0,
            requests: 16_384,
            request_queue: 1024,
            tunnels: 16_384,
            streams: 100,
            http2_resets: 1000,
            http2_control_frames: 1000,
            key_count: 64,
            key_set_bytes: Size::kib(512),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Span::seconds(10),
            idle: Span::seconds(75),
            body: Span::seconds(30),
            connect: Span::seconds(5),
            response: Span::seconds(60),
            tunnel_idle: Span::seconds(3600),
            queue: Span::seconds(1),
            connection_age: Span::seconds(0),
        }
    }
}
