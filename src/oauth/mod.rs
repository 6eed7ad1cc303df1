//! What an agent reads first: the protected-resource metadata (RFC 9728) and the challenge that leads to it (RFC 6750).
//! Both are made from the configuration, never from a header of the request.

mod challenge;
mod metadata;
pub mod registration;

pub use challenge::{challenge, required_scopes, scopes_to_request};
pub use metadata::{document, with_registration};
