//! Promises to a user, each over real sockets: one file a promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says no by panicking, in its helpers too")]

mod bad_reloads;
mod draining;
mod first_request;
mod issuer_down;
mod keys;
mod record;
mod reloading;
#[allow(dead_code, unused_imports, reason = "two test binaries share it, and each uses a part")]
mod support;
mod tokens;
