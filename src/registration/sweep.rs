//! The task that looks after registered apps: it writes down which are used, finishes off those that are half made, and
//! takes away those that were never used.
//!
//! Every replica has one. They do not know of one another: each looks at an app once more before it takes it away, and what
//! is gone already is as wanted.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::audit::{self, Entry, Happened};
use super::office::Office;
use super::{SEEN_EVERY_SECONDS, Seen, mark};
use crate::clock::{self, UnixSeconds};
use crate::logto::{Application, LogtoError};

/// After a start or a change; up to twice that, so that replicas do not all look at once.
const FIRST: Duration = Duration::from_secs(1);
/// Between two looks, give or take a tenth.
const EVERY: Duration = Duration::from_secs(3600);
/// After a look that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// An app that is pending for so long belongs to nobody: whoever asked for it was told that it failed.
const PENDING_SECONDS_MAX: UnixSeconds = 600;

/// Runs for as long as the registrar lives.
pub async fn keep(mut office: watch::Receiver<Option<Arc<Office>>>, mut clients: mpsc::Receiver<String>, seen: Arc<Seen>) {
    let after = |wait: Duration, share: f64| Instant::from_std(clock::instant_now() + wait.mul_f64(share));
    let mut next = after(FIRST, 1.0 + share());
    loop {
        let current = office.borrow_and_update().clone();
        tokio::select! {
            changed = office.changed() => match changed {
                Ok(()) => next = next.min(after(FIRST, 1.0 + share())),
                Err(_) => return,
            },
            client = clients.recv() => match (client, &current) {
                (Some(client), Some(office)) => office.mark_used(client, &seen).await,
                (Some(_), None) => {}
                (None, _) => return,
            },
            () = sleep_until(next), if current.is_some() => {
                let done = match &current {
                    Some(office) => office.sweep(&seen).await,
                    None => Ok(()),
                };
                next = match done {
                    Ok(()) => after(EVERY, 0.9 + share() / 5.0),
                    Err(error) => {
                        tracing::warn!(target: "wicketgate::registration", %error, "registered apps could not be looked at");
                        after(AFTER_FAILURE, 1.0 + share())
                    }
                };
            }
        }
    }
}

/// Between 0 and 1.
fn share() -> f64 {
    (RandomState::new().hash_one(0u8) % 1001) as f64 / 1000.0
}

impl Office {
    /// Looks at all apps that were registered here.
    pub(super) async fn sweep(&self, seen: &Seen) -> Result<(), LogtoError> {
        let applications = self.api.third_party_applications().await?;
        let ours: Vec<&Application> = applications.iter().filter(|known| mark::registered_at(known).is_some()).collect();
        let mut left = ours.len();
        for application in ours {
            if self.is_due(application, seen).is_none() {
                continue;
            }
            // The list may be old by now.
            let Some(again) = self.api.application(&application.id).await? else {
                left -= 1;
                continue;
            };
            if let Some(happened) = self.is_due(&again, seen) {
                self.take_away(&again, happened).await;
                left -= 1;
            }
        }
        self.metrics.apps.set(i64::try_from(left).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Why an app should go, if it should.
    fn is_due(&self, application: &Application, seen: &Seen) -> Option<Happened> {
        let age = clock::unix_now() - mark::registered_at(application)?;
        let expiry = i64::try_from(self.settings.expire_unused_after.as_secs()).unwrap_or(i64::MAX);
        if mark::is_pending(application) {
            return (age > PENDING_SECONDS_MAX).then_some(Happened::Abandoned);
        }
        let unused = mark::used_at(application).is_none() && !seen.knows(&application.id);
        (unused && age > expiry).then_some(Happened::Expired)
    }

    /// Deletes an app that was registered here, and no other.
    pub(super) async fn take_away(&self, application: &Application, happened: Happened) {
        if mark::registered_at(application).is_none() {
            return;
        }
        if let Err(error) = self.api.delete_application(&application.id).await {
            tracing::warn!(target: "wicketgate::registration", client_id = application.id, %error, "an app that should go could not be deleted; it is tried again later");
            return;
        }
        self.metrics.changes.with_label_values(&[happened.label()]).inc();
        let entry = Entry {
            client_id: &application.id,
            name: &application.name,
            redirect_uris: &application.oidc_client_metadata.redirect_uris,
            scope: "",
            address: None,
            request_id: None,
        };
        audit::write(&self.observer.audit, happened, &entry);
    }

    /// Writes down that a client is used, if it is one that was registered here.
    async fn mark_used(&self, client_id: String, seen: &Seen) {
        let now = clock::unix_now();
        if let Err(error) = self.try_mark_used(&client_id, now).await {
            tracing::debug!(target: "wicketgate::registration", client_id, %error, "it could not be written down that a client is used");
            seen.again(client_id, now);
        }
    }

    async fn try_mark_used(&self, client_id: &str, now: UnixSeconds) -> Result<(), LogtoError> {
        let Some(application) = self.api.application(client_id).await? else { return Ok(()) };
        let fresh = mark::used_at(&application).is_some_and(|used| now - used < SEEN_EVERY_SECONDS);
        if mark::registered_at(&application).is_none() || fresh {
            return Ok(());
        }
        self.api.set_custom_data(client_id, &application.marked(mark::used(now))).await.map(drop)
    }
}
