//! What the operator's limits and times mean.

use std::time::Duration;

/// How much of each thing the gate takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub token_bytes: usize,
    pub header_bytes: usize,
    pub header_count: usize,
    pub uri_bytes: usize,
    pub identity_header_bytes: usize,
    pub body_bytes: u64,
    /// Bytes a second; `None` asks for nothing.
    pub body_rate: Option<u64>,
    pub connections: usize,
    pub connections_per_address: Option<u32>,
    pub connection_requests: Option<usize>,
    pub requests: usize,
    pub request_queue: usize,
    pub tunnels: usize,
    pub streams: u32,
    pub http2_resets: u32,
    pub http2_control_frames: u32,
    pub key_count: usize,
    pub key_set_bytes: usize,
}

/// How long each step may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub header: Duration,
    pub idle: Duration,
    pub body: Duration,
    pub connect: Duration,
    pub response: Duration,
    pub tunnel_idle: Duration,
    pub queue: Duration,
    pub connection_age: Option<Duration>,
}
