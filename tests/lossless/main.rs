//! Nothing is lost: hundreds of requests in flight at any time, something done to the gate in the middle, and the fate of
//! every single one counted.
//!
//! Ignored by `cargo test`, since it takes seconds and both cores: `cargo test --test lossless -- --ignored --test-threads 1`.
//! `WICKETGATE_BINARY` names another binary than this build's, `LOSSLESS_TIMES=10` makes it ten times as long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says no by panicking, and shows its count"
)]

#[path = "../process/child.rs"]
#[allow(dead_code, reason = "two test binaries share it, and each uses a part")]
mod child;
mod fates;
mod http1;
mod http2;
mod load;
mod scenarios;
mod service;
#[path = "../integration/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "several test binaries share it, and each uses a part")]
mod support;
mod way;
mod websocket;
