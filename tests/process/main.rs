//! Promises of the binary as a process: commands, exit codes, signals, the log, memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says no by panicking, in its helpers too")]

mod child;
mod commands;
mod log;
mod logto;
mod memory;
mod signals;
#[path = "../integration/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "two test binaries share it, and each uses a part")]
mod support;
mod upgrade;
