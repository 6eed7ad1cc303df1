//! Registering apps of agents in Logto (RFC 7591, RFC 7592): within limits, never half made, and taken away again when
//! nobody uses them. What is asked for and what is granted is decided in `oauth::registration`.
//!
//! Nothing is kept here that must survive: what is known of an app stands in the app itself, under our mark in Logto, so that
//! every replica and every restart finds it there.

mod audit;
mod change;
mod limits;
mod mark;
mod metadata;
mod office;
mod register;
mod sweep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quick_cache::sync::Cache;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

pub use office::Office;
pub use register::Caller;

use crate::clock::{self, UnixSeconds};
use crate::observe::Observer;
use crate::policy::Policy;

/// Clients that were seen lately; more of them are asked about more often.
const SEEN_COUNT_MAX: usize = 10_000;
/// Clients that wait to be marked as used. What finds no room is seen again.
const WAITING_MAX: usize = 256;
/// How often it is written down that a client is used.
const SEEN_EVERY_SECONDS: UnixSeconds = 24 * 3600;
/// When a client whose mark could not be written is tried again.
const TRIED_AGAIN_SECONDS: UnixSeconds = 60;

/// Registers for all services, under the settings in force.
pub struct Registrar {
    office: watch::Sender<Option<Arc<Office>>>,
    on: AtomicBool,
    seen: Arc<Seen>,
    observer: Arc<Observer>,
    task: AbortHandle,
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registrar {
    /// Starts the task that takes unused apps away; it rests while there is nothing to do.
    pub fn new(observer: Arc<Observer>) -> Self {
        let (office, current) = watch::channel(None);
        let (waiting, clients) = mpsc::channel(WAITING_MAX);
        let seen = Arc::new(Seen { clients: Cache::new(SEEN_COUNT_MAX), waiting });
        let task = tokio::spawn(sweep::keep(current, clients, seen.clone())).abort_handle();
        Self { office, on: AtomicBool::new(false), seen, observer, task }
    }

    /// The office of a policy. What the new one has in common with the old one stays: counts of limits, the token for Logto.
    pub fn prepare(&self, policy: &Policy) -> Result<Option<Arc<Office>>, String> {
        let known = self.office();
        Office::of(policy, known.as_ref(), &self.observer)
    }

    pub fn adopt(&self, office: Option<Arc<Office>>) {
        self.on.store(office.is_some(), Ordering::Relaxed);
        self.office.send_if_modified(|known| {
            let same = match (&known, &office) {
                (Some(known), Some(office)) => Arc::ptr_eq(known, office),
                (known, office) => known.is_none() && office.is_none(),
            };
            *known = office;
            !same
        });
    }

    /// `None` while nobody may register.
    pub fn office(&self) -> Option<Arc<Office>> {
        self.office.borrow().clone()
    }

    /// A client came with a good token. On the way of a request, so it only looks and never waits.
    pub fn saw(&self, client_id: &str) {
        if self.on.load(Ordering::Relaxed) && mark::may_be_id(client_id) {
            self.seen.note(client_id, clock::unix_now());
        }
    }
}

/// Clients that were seen, and those whose mark is to be written.
pub(crate) struct Seen {
    clients: Cache<String, UnixSeconds>,
    waiting: mpsc::Sender<String>,
}

impl Seen {
    fn note(&self, client_id: &str, now: UnixSeconds) {
        let fresh = self.clients.get(client_id).is_some_and(|seen| now - seen < SEEN_EVERY_SECONDS);
        if !fresh && self.waiting.try_send(client_id.to_owned()).is_ok() {
            self.clients.insert(client_id.to_owned(), now);
        }
    }

    fn knows(&self, client_id: &str) -> bool {
        self.clients.get(client_id).is_some()
    }

    /// It could not be written down.
    fn again(&self, client_id: String, now: UnixSeconds) {
        self.clients.insert(client_id, now - SEEN_EVERY_SECONDS + TRIED_AGAIN_SECONDS);
    }
}
