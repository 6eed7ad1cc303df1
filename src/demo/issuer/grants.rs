//! What users allowed applications: a grant a sign-in session and application, as Logto keeps them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::tenant::new_id;
use crate::clock;
use crate::demo::kept::Kept;

/// 180 days, as in Logto.
const LIFETIME: Duration = Duration::from_secs(180 * 24 * 3600);
const GRANTS_MAX: usize = 10_000;

#[derive(Debug, Clone)]
pub struct Grant {
    pub id: String,
    /// The session in which the user signed in.
    pub session: String,
    pub subject: String,
    pub client_id: String,
    /// `openid`, `profile` and their like.
    pub openid_scopes: Vec<String>,
    /// By resource indicator.
    pub resource_scopes: BTreeMap<String, Vec<String>>,
    pub issued_at: i64,
    pub expires_at: i64,
}

/// All grants that are alive.
pub struct Grants(Kept<Grant>);

impl Default for Grants {
    fn default() -> Self {
        Self(Kept::new(LIFETIME, GRANTS_MAX))
    }
}

impl Grants {
    pub fn get(&self, id: &str) -> Option<&Grant> {
        self.0.get(id)
    }

    /// The one of this session and application, or a new one that allows nothing yet.
    pub fn of_session(&mut self, session: &str, subject: &str, client_id: &str) -> Option<&mut Grant> {
        let known = self.0.iter().find(|(_, grant)| grant.session == session && grant.subject == subject && grant.client_id == client_id);
        let id = match known {
            Some((id, _)) => id.to_owned(),
            None => {
                let (id, issued_at) = (new_id(), clock::unix_now());
                let grant = Grant {
                    id: id.clone(),
                    session: session.to_owned(),
                    subject: subject.to_owned(),
                    client_id: client_id.to_owned(),
                    openid_scopes: Vec::new(),
                    resource_scopes: BTreeMap::new(),
                    issued_at,
                    expires_at: issued_at.saturating_add_unsigned(LIFETIME.as_secs()),
                };
                self.0.insert(id.clone(), grant);
                id
            }
        };
        self.0.get_mut(&id)
    }

    pub fn of_user(&self, subject: &str) -> Vec<Grant> {
        let mut grants: Vec<Grant> = self.0.iter().filter(|(_, grant)| grant.subject == subject).map(|(_, grant)| grant.clone()).collect();
        grants.sort_by(|a, b| (a.issued_at, &a.id).cmp(&(b.issued_at, &b.id)));
        grants
    }

    /// Ends all of an application, which is no more.
    pub fn end_application(&mut self, client_id: &str) {
        self.0.retain(|_, grant| grant.client_id != client_id);
    }

    /// Ends one. Refresh and opaque tokens that hang on it work no more; a JWT does until it expires.
    pub fn revoke(&mut self, id: &str) -> Option<Grant> {
        self.0.take(id)
    }
}

impl Grant {
    /// Adds to what is allowed; nothing is listed twice.
    pub fn allow(&mut self, openid_scopes: &[String], resource_scopes: &BTreeMap<String, Vec<String>>) {
        add(&mut self.openid_scopes, openid_scopes);
        for (resource, scopes) in resource_scopes {
            add(self.resource_scopes.entry(resource.clone()).or_default(), scopes);
        }
    }
}

fn add(known: &mut Vec<String>, more: &[String]) {
    for scope in more {
        if !known.contains(scope) {
            known.push(scope.clone());
        }
    }
}
