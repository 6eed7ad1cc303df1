//! Step 7 goes on. Tokens that count no more although they verify: those of a user, an app, a user's grant to an app, or
//! one alone. Bounded by count; an entry leaves when it has expired or is lifted, and never to make room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::claims::Claims;
use super::denial::Denial;
use crate::clock::UnixSeconds;

/// Whose tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revokes {
    Subject(String),
    Client(String),
    /// A user's to an app, whatever the session.
    Grant {
        subject: String,
        client: String,
    },
    /// By `jti`.
    Token(String),
}

impl Revokes {
    fn label(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Client(_) => "client",
            Self::Grant { .. } => "grant",
            Self::Token(_) => "token",
        }
    }
}

/// Who said so. What one of them lifts does not lift what the other said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokedBy {
    Operator,
    Webhook,
}

/// One revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    pub revokes: Revokes,
    pub by: RevokedBy,
    /// Of this issuer alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Tokens that were issued then or before.
    pub revoked_at: UnixSeconds,
    /// Tokens that are issued later, too.
    pub later_too: bool,
    pub expires_at: UnixSeconds,
}

impl Revocation {
    /// Names what it revokes, whose word it is and of which issuer: another of the same name takes its place.
    pub fn id(&self) -> String {
        let name = serde_json::to_string(&(&self.revokes, self.by, &self.issuer)).unwrap_or_default();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
        digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// What it is found by.
    fn key(&self) -> &str {
        match &self.revokes {
            Revokes::Subject(key) | Revokes::Client(key) | Revokes::Token(key) => key,
            Revokes::Grant { subject, .. } => subject,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.revokes == other.revokes && self.by == other.by && self.issuer == other.issuer
    }

    fn covers(&self, claims: &Claims, now: UnixSeconds) -> bool {
        let named = match &self.revokes {
            Revokes::Subject(_) | Revokes::Client(_) | Revokes::Token(_) => true,
            Revokes::Grant { client, .. } => claims.client_id.as_deref() == Some(client),
        };
        // A token that does not say when it was issued may be any.
        let issued = self.later_too || claims.issued_at.is_none_or(|issued| issued <= self.revoked_at);
        named && issued && now < self.expires_at && self.issuer.as_ref().is_none_or(|issuer| *issuer == claims.issuer)
    }
}

/// As many as there may be, and none of them has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// By what a token says of itself.
#[derive(Debug, Default)]
struct Tables {
    subjects: HashMap<String, Vec<Revocation>>,
    clients: HashMap<String, Vec<Revocation>>,
    tokens: HashMap<String, Vec<Revocation>>,
}

impl Tables {
    fn of(&mut self, revokes: &Revokes) -> &mut HashMap<String, Vec<Revocation>> {
        match revokes {
            Revokes::Subject(_) | Revokes::Grant { .. } => &mut self.subjects,
            Revokes::Client(_) => &mut self.clients,
            Revokes::Token(_) => &mut self.tokens,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Revocation> {
        [&self.subjects, &self.clients, &self.tokens].into_iter().flat_map(HashMap::values).flatten()
    }

    fn retain(&mut self, keep: impl Fn(&Revocation) -> bool) {
        for table in [&mut self.subjects, &mut self.clients, &mut self.tokens] {
            table.retain(|_, entries| {
                entries.retain(&keep);
                !entries.is_empty()
            });
        }
    }
}

/// All that is revoked. Reading costs next to nothing while it is empty.
#[derive(Debug, Default)]
pub struct Revoked {
    tables: RwLock<Tables>,
    count: AtomicUsize,
}

impl Revoked {
    /// Whether a token still counts.
    pub fn check(&self, claims: &Claims, now: UnixSeconds) -> Result<(), Denial> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let tables = self.read();
        let hit = |table: &HashMap<String, Vec<Revocation>>, key: Option<&str>| {
            let entries = table.get(key?)?;
            entries.iter().find(|entry| entry.covers(claims, now)).map(|entry| entry.revokes.label())
        };
        let by = hit(&tables.subjects, Some(&claims.subject))
            .or_else(|| hit(&tables.clients, claims.client_id.as_deref()))
            .or_else(|| hit(&tables.tokens, claims.all.get("jti").and_then(Value::as_str)));
        match by {
            Some(by) => Err(Denial::TokenRevoked { by }),
            None => Ok(()),
        }
    }

    /// Adds one, or widens the one of the same name; whether anything changed. A revocation is never narrowed by another.
    pub fn put(&self, new: Revocation, now: UnixSeconds, count_max: usize) -> Result<bool, Full> {
        if new.expires_at <= now {
            return Ok(false);
        }
        let mut tables = self.write();
        let known = tables.of(&new.revokes).get_mut(new.key()).and_then(|entries| entries.iter_mut().find(|entry| entry.is_same(&new)));
        if let Some(known) = known {
            let before = known.clone();
            known.revoked_at = known.revoked_at.max(new.revoked_at);
            known.expires_at = known.expires_at.max(new.expires_at);
            known.later_too |= new.later_too;
            return Ok(*known != before);
        }
        let mut count = self.count.load(Ordering::Acquire);
        if count >= count_max {
            tables.retain(|entry| now < entry.expires_at);
            count = tables.all().count();
            self.count.store(count, Ordering::Release);
        }
        if count >= count_max {
            return Err(Full);
        }
        let key = new.key().to_owned();
        tables.of(&new.revokes).entry(key).or_default().push(new);
        self.count.store(count + 1, Ordering::Release);
        Ok(true)
    }

    /// The one that is there of this name.
    pub fn same(&self, like: &Revocation) -> Option<Revocation> {
        self.write().of(&like.revokes).get(like.key())?.iter().find(|entry| entry.is_same(like)).cloned()
    }

    /// Takes one away.
    pub fn lift(&self, id: &str) -> Option<Revocation> {
        let found = self.read().all().find(|entry| entry.id() == id).cloned()?;
        let mut tables = self.write();
        tables.retain(|entry| !entry.is_same(&found));
        self.count.store(tables.all().count(), Ordering::Release);
        Some(found)
    }

    /// Those in force, the newest first.
    pub fn list(&self, now: UnixSeconds) -> Vec<Revocation> {
        let mut list: Vec<Revocation> = self.read().all().filter(|entry| now < entry.expires_at).cloned().collect();
        list.sort_by(|a, b| (b.revoked_at, &a.revokes).cmp(&(a.revoked_at, &b.revokes)));
        list
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: UnixSeconds = 1_700_000_000;

    fn claims(changes: Value) -> Claims {
        let mut all =
            json!({ "iss": "https://i", "sub": "alice", "client_id": "bot", "jti": "t1", "aud": "a", "exp": NOW + 60, "iat": NOW - 10 });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
                value => all[name] = value.clone(),
            }
        }
        Claims::parse(all.as_object().unwrap().clone()).unwrap()
    }

    fn entry(revokes: Revokes) -> Revocation {
        Revocation { revokes, by: RevokedBy::Operator, issuer: None, revoked_at: NOW, later_too: false, expires_at: NOW + 100 }
    }

    fn grant(subject: &str, client: &str) -> Revokes {
        Revokes::Grant { subject: subject.to_owned(), client: client.to_owned() }
    }

    #[test]
    fn a_revocation_ends_the_tokens_that_it_names_and_no_others() {
        let none = json!({});
        let table = [
            (entry(Revokes::Subject("alice".to_owned())), none.clone(), true),
            (entry(Revokes::Subject("alice".to_owned())), json!({ "sub": "bob" }), false),
            (entry(Revokes::Subject("alice".to_owned())), json!({ "iat": NOW }), true),
            (entry(Revokes::Subject("alice".to_owned())), json!({ "iat": NOW + 1 }), false),
            (entry(Revokes::Subject("alice".to_owned())), json!({ "iat": null }), true),
            (Revocation { later_too: true, ..entry(Revokes::Subject("alice".to_owned())) }, json!({ "iat": NOW + 1 }), true),
            (Revocation { expires_at: NOW + 1, ..entry(Revokes::Subject("alice".to_owned())) }, none.clone(), true),
            (Revocation { issuer: Some("https://i".to_owned()), ..entry(Revokes::Subject("alice".to_owned())) }, none.clone(), true),
            (Revocation { issuer: Some("https://j".to_owned()), ..entry(Revokes::Subject("alice".to_owned())) }, none.clone(), false),
            (entry(Revokes::Client("bot".to_owned())), none.clone(), true),
            (entry(Revokes::Client("alice".to_owned())), none.clone(), false),
            (entry(Revokes::Client("bot".to_owned())), json!({ "client_id": null }), false),
            (entry(grant("alice", "bot")), none.clone(), true),
            (entry(grant("alice", "other")), none.clone(), false),
            (entry(grant("bob", "bot")), none.clone(), false),
            (entry(Revokes::Token("t1".to_owned())), none.clone(), true),
            (entry(Revokes::Token("t1".to_owned())), json!({ "jti": "t2" }), false),
            (entry(Revokes::Token("alice".to_owned())), none, false),
        ];
        for (entry, changes, refused) in table {
            let revoked = Revoked::default();
            assert_eq!(revoked.put(entry.clone(), NOW, 10), Ok(true));
            assert_eq!(revoked.check(&claims(changes.clone()), NOW).is_err(), refused, "{entry:?} {changes}");
        }
        let revoked = Revoked::default();
        revoked.put(entry(Revokes::Token("t1".to_owned())), NOW, 10).unwrap();
        assert_eq!(revoked.check(&claims(json!({})), NOW + 99), Err(Denial::TokenRevoked { by: "token" }));
        assert_eq!(revoked.check(&claims(json!({})), NOW + 100), Ok(()), "expired");
    }

    #[test]
    fn when_there_is_no_room_one_is_refused_and_none_forgotten() {
        let revoked = Revoked::default();
        let subject = |i: usize| entry(Revokes::Subject(format!("user{i}")));
        for i in 0..10 {
            assert_eq!(revoked.put(subject(i), NOW, 10), Ok(true));
        }
        assert_eq!(revoked.put(subject(10), NOW, 10), Err(Full));
        assert_eq!(revoked.put(subject(3), NOW, 10), Ok(false), "known already");
        assert_eq!(revoked.put(Revocation { expires_at: NOW + 200, ..subject(3) }, NOW, 10), Ok(true), "widened");
        assert_eq!(revoked.list(NOW).len(), 10);
        // Those that have expired make room.
        assert_eq!(revoked.put(Revocation { expires_at: NOW + 300, ..subject(10) }, NOW + 100, 10), Ok(true));
        assert_eq!(revoked.len(), 2);
        assert_eq!(revoked.put(subject(11), NOW + 100, 10), Ok(false), "expired before it came");
    }

    #[test]
    fn one_is_lifted_by_its_name_and_another_ones_word_stays() {
        let revoked = Revoked::default();
        let operators = entry(Revokes::Subject("alice".to_owned()));
        let webhooks = Revocation { by: RevokedBy::Webhook, later_too: true, ..operators.clone() };
        revoked.put(operators.clone(), NOW, 10).unwrap();
        revoked.put(webhooks.clone(), NOW, 10).unwrap();
        assert_ne!(operators.id(), webhooks.id());
        assert_eq!(revoked.lift(&webhooks.id()), Some(webhooks.clone()));
        assert_eq!(revoked.lift(&webhooks.id()), None);
        assert!(revoked.check(&claims(json!({})), NOW).is_err() && revoked.check(&claims(json!({ "iat": NOW + 1 })), NOW).is_ok());
        revoked.lift(&operators.id());
        assert!(revoked.is_empty() && revoked.check(&claims(json!({})), NOW).is_ok());
    }
}
