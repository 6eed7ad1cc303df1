//! What is revoked, as it comes and goes: kept in memory where deciding looks, shared with other instances where there is
//! a shared state, and told to whoever holds a stream open.
//!
//! **Invariant:** what was taken is in force here before anybody is told that it was, whatever becomes of sharing it.

mod carried;
mod sharing;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::access::{Full, Revocation, Revoked, RevokedBy, Revokes};
use crate::clock::{self, UnixSeconds};
use crate::policy::{Policy, REVOKED_LIFT_WINDOW_MS};
use crate::state::{Away, Shared};
pub use carried::{Carried, Told};

/// What came of one that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// As it stands now; it may have been there in part.
    pub revocation: Revocation,
    /// Whether the other instances will hear of it now: `None` where there is nothing to share with. If they will not,
    /// they do as soon as the shared state is there.
    pub shared: Option<bool>,
}

/// All of a gate's.
#[derive(Debug)]
pub struct Revocations {
    revoked: Arc<Revoked>,
    token_life: AtomicI64,
    entries: AtomicUsize,
    /// Counted up with each that is new or lifted: streams look again.
    changes: watch::Sender<u64>,
    shared: Mutex<Option<(Arc<Shared>, AbortHandle)>>,
    /// Users whose suspension ended a moment ago, by when, in milliseconds: a word from before comes too late.
    lifted: Mutex<HashMap<String, i64>>,
    /// Signatures of webhooks that were taken, and until when one could be shown again.
    seen: Mutex<HashMap<[u8; 32], UnixSeconds>>,
    /// Names of those that other instances were not told of.
    untold: Mutex<HashSet<String>>,
}

impl Revocations {
    pub fn new(policy: &Policy) -> Self {
        Self {
            revoked: Arc::default(),
            token_life: AtomicI64::new(policy.revocations.token_life),
            entries: AtomicUsize::new(policy.revocations.entries),
            changes: watch::Sender::new(0),
            shared: Mutex::default(),
            lifted: Mutex::default(),
            seen: Mutex::default(),
            untold: Mutex::default(),
        }
    }

    /// Takes over a new policy and the shared state that goes with it. What is revoked stays.
    pub fn adopt(self: &Arc<Self>, policy: &Policy, shared: Option<&Arc<Shared>>) {
        self.token_life.store(policy.revocations.token_life, Ordering::Relaxed);
        self.entries.store(policy.revocations.entries, Ordering::Relaxed);
        let mut current = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().map(|(shared, _)| Arc::as_ptr(shared)) == shared.map(Arc::as_ptr) {
            return;
        }
        if let Some((_, task)) = current.take() {
            task.abort();
        }
        *current = shared.map(|shared| {
            let following = sharing::follow(Arc::downgrade(self), shared.clone());
            (shared.clone(), tokio::spawn(following).abort_handle())
        });
    }

    /// Where deciding looks.
    pub fn revoked(&self) -> Arc<Revoked> {
        self.revoked.clone()
    }

    /// For who holds a stream open.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Seconds that one is kept, at most and by default.
    pub fn token_life(&self) -> i64 {
        self.token_life.load(Ordering::Relaxed)
    }

    pub fn list(&self) -> Vec<Revocation> {
        self.revoked.list(clock::unix_now())
    }

    /// Takes one: it is in force when this returns.
    pub async fn put(&self, revocation: Revocation) -> Result<Taken, Full> {
        self.keep(revocation.clone())?;
        let Some(shared) = self.shared() else { return Ok(Taken { revocation, shared: None }) };
        let told = sharing::tell(&shared, &revocation).await.is_ok();
        if !told {
            self.untold().insert(revocation.id());
        }
        Ok(Taken { revocation, shared: Some(told) })
    }

    /// Lifts one. Where instances share, not without them: what one of them kept would come back to all.
    pub async fn lift(&self, id: &str) -> Result<Option<Revocation>, Away> {
        // What this gate says of it may come back to it before the saying is done, so that it is looked for now.
        let held = self.list().into_iter().find(|revocation| revocation.id() == id);
        if let Some(shared) = self.shared() {
            sharing::tell_lifted(&shared, id, self.token_life()).await?;
        }
        Ok(self.drop_one(id).or(held))
    }

    /// A user's suspension by Logto's word of this time, in milliseconds. Tokens that are issued later do not count
    /// either: one may be on its way.
    pub async fn suspend(&self, issuer: Option<&str>, subject: &str, at_ms: i64) -> Result<(), Full> {
        if self.lifted_at(subject).is_some_and(|lifted| at_ms < lifted) {
            return Ok(());
        }
        self.put(self.of_webhook(issuer, subject, at_ms / 1000)).await.map(drop)
    }

    /// The end of a suspension.
    pub async fn unsuspend(&self, issuer: Option<&str>, subject: &str, at_ms: i64) -> Result<(), Away> {
        let like = self.of_webhook(issuer, subject, 0);
        let held = self.revoked.same(&like);
        self.note_lifted(subject, at_ms);
        // A suspension that is younger stays.
        if held.is_some_and(|held| held.revoked_at > at_ms.div_euclid(1000)) {
            return Ok(());
        }
        self.lift(&like.id()).await.map(drop)
    }

    /// Whether a webhook of this signature was taken. Only who knows the key can make one, so that they are few.
    pub fn has_seen(&self, signature: &[u8; 32]) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).contains_key(signature)
    }

    pub fn note_seen(&self, signature: [u8; 32]) {
        let now = clock::unix_now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, until| now < *until);
        seen.insert(signature, now.saturating_add(REVOKED_LIFT_WINDOW_MS / 1000));
    }

    fn of_webhook(&self, issuer: Option<&str>, subject: &str, revoked_at: UnixSeconds) -> Revocation {
        Revocation {
            revokes: Revokes::Subject(subject.to_owned()),
            by: RevokedBy::Webhook,
            issuer: issuer.map(str::to_owned),
            revoked_at,
            later_too: true,
            expires_at: clock::unix_now().saturating_add(self.token_life()),
        }
    }

    fn lifted_at(&self, subject: &str) -> Option<i64> {
        self.lifted.lock().unwrap_or_else(PoisonError::into_inner).get(subject).copied()
    }

    fn note_lifted(&self, subject: &str, at_ms: i64) {
        let mut lifted = self.lifted.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = clock::unix_now().saturating_mul(1000);
        lifted.retain(|_, at| now_ms - *at < REVOKED_LIFT_WINDOW_MS);
        let at = lifted.entry(subject.to_owned()).or_insert(at_ms);
        *at = (*at).max(at_ms);
    }

    fn keep(&self, revocation: Revocation) -> Result<(), Full> {
        let changed = self.revoked.put(revocation, clock::unix_now(), self.entries.load(Ordering::Relaxed))?;
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    fn drop_one(&self, id: &str) -> Option<Revocation> {
        self.note_told(id);
        let lifted = self.revoked.lift(id);
        if lifted.is_some() {
            self.changes.send_modify(|count| *count += 1);
        }
        lifted
    }

    fn untold(&self) -> MutexGuard<'_, HashSet<String>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_untold(&self, id: &str) -> bool {
        self.untold().contains(id)
    }

    fn forget_expired(&self) {
        let ids: HashSet<String> = self.list().iter().map(Revocation::id).collect();
        self.untold().retain(|id| ids.contains(id));
    }

    fn note_told(&self, id: &str) {
        self.untold().remove(id);
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(shared, _)| shared.clone())
    }
}

impl Drop for Revocations {
    fn drop(&mut self) {
        if let Some((_, task)) = self.shared.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}
