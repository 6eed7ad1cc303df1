//! All of it in one process, to try and to test with: an issuer that behaves as Logto does, and a legacy weather service.
//!
//! Everything here listens on loopback only, since its secrets are known to all and its data are made up.

pub mod issuer;
pub mod weather;

mod documents;
mod faults;
mod server;
mod signing;
mod token_endpoint;

pub use issuer::Issuer;
pub use weather::Weather;
