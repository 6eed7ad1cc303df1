//! Revocations over instances: each is a key with an expiry, and is told to all who listen. Who begins to listen, or had
//! to begin anew, reads all keys, and adds what it took while nobody could be told. What was lifted meanwhile is a key, too,
//! so that nobody brings it back.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::Revocations;
use crate::access::Revocation;
use crate::clock;
use crate::state::{Away, Event, Shared};

const CHANNEL: &str = "revocations";
/// What the names of keys begin with, behind the prefix of all.
const KEYS: &str = "revocation:";
/// Names of those that were lifted, as long as somebody may still have them.
const LIFTED: &str = "lifted:";
/// Between attempts to read what was said while nobody listened.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Put(Revocation),
    Lift(String),
}

/// Keeps one for those who come later, and tells those who are there.
pub async fn tell(shared: &Shared, revocation: &Revocation) -> Result<(), Away> {
    keep(shared, revocation).await?;
    shared.delete(&format!("{LIFTED}{}", revocation.id())).await?;
    publish(shared, &Message::Put(revocation.clone())).await
}

pub async fn tell_lifted(shared: &Shared, id: &str, token_life: i64) -> Result<(), Away> {
    shared.set(&format!("{LIFTED}{id}"), id, Duration::from_secs(token_life.unsigned_abs())).await?;
    shared.delete(&format!("{KEYS}{id}")).await?;
    publish(shared, &Message::Lift(id.to_owned())).await
}

async fn publish(shared: &Shared, message: &Message) -> Result<(), Away> {
    shared.publish(CHANNEL, &serde_json::to_string(message).unwrap_or_default()).await
}

async fn keep(shared: &Shared, revocation: &Revocation) -> Result<(), Away> {
    let left = revocation.expires_at.saturating_sub(clock::unix_now());
    let Ok(left @ 1..) = u64::try_from(left) else { return Ok(()) };
    let text = serde_json::to_string(revocation).unwrap_or_default();
    shared.set(&format!("{KEYS}{}", revocation.id()), &text, Duration::from_secs(left)).await
}

/// Follows what other instances say for as long as it is polled.
pub async fn follow(revocations: Weak<Revocations>, shared: Arc<Shared>) {
    let mut subscription = shared.subscribe(CHANNEL);
    while let Some(event) = subscription.next().await {
        let Some(revocations) = revocations.upgrade() else { return };
        match event {
            Event::Listening => {
                while catch_up(&revocations, &shared).await.is_err() {
                    sleep(PAUSE).await;
                }
            }
            Event::Message(text) => match serde_json::from_str(&text) {
                Ok(Message::Put(revocation)) => take(&revocations, revocation),
                Ok(Message::Lift(id)) => drop(revocations.drop_one(&id)),
                Err(error) => tracing::warn!(target: "wicketgate::revocation", %error, "a message that makes no sense"),
            },
        }
    }
}

async fn catch_up(revocations: &Revocations, shared: &Shared) -> Result<(), Away> {
    let mine = revocations.list();
    let mut known = HashSet::new();
    for text in shared.values(KEYS).await? {
        if let Ok(revocation) = serde_json::from_str::<Revocation>(&text) {
            known.insert(revocation.id());
            take(revocations, revocation);
        }
    }
    let lifted: HashSet<String> = shared.values(LIFTED).await?.into_iter().collect();
    for revocation in &mine {
        let id = revocation.id();
        // One that was taken since the server was lost is younger than what it remembers.
        let untold = revocations.is_untold(&id);
        if lifted.contains(&id) && !known.contains(&id) && !untold {
            revocations.drop_one(&id);
        } else if untold || !known.contains(&id) {
            tell(shared, revocation).await?;
            revocations.note_told(&id);
        }
    }
    revocations.forget_expired();
    Ok(())
}

fn take(revocations: &Revocations, revocation: Revocation) {
    if revocations.keep(revocation).is_err() {
        tracing::error!(target: "wicketgate::revocation", "no room for a revocation of another instance: raise revocations.entries");
    }
}
