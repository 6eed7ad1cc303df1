//! Compiles limits and times.

use super::compile::{Compiler, at_least, trail};
use super::{Limits, Timeouts};
use crate::config::{self, Span};

pub(super) fn limits(c: &mut Compiler<'_>, limits: &config::Limits, listeners: usize) -> Limits {
    let mut least = |key: &str, found: u64, least: u64, shown: &dyn std::fmt::Display| {
        if found < least {
            c.fault(trail(&[&"limits", &key]), &shown.to_string(), "too small to serve anything", format!("write {least} or more"));
        }
    };
    least("token_bytes", limits.token_bytes.0, 512, &limits.token_bytes);
    least("header_bytes", limits.header_bytes.0, 8192, &limits.header_bytes);
    least("header_count", limits.header_count.into(), 16, &limits.header_count);
    least("uri_bytes", limits.uri_bytes.0, 256, &limits.uri_bytes);
    least("identity_header_bytes", limits.identity_header_bytes.0, 64, &limits.identity_header_bytes);
    // Each listener holds room for the connection that it waits for.
    least("connections", limits.connections.into(), listeners as u64 + 1, &limits.connections);
    least("requests", limits.requests.into(), 1, &limits.requests);
    least("streams", limits.streams.into(), 1, &limits.streams);
    least("http2_resets", limits.http2_resets.into(), 1, &limits.http2_resets);
    // A connection begins with some, and keep-alive needs some.
    least("http2_control_frames", limits.http2_control_frames.into(), 20, &limits.http2_control_frames);
    least("key_count", limits.key_count.into(), 1, &limits.key_count);
    least("key_set_bytes", limits.key_set_bytes.0, 1024, &limits.key_set_bytes);
    Limits {
        token_bytes: limits.token_bytes.bytes_usize(),
        header_bytes: limits.header_bytes.bytes_usize(),
        header_count: limits.header_count as usize,
        uri_bytes: limits.uri_bytes.bytes_usize(),
        identity_header_bytes: limits.identity_header_bytes.bytes_usize(),
        body_bytes: limits.body_bytes.0,
        body_rate: Some(limits.body_rate.0).filter(|rate| *rate > 0),
        connections: limits.connections as usize,
        connections_per_address: Some(limits.connections_per_address).filter(|count| *count > 0),
        connection_requests: Some(limits.connection_requests as usize).filter(|count| *count > 0),
        requests: limits.requests as usize,
        request_queue: limits.request_queue as usize,
        tunnels: limits.tunnels as usize,
        streams: limits.streams,
        http2_resets: limits.http2_resets,
        http2_control_frames: limits.http2_control_frames,
        key_count: limits.key_count as usize,
        key_set_bytes: limits.key_set_bytes.bytes_usize(),
    }
}

pub(super) fn timeouts(c: &mut Compiler<'_>, timeouts: &config::Timeouts) -> Timeouts {
    let mut least = |key: &str, span: Span| at_least(c, &["timeouts", key], span, 1);
    Timeouts {
        header: least("header", timeouts.header),
        idle: least("idle", timeouts.idle),
        body: least("body", timeouts.body),
        connect: least("connect", timeouts.connect),
        response: least("response", timeouts.response),
        tunnel_idle: least("tunnel_idle", timeouts.tunnel_idle),
        queue: timeouts.queue.0,
        connection_age: Some(timeouts.connection_age.0).filter(|age| !age.is_zero()),
    }
}
