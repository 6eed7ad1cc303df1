//! The wire: everything that touches a socket on behalf of a request, in the order of its way.

mod accept;
mod addresses;
mod admission;
mod answer_fields;
mod bind;
mod broken;
mod certificates;
mod connection;
mod connection_http1;
mod ending;
mod extended;
mod failure;
mod flood;
mod forward;
mod framing;
mod gate;
mod grpc;
mod grpc_frames;
mod handle;
mod inherited;
mod kept;
mod lifetime;
mod limit;
mod location;
mod noted;
mod ocsp;
mod opening;
mod own;
mod pace;
mod preamble;
mod progress;
mod proxy_protocol;
mod quiet;
mod redirect;
mod request_body;
mod respond;
mod response_body;
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
pub use inherited::Inherited;

pub use upstream::check as check_upstreams;

use crate::policy::Policy;

/// Whether the policy's certificates and keys can be used.
pub fn check_tls(policy: &Policy) -> Result<(), String> {
    policy.tls.as_ref().map(tls::Tls::new).transpose().map(drop)
}
