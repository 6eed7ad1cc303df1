//! What one request is decided with: one policy and the keys of its issuers, taken once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::consent::Consents;
use super::remembered::Remembered;
use super::revoked::Revoked;
use crate::keys::{Algorithm, Keyring};
use crate::policy::{Issuer, Policy};

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub policy: Arc<Policy>,
    pub keyring: Keyring,
    pub(super) remembered: Arc<Remembered>,
    /// What is known of consents, by service.
    pub(super) consents: Vec<Option<Arc<Consents>>>,
    pub(super) revoked: Arc<Revoked>,
    pub(super) issuers: Vec<IssuerAtWork>,
}

/// What deciding needs of an issuer beside its keys.
#[derive(Debug, Clone)]
pub(super) struct IssuerAtWork {
    pub algorithms: Vec<Algorithm>,
    /// Of its settings and keys: what was verified under another stamp is not remembered.
    pub stamp: u64,
}

impl Snapshot {
    pub fn new(policy: Arc<Policy>, keyring: Keyring, remembered: Arc<Remembered>) -> Self {
        let issuers = policy.issuers.iter().zip(&keyring.0);
        let issuers = issuers
            .map(|(issuer, state)| IssuerAtWork {
                algorithms: issuer.algorithms.iter().filter_map(|name| Algorithm::parse(name)).collect(),
                stamp: stamp(issuer, state.keys.as_ref().map(|keys| keys.epoch)),
            })
            .collect();
        Self { policy, keyring, remembered, consents: Vec::new(), revoked: Arc::default(), issuers }
    }

    /// What the issuer calls a client, where it was asked about consents to it.
    pub fn client_name(&self, service: usize, client: &str) -> Option<Arc<str>> {
        self.consents.get(service)?.as_ref()?.client_name(client)
    }

    /// With what is known of users' consents, by service.
    pub fn with_consents(self, consents: Vec<Option<Arc<Consents>>>) -> Self {
        Self { consents, ..self }
    }

    /// With what is revoked.
    pub fn with_revoked(self, revoked: Arc<Revoked>) -> Self {
        Self { revoked, ..self }
    }

    /// How many revocations there are.
    pub fn revocations(&self) -> usize {
        self.revoked.len()
    }

    /// The same policy with the keys that are known now.
    pub fn with_keyring(&self, keyring: Keyring) -> Self {
        Self::new(self.policy.clone(), keyring, self.remembered.clone())
            .with_consents(self.consents.clone())
            .with_revoked(self.revoked.clone())
    }

    pub fn remembered(&self) -> Arc<Remembered> {
        self.remembered.clone()
    }

    pub fn remembered_tokens(&self) -> usize {
        self.remembered.len()
    }
}

fn stamp(issuer: &Issuer, epoch: Option<u64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    issuer.url.hash(&mut hasher);
    issuer.algorithms.hash(&mut hasher);
    issuer.token_types.hash(&mut hasher);
    issuer.untyped_tokens.hash(&mut hasher);
    epoch.hash(&mut hasher);
    hasher.finish()
}
