//! What every request shares: the snapshot in force, the keys, the pools, the record keeper, and the signals of the end.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use super::addresses::Addresses;
use super::admission::Admission;
use super::upstream::Upstreams;
use crate::access::{Refusal, Remembered, Said, Snapshot, Verdict};
use crate::consent::ConsentDesk;
use crate::introspection::Introspector;
use crate::keys::{Checked, KeyStore};
use crate::observe::{AdminView, AuditTrail, Health, Metrics, Observer, ServiceStanding};
use crate::policy::Policy;
use crate::rate::Rates;
use crate::registration::Registrar;
use crate::revocation::Revocations;
use crate::state::Shared;

/// How far the gate's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// No new connections; requests in flight are finished.
    Draining,
    /// The same, and another process has the listener now: its queue and its file are left alone.
    HandedOver,
}

/// What one request is decided and forwarded by: swapped as one, so that a request that is decided by a policy goes to the
/// upstreams of that policy.
pub struct InForce {
    pub snapshot: Arc<Snapshot>,
    pub upstreams: Arc<Upstreams>,
}

impl Deref for InForce {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

pub struct Gate {
    current: ArcSwap<InForce>,
    /// Writers of `current`, one at a time.
    writing: Mutex<()>,
    keys: KeyStore,
    introspector: Introspector,
    pub consents: ConsentDesk,
    pub revocations: Arc<Revocations>,
    shared: ArcSwapOption<Shared>,
    pub rates: Rates,
    pub admission: Admission,
    pub addresses: Arc<Addresses>,
    pub registrar: Registrar,
    pub observer: Arc<Observer>,
    pub health: Health,
    /// The gate's own name in `Via`, by which it knows a request that comes back.
    pub via: String,
    pub closing_tunnels: watch::Sender<bool>,
}

impl Gate {
    pub fn new(policy: Policy, keys: KeyStore, observer: Arc<Observer>) -> Result<Arc<Self>, String> {
        let introspector = Introspector::new(observer.metrics.introspection.clone());
        introspector.adopt(introspector.prepare(&policy)?);
        let consents = ConsentDesk::new(observer.metrics.consents.clone());
        consents.adopt(consents.prepare(&policy)?);
        let registrar = Registrar::new(observer.clone());
        registrar.adopt(registrar.prepare(&policy)?);
        keys.adopt(&policy)?;
        let shared = Shared::follow(None, &policy)?;
        let revocations = Arc::new(Revocations::new(&policy));
        revocations.adopt(&policy, shared.as_ref());
        let rates = Rates::new(&policy, shared.clone());
        let upstreams = Upstreams::of(&policy, &Upstreams::default(), &observer.metrics.upstreams)?;
        let admission = Admission::new(&policy);
        let audit = observer.audit.prepare(policy.audit.as_ref())?;
        let remembered = Arc::new(Remembered::new(policy.remembered_tokens));
        let snapshot = Snapshot::new(Arc::new(policy), Default::default(), remembered);
        let keyring = keys.keyring(&snapshot.policy);
        let known = consents.consents(&snapshot.policy);
        let snapshot = snapshot.with_keyring(keyring).with_consents(known).with_revoked(revocations.revoked());
        observer.set_access_log(snapshot.policy.log.access);
        observer.metrics.adopt(&snapshot);
        if let Some(place) = audit {
            observer.audit.turn_to(place);
        }
        let instance = uuid::Uuid::now_v7().simple().to_string();
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(InForce { snapshot: Arc::new(snapshot), upstreams: Arc::new(upstreams) }),
            writing: Mutex::new(()),
            keys,
            introspector,
            consents,
            revocations,
            shared: ArcSwapOption::new(shared),
            rates,
            admission,
            addresses: Addresses::new(),
            registrar,
            observer,
            health: Health::default(),
            via: format!("wicketgate-{}", &instance[instance.len() - 12..]),
            closing_tunnels: watch::Sender::new(false),
        }))
    }

    /// What is in force: taken once a request.
    pub fn in_force(&self) -> Arc<InForce> {
        self.current.load_full()
    }

    /// The snapshot in force, for what does not forward.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load().snapshot.clone()
    }

    /// Puts a new policy into force. Nothing changes when it cannot be.
    pub fn adopt(&self, policy: Policy) -> Result<(), String> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let askers = self.introspector.prepare(&policy)?;
        let office = self.registrar.prepare(&policy)?;
        let consents = self.consents.prepare(&policy)?;
        let shared = Shared::follow(self.shared.load_full().as_ref(), &policy)?;
        let audit = self.observer.audit.prepare(policy.audit.as_ref())?;
        let keys = self.keys.prepare(&policy)?;
        // The last that can fail: endpoints that stay take their new limits here.
        let old = self.current.load_full();
        let upstreams = Upstreams::of(&policy, &old.upstreams, &self.observer.metrics.upstreams)?;
        self.keys.turn_to(keys);
        self.introspector.adopt(askers);
        self.consents.adopt(consents);
        self.registrar.adopt(office);
        // Before the policy that asks for records, so that none finds no place.
        if let Some(place) = audit {
            self.observer.audit.turn_to(place);
        }
        let remembered = match old.policy.remembered_tokens == policy.remembered_tokens {
            true => old.remembered(),
            false => Arc::new(Remembered::new(policy.remembered_tokens)),
        };
        let keyring = self.keys.keyring(&policy);
        let known = self.consents.consents(&policy);
        let snapshot = Snapshot::new(Arc::new(policy), keyring, remembered).with_consents(known).with_revoked(self.revocations.revoked());
        self.observer.set_access_log(snapshot.policy.log.access);
        self.observer.metrics.adopt(&snapshot);
        upstreams.take_over(&old.upstreams);
        self.admission.adopt(&snapshot.policy);
        self.rates.adopt(&snapshot.policy, shared.clone());
        self.revocations.adopt(&snapshot.policy, shared.as_ref());
        self.shared.store(shared);
        self.current.store(Arc::new(InForce { snapshot: Arc::new(snapshot), upstreams: Arc::new(upstreams) }));
        Ok(())
    }

    /// Takes the keys that are known now into the snapshot.
    pub fn take_keys(&self) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current.load_full();
        let keyring = self.keys.keyring(&old.policy);
        let snapshot = Arc::new(old.with_keyring(keyring));
        self.current.store(Arc::new(InForce { snapshot, upstreams: old.upstreams.clone() }));
    }

    /// Issuers whose keys are not there.
    pub fn without_keys(&self) -> Vec<String> {
        let policy = &self.snapshot().policy;
        let keyring = self.keys.keyring(policy);
        policy.issuers.iter().zip(&keyring.0).filter(|(_, state)| state.keys.is_none()).map(|(issuer, _)| issuer.url.clone()).collect()
    }

    /// Returns when the keys of all issuers but these are there, and in the snapshot.
    pub async fn keys_had(&self, but: &[String]) {
        let mut changes = self.keys.changes();
        while {
            changes.borrow_and_update();
            !self.without_keys().iter().all(|issuer| but.contains(issuer))
        } {
            if changes.changed().await.is_err() {
                return;
            }
        }
        self.take_keys();
    }

    /// Asks for an issuer's keys once more, and takes what came of it.
    pub async fn refresh_keys(&self, issuer: &str, kid: &str, patience: Option<Duration>) -> Checked {
        let checked = self.keys.refresh(issuer, kid, patience).await;
        if checked != Checked::TooEarly {
            self.take_keys();
        }
        checked
    }

    /// Asks the issuer about an opaque token, or takes what it said before.
    pub async fn introspect(&self, snapshot: &Snapshot, service: usize, token: &str) -> Said {
        self.introspector.ask(&snapshot.policy, service, token).await
    }

    /// Notes whose token was good, so that a registered app counts as used.
    pub fn note_client(&self, verdict: &Result<Verdict, Box<Refusal>>) {
        let identity = match verdict {
            Ok(Verdict::Forward(permit)) => permit.identity(),
            Ok(Verdict::Metadata { .. } | Verdict::Preflight { .. } | Verdict::Webhook | Verdict::Own { .. }) => None,
            Err(refusal) => refusal.identity.as_ref(),
        };
        if let Some(client) = identity.and_then(|identity| identity.claims().client_id.as_deref()) {
            self.registrar.saw(client);
        }
    }

    /// Takes keys into the snapshot whenever they change, for as long as the gate lives.
    pub async fn follow_keys(self: Arc<Self>) {
        let mut changes = self.keys.changes();
        loop {
            self.take_keys();
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl AdminView for Gate {
    fn standings(&self) -> Vec<ServiceStanding> {
        self.current.load().upstreams.standings()
    }

    fn audit(&self) -> &AuditTrail {
        &self.observer.audit
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load().snapshot.clone()
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn metrics(&self) -> &Metrics {
        &self.observer.metrics
    }

    fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.load_full()
    }
}
