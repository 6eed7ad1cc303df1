//! The wire: everything that touches a socket on behalf of a request, in the order of its way.

mod accept;
mod bind;
mod body;
mod certificates;
mod connection;
mod ending;
mod failure;
mod framing;
mod gate;
mod handle;
mod limit;
mod ocsp;
mod opening;
mod own;
mod proxy_protocol;
mod redirect;
mod respond;
mod rewrite;
mod screen;
mod stream;
mod taking;
mod tls;
mod upgrade;
mod upstream;
mod webhook;
mod websocket;

pub use accept::{Listeners, Prepared};
pub use failure::{Failure, FailureRow};
pub use gate::{Gate, Phase};

use crate::policy::Policy;

/// Whether the policy's certificates and keys can be used.
pub fn check_tls(policy: &Policy) -> Result<(), String> {
    policy.tls.as_ref().map(tls::Tls::new).transpose().map(drop)
}
