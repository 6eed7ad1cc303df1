//! Promises to a user, each over real sockets: one file a promise.

// Builders and helpers fail a test as its own lines do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_requests;
mod bodies;
mod expectations;
mod first_request;
mod forwarding;
mod http2;
mod identity;
mod many_services;
mod slow_clients;
mod support;
mod tls;
mod tunnels;
mod upstream_faults;
