//! Asking the issuer about opaque tokens (RFC 7662): seldom, within limits, and never about what may be a JWT.

mod ask;
mod asker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use asker::Asker;

use crate::access::Said;
use crate::observe::IntrospectionMetrics;
use crate::policy::{Introspection, Policy};

/// One asker for each way of asking, by the stamp of its settings: with the settings go the answers.
pub type Askers = HashMap<[u8; 32], Arc<Asker>>;

/// Asks for all services.
pub struct Introspector {
    askers: Mutex<Askers>,
    metrics: IntrospectionMetrics,
}

impl Introspector {
    pub fn new(metrics: IntrospectionMetrics) -> Self {
        Self { askers: Mutex::default(), metrics }
    }

    /// The askers of a policy. Those whose settings stay are those that are there, with what they know.
    pub fn prepare(&self, policy: &Policy) -> Result<Askers, String> {
        let known = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut askers = Askers::new();
        for settings in policy.services.iter().filter_map(|service| service.introspection.as_ref()) {
            let asker = match known.get(settings.stamp()) {
                Some(asker) => asker.clone(),
                None => self.asker(settings)?,
            };
            askers.insert(*settings.stamp(), asker);
        }
        Ok(askers)
    }

    /// Puts the askers of a policy into force, and forgets the others with all that they know.
    pub fn adopt(&self, askers: Askers) {
        *self.askers.lock().unwrap_or_else(PoisonError::into_inner) = askers;
    }

    /// What the issuer says about an opaque token that was sent to a service.
    pub async fn ask(&self, policy: &Policy, service: usize, token: &str) -> Said {
        let Some(settings) = &policy.services[service].introspection else { return Said::Unavailable("nobody to ask") };
        let known = self.askers.lock().unwrap_or_else(PoisonError::into_inner).get(settings.stamp()).cloned();
        // A request that began before a reload is finished with what it began with.
        let asker = known.map_or_else(|| self.asker(settings), Ok);
        match asker {
            Ok(asker) => asker.ask(token).await,
            Err(_) => Said::Unavailable("no HTTP client"),
        }
    }

    fn asker(&self, settings: &Arc<Introspection>) -> Result<Arc<Asker>, String> {
        Ok(Arc::new(Asker::new(settings.clone(), self.metrics.clone())?))
    }
}
