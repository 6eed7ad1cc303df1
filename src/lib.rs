//! Wicketgate: an authenticating reverse proxy. It lets a request through on the caller's own ticket, and keeps the gate
//! shut.
//!
//! # The way of a request
//!
//! accept -> connection (TLS) -> handle: one snapshot of policy and keys, and the time -> route -> decide: bearer, jwt,
//! claims, authenticate, authorize -> rewrite (needs a permit) -> upstream (body, upgrade) -> respond -> record.
//! The files on this way open with their number; `ARCHITECTURE.md` tells it with a picture.
//!
//! # The law of imports
//!
//! A module may use what stands above it here, never what stands below it. `tests/tidy.rs` holds it.

pub mod clock;

pub mod config;

pub mod policy;

pub mod keys;

pub mod logto;

pub mod state;

pub mod access;

pub mod oauth;

pub mod rate;

pub mod balance;

pub mod revocation;

pub mod observe;

pub mod asking;

pub mod introspection;

pub mod consent;

pub mod registration;

pub mod proxy;

pub mod reload;

pub mod shutdown;

pub mod systemd;

pub mod handover;

#[cfg(feature = "demo")]
pub mod demo;

pub mod app;

pub mod cli;
