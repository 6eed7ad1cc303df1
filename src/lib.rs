//! Wicketgate.

pub mod clock;

pub mod config;

pub mod policy;

pub mod keys;

pub mod access;

pub mod oauth;

pub mod observe;

pub mod proxy;

pub mod reload;

pub mod shutdown;

pub mod app;
