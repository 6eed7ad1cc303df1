//! Wicketgate.

pub mod clock;

pub mod config;

pub mod policy;

pub mod keys;

pub mod access;

#[cfg(feature = "demo")]
pub mod demo;
