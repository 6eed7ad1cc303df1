//! Where apps are registered under one set of settings: the way to Logto, the limits, and the ids of scopes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::limits::Limits;
use super::metadata::IssuerMetadata;
use crate::clock;
use crate::logto::{ConsentScopes, LogtoError, ManagementApi};
use crate::oauth::registration::{Granted, Refusal};
use crate::observe::{Observer, RegistrationMetrics};
use crate::policy::{LogtoAccess, Policy, Registration, ScopeOf};

/// How long the ids of scopes are taken for granted.
const IDS_FRESH: Duration = Duration::from_secs(300);

/// Looks at registrations and changes of them, for each registration that is allowed.
const CHANGES: u32 = 10;

/// Registers, changes and takes away.
pub struct Office {
    pub(super) settings: Arc<Registration>,
    pub(super) api: Arc<ManagementApi>,
    access: LogtoAccess,
    /// Of registrations, and of changes.
    pub(super) limits: [Arc<Limits>; 2],
    ids: Mutex<Option<(HashMap<ScopeOf, String>, Instant)>>,
    pub metadata: IssuerMetadata,
    fetching: (Duration, usize),
    /// Apps are made one after the other, so that the quota holds.
    pub(super) making: Mutex<()>,
    pub(super) metrics: RegistrationMetrics,
    pub(super) observer: Arc<Observer>,
}

impl Office {
    /// The office of a policy; the known one if nothing that it works with has changed.
    pub fn of(policy: &Policy, known: Option<&Arc<Self>>, observer: &Arc<Observer>) -> Result<Option<Arc<Self>>, String> {
        let (Some(settings), Some(logto)) = (&policy.registration, &policy.logto) else { return Ok(None) };
        let fetching = (policy.keys.timeout.0, policy.limits.key_set_bytes);
        if let Some(known) = known
            && *known.settings == **settings
            && known.access == logto.access
            && known.fetching == fetching
        {
            return Ok(Some(known.clone()));
        }
        let api = match known.filter(|known| known.api.is_for(&logto.access)) {
            Some(known) => known.api.clone(),
            None => Arc::new(ManagementApi::new(logto.access.clone()).map_err(|error| error.to_string())?),
        };
        let rates = (settings.per_address_per_hour, settings.per_minute);
        let limits = match known.filter(|known| known.limits[0].fits(rates.0, rates.1)) {
            Some(known) => known.limits.clone(),
            None => [1, CHANGES].map(|times| Arc::new(Limits::new(rates.0, rates.1, times))),
        };
        Ok(Some(Arc::new(Self {
            settings: settings.clone(),
            api,
            access: logto.access.clone(),
            limits,
            ids: Mutex::default(),
            metadata: IssuerMetadata::new(policy)?,
            fetching,
            making: Mutex::default(),
            metrics: observer.metrics.registration.clone(),
            observer: observer.clone(),
        })))
    }

    pub fn settings(&self) -> &Registration {
        &self.settings
    }

    /// For a registration with all its calls.
    pub(super) fn deadline(&self) -> Duration {
        self.access.deadline
    }

    /// What is granted, by the ids that Logto knows scopes by. A scope that the tenant does not have is left out of both.
    /// `anew` asks for the ids again, which are known to be old.
    pub(super) async fn consent_scopes(&self, granted: &mut Granted, anew: bool) -> Result<ConsentScopes, LogtoError> {
        let mut kept = self.ids.lock().await;
        let now = clock::instant_now();
        let fresh = kept.as_ref().is_some_and(|(_, since)| now.duration_since(*since) < IDS_FRESH);
        if !fresh || anew {
            *kept = Some((self.read_ids().await?, now));
        }
        let ids = kept.as_ref().map(|(ids, _)| ids);
        let id = |scope: &ScopeOf| ids.and_then(|ids| ids.get(scope)).cloned();
        let (known, unknown): (Vec<ScopeOf>, Vec<ScopeOf>) = granted.scopes.drain(..).partition(|scope| id(scope).is_some());
        for scope in &unknown {
            tracing::warn!(target: "wicketgate::registration", scope = scope.name, resource = scope.indicator, "the ceiling has a scope that Logto does not have; wicketgate logto apply makes it");
        }
        let gone = |name: &String| unknown.iter().any(|scope| scope.name == *name) && !known.iter().any(|scope| scope.name == *name);
        granted.names.retain(|name| !gone(name));
        granted.scopes = known;
        Ok(ConsentScopes { user_scopes: granted.user_scopes.clone(), resource_scopes: granted.scopes.iter().filter_map(id).collect() })
    }

    async fn read_ids(&self) -> Result<HashMap<ScopeOf, String>, LogtoError> {
        let mut ids = HashMap::new();
        for resource in self.api.resources().await? {
            if self.settings.ceiling.iter().any(|scope| scope.indicator == resource.indicator) {
                for scope in self.api.scopes(&resource.id).await? {
                    ids.insert(ScopeOf { indicator: resource.indicator.clone(), name: scope.name }, scope.id);
                }
            }
        }
        Ok(ids)
    }
}

/// What a client is told when Logto could not be asked, or did not do it. The operator reads why.
pub(super) fn away(what: &str, error: &LogtoError) -> Refusal {
    const PASSING_SECONDS: u64 = 5;
    const LASTING_SECONDS: u64 = 60;
    match error.is_passing() {
        true => tracing::warn!(target: "wicketgate::registration", what, %error, "Logto could not be asked"),
        false => tracing::error!(target: "wicketgate::registration", what, %error, "Logto did not do what was asked"),
    }
    let least = if error.is_passing() { PASSING_SECONDS } else { LASTING_SECONDS };
    let seconds = error.retry_after().map_or(least, |after| after.as_secs());
    Refusal::LogtoAway { seconds: u32::try_from(seconds).unwrap_or(u32::MAX) }
}
