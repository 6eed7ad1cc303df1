//! What is revoked, on its way to another process of the same gate: whole at first, and then what changed.

use std::collections::HashMap;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::Revocations;
use crate::access::Revocation;
use crate::clock::{self, UnixSeconds};

/// Revocations in one piece: with the longest names it is far below the longest message.
const PIECE_ENTRIES: usize = 64;

/// A piece of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Carried {
    pub revocations: Vec<Revocation>,
    /// Names of those that the shared state was not told of.
    pub untold: Vec<String>,
    /// Names of those that were lifted.
    pub lifted: Vec<String>,
    /// Users whose suspension ended a moment ago, by when, in milliseconds.
    pub unsuspended: Vec<(String, i64)>,
    /// Signatures of webhooks that were taken, in hexadecimal digits, and until when one could be shown again.
    pub webhooks: Vec<(String, UnixSeconds)>,
}

/// What the other process is known to know.
#[derive(Debug, Default)]
pub struct Told {
    revocations: HashMap<String, Revocation>,
    unsuspended: HashMap<String, i64>,
    webhooks: HashMap<String, UnixSeconds>,
}

impl Revocations {
    /// What the other process does not know yet, in pieces; it counts as told from here on.
    pub fn untold_to(&self, told: &mut Told) -> Vec<Carried> {
        let now = clock::unix_now();
        let mine: HashMap<String, Revocation> = self.list().into_iter().map(|revocation| (revocation.id(), revocation)).collect();
        let is_gone = |(id, known): &(&String, &Revocation)| !mine.contains_key(*id) && now < known.expires_at;
        let lifted: Vec<String> = told.revocations.iter().filter(is_gone).map(|(id, _)| id.clone()).collect();
        let new: Vec<Revocation> =
            mine.iter().filter(|(id, revocation)| told.revocations.get(*id) != Some(revocation)).map(|(_, new)| new.clone()).collect();
        let unsuspended = news(&mut told.unsuspended, &self.lifted.lock().unwrap_or_else(PoisonError::into_inner));
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let webhooks = news(&mut told.webhooks, &seen.iter().map(|(signature, until)| (hex(signature), *until)).collect());
        drop(seen);
        told.revocations = mine;
        let mut pieces = Vec::new();
        if !(lifted.is_empty() && unsuspended.is_empty() && webhooks.is_empty()) {
            pieces.push(Carried { lifted, unsuspended, webhooks, ..Carried::default() });
        }
        for part in new.chunks(PIECE_ENTRIES) {
            let untold = part.iter().map(Revocation::id).filter(|id| self.is_untold(id)).collect();
            pieces.push(Carried { revocations: part.to_vec(), untold, ..Carried::default() });
        }
        pieces
    }

    /// Takes what another process knew, however many there are: none is forgotten for want of room.
    pub fn take_carried(&self, piece: Carried, told: &mut Told) {
        let Carried { revocations, untold, lifted, unsuspended, webhooks } = piece;
        for id in lifted {
            told.revocations.remove(&id);
            self.drop_one(&id);
        }
        for revocation in revocations {
            let id = revocation.id();
            if untold.contains(&id) && self.shared().is_some() {
                self.untold().insert(id.clone());
            }
            told.revocations.insert(id, revocation.clone());
            self.keep_beyond_room(revocation);
        }
        for (subject, at) in unsuspended {
            self.note_lifted(&subject, at);
            told.unsuspended.insert(subject, at);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (signature, until) in webhooks {
            if let Some(bytes) = unhex(&signature) {
                seen.insert(bytes, until);
            }
            told.webhooks.insert(signature, until);
        }
    }

    fn keep_beyond_room(&self, revocation: Revocation) {
        if self.revoked.put(revocation, clock::unix_now(), usize::MAX) == Ok(true) {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

/// What of these is not told, or not so; it counts as told from here on.
fn news<V: Copy + PartialEq>(told: &mut HashMap<String, V>, mine: &HashMap<String, V>) -> Vec<(String, V)> {
    let new = mine.iter().filter(|(key, value)| told.get(*key) != Some(value)).map(|(key, value)| (key.clone(), *value)).collect();
    *told = mine.clone();
    new
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}
