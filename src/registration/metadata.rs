//! The issuer's metadata with the registration endpoint in it: asked for when somebody asks, and kept for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::clock;
use crate::keys::Documents;
use crate::oauth::registration::Refusal;
use crate::oauth::with_registration;
use crate::policy::{Policy, Registration};

/// How long a copy is given out before the issuer is asked again.
const FRESH: Duration = Duration::from_secs(300);
/// How long an old copy is given out while the issuer is away.
const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long nobody asks again after a failure.
const REST: Duration = Duration::from_secs(5);

pub struct IssuerMetadata {
    documents: Documents,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    copy: Option<(Arc<[u8]>, Instant)>,
    failed: Option<Instant>,
}

impl IssuerMetadata {
    pub fn new(policy: &Policy) -> Result<Self, String> {
        let documents = Documents::new(policy.keys.timeout.0, policy.limits.key_set_bytes)?;
        Ok(Self { documents, kept: Mutex::default() })
    }

    /// The copy. Those who come while the issuer is asked wait for that one answer.
    pub async fn get(&self, registration: &Registration) -> Result<Arc<[u8]>, Refusal> {
        let mut kept = self.kept.lock().await;
        let now = clock::instant_now();
        let age = |since: &Instant| now.duration_since(*since);
        if let Some((copy, _)) = kept.copy.as_ref().filter(|(_, since)| age(since) < FRESH) {
            return Ok(copy.clone());
        }
        if kept.failed.as_ref().is_none_or(|failed| age(failed) >= REST) {
            match self.documents.document(&registration.metadata_urls, &registration.issuer_url).await {
                Ok(metadata) => {
                    let copy: Arc<[u8]> = with_registration(metadata, registration).into();
                    *kept = Kept { copy: Some((copy.clone(), now)), failed: None };
                    return Ok(copy);
                }
                Err(reason) => {
                    tracing::warn!(target: "wicketgate::registration", issuer = registration.issuer_url, reason, "the issuer's metadata cannot be had");
                    kept.failed = Some(now);
                }
            }
        }
        let stale = kept.copy.as_ref().filter(|(_, since)| age(since) < STALE_MAX);
        stale.map(|(copy, _)| copy.clone()).ok_or(Refusal::IssuerAway)
    }
}
