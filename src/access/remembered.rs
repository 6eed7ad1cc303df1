//! Tokens that were verified before, so that the signature of the same token is checked once.
//!
//! The key is the SHA-256 of the whole token, so no token is kept in memory. An entry counts only while the issuer's
//! settings and keys are those that it was verified with (its stamp), and its dates are compared anew each time.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::{HeaderName, HeaderValue};
use quick_cache::sync::Cache;

use super::claims::Claims;
use crate::policy::IdentityHeader;

/// A verified token's claims and what they were verified with.
#[derive(Debug)]
pub struct Verified {
    pub claims: Claims,
    pub stamp: u64,
    /// The identity headers that were last made of the claims.
    prepared: ArcSwapOption<Prepared>,
}

/// Identity headers, and the list that they were made for.
#[derive(Debug)]
pub struct Prepared {
    list: Arc<[IdentityHeader]>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Verified {
    pub fn new(claims: Claims, stamp: u64) -> Self {
        Self { claims, stamp, prepared: ArcSwapOption::empty() }
    }

    /// The identity headers for a service: made once a token, as long as the service's list stays.
    pub fn headers<E>(
        &self,
        list: &Arc<[IdentityHeader]>,
        make: impl FnOnce() -> Result<Vec<(HeaderName, HeaderValue)>, E>,
    ) -> Result<Arc<Prepared>, E> {
        if let Some(prepared) = self.prepared.load_full().filter(|prepared| Arc::ptr_eq(&prepared.list, list)) {
            return Ok(prepared);
        }
        let prepared = Arc::new(Prepared { list: list.clone(), headers: make()? });
        self.prepared.store(Some(prepared.clone()));
        Ok(prepared)
    }
}

pub type Digest = [u8; 32];

/// Bounded by count, the least used leaving first.
pub struct Remembered {
    tokens: Option<Cache<Digest, Arc<Verified>>>,
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remembered({})", self.tokens.as_ref().map_or(0, Cache::len))
    }
}

impl Remembered {
    pub fn new(count_max: usize) -> Self {
        Self { tokens: (count_max > 0).then(|| Cache::new(count_max)) }
    }

    pub fn digest(token: &str) -> Digest {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Verified>> {
        self.tokens.as_ref()?.get(digest)
    }

    pub(super) fn put(&self, digest: Digest, verified: Arc<Verified>) {
        if let Some(tokens) = &self.tokens {
            tokens.insert(digest, verified);
        }
    }

    pub(super) fn forget(&self, digest: &Digest) {
        if let Some(tokens) = &self.tokens {
            tokens.remove(digest);
        }
    }

    pub fn len(&self) -> usize {
        self.tokens.as_ref().map_or(0, Cache::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
