//! What the gate knows of its own state: whether it is ready, draining, and how the last reload went.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::access::Snapshot;
use crate::clock::{self, UnixSeconds};
use crate::state::Shared;

#[derive(Debug, Default)]
pub struct Health {
    listening: AtomicBool,
    draining: AtomicBool,
    /// The operator wants it to look so.
    asked: AtomicBool,
    unready_since: Mutex<Option<Instant>>,
    reloads: AtomicU64,
    last_reload: Mutex<Option<ReloadOutcome>>,
}

/// How the last change of the configuration went.
#[derive(Debug, Clone)]
pub struct ReloadOutcome {
    pub at: UnixSeconds,
    /// What changed, or the faults for which it was not taken.
    pub result: Result<String, String>,
}

/// One check of `/readyz?verbose`.
pub struct Check {
    pub name: String,
    pub good: bool,
    pub why: String,
}

impl Check {
    /// As little does this one, though other instances do not hear of what is revoked here.
    pub fn revocations(shared: &Shared, count: usize) -> Self {
        let why = match shared.is_up() {
            true => format!("{count}, shared with all instances"),
            false => format!("{count}, AWAY from the other instances; each knows its own alone"),
        };
        Self { name: "revocations".to_owned(), good: true, why }
    }

    /// The gate works without it, so that it never makes the gate unready.
    pub fn shared_state(shared: &Shared) -> Self {
        let why = match shared.is_up() {
            true => "there; limits hold over all instances",
            false => "AWAY; limits hold in each instance by itself",
        };
        Self { name: format!("shared-state {}", shared.name()), good: true, why: why.to_owned() }
    }
}

impl Health {
    pub fn set_listening(&self) {
        self.listening.store(true, Ordering::Release);
    }

    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The operator's word that the gate shall be unready, or no more; whether that is new.
    pub fn ask_to_drain(&self, asked: bool) -> bool {
        let mut since = self.unready_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = asked.then(|| since.unwrap_or_else(clock::instant_now));
        self.asked.swap(asked, Ordering::AcqRel) != asked
    }

    /// Since when the operator has it look unready.
    pub fn unready_since(&self) -> Option<Instant> {
        *self.unready_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire) || self.asked.load(Ordering::Acquire)
    }

    pub fn note_reload(&self, result: Result<String, String>) {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last_reload.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(ReloadOutcome { at: clock::unix_now(), result });
    }

    pub fn reloads(&self) -> (u64, Option<ReloadOutcome>) {
        let last = self.last_reload.lock().unwrap_or_else(PoisonError::into_inner);
        (self.reloads.load(Ordering::Relaxed), last.clone())
    }

    fn stays(&self) -> &'static str {
        match (self.draining.load(Ordering::Acquire), self.asked.load(Ordering::Acquire)) {
            (true, _) => "going down",
            (false, true) => "unready by word of the operator",
            (false, false) => "staying",
        }
    }

    /// Whether traffic should come here. Keys that were never had make the gate unready; a failed reload does not,
    /// since the old policy still holds.
    pub fn checks(&self, snapshot: &Snapshot) -> Vec<Check> {
        let check = |name: &str, good: bool, why: &str| Check { name: name.to_owned(), good, why: why.to_owned() };
        let listening = self.listening.load(Ordering::Acquire);
        let draining = self.is_draining();
        let mut checks = vec![
            check("listening", listening, if listening { "all listeners are bound" } else { "not yet bound" }),
            check("not-draining", !draining, self.stays()),
        ];
        for (issuer, state) in snapshot.policy.issuers.iter().zip(&snapshot.keyring.0) {
            let why = match (&state.keys, state.unreachable) {
                (Some(keys), false) => format!("{} keys", keys.len()),
                (Some(keys), true) => format!("{} keys, kept while the issuer cannot be reached", keys.len()),
                (None, _) => "no keys: the issuer could not be reached".to_owned(),
            };
            checks.push(Check { name: format!("keys {}", issuer.url), good: state.keys.is_some(), why });
        }
        checks
    }
}
