//! Promises to a user, each over real sockets: one file a promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says no by panicking, in its helpers too")]

mod audit;
mod bad_reloads;
mod bad_requests;
mod bodies;
mod draining;
mod expectations;
mod first_request;
mod forwarding;
mod http2;
mod identity;
mod issuer_down;
mod keys;
mod many_services;
mod record;
mod refusals;
mod reloading;
mod resting;
mod slow_clients;
#[allow(dead_code, unused_imports, reason = "two test binaries share it, and each uses a part")]
mod support;
mod tls;
mod tokens;
mod tunnels;
mod upstream_faults;
