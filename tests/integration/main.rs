//! Promises to a user, each over real sockets: one file a promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says no by panicking, in its helpers too")]

mod admin_limits;
mod audit;
mod bad_reloads;
mod bad_requests;
mod bodies;
mod consent;
mod discovery;
mod draining;
mod expectations;
mod first_request;
mod forwarding;
mod http2;
mod http2_limits;
mod identity;
mod issuer_down;
mod keys;
mod logto_apply;
mod logto_client;
mod many_services;
mod opaque_tokens;
mod rate_limits;
mod record;
mod refusals;
mod registration;
mod reloading;
mod resting;
mod revocations;
mod shared_state;
mod slow_clients;
mod slow_http2;
mod story;
mod streams;
#[allow(dead_code, unused_imports, reason = "two test binaries share it, and each uses a part")]
mod support;
mod tls;
mod tokens;
mod tunnels;
mod upstream_faults;
mod upstream_http2;
mod upstream_names;
mod upstream_pools;
