//! Whose signature counts: an issuer's JWK Set, from its fetching to one verified signature.

mod algorithm;
mod cache;
mod discover;
mod fetch;
mod jwk;
mod store;

pub use algorithm::Algorithm;
pub use cache::{Attempt, CacheRules};
pub use discover::{Documents, Metadata, describe, is_safe};
pub use jwk::{Key, KeySet};
pub use store::{Checked, KeyState, KeyStore, Keyring, PreparedKeys};
