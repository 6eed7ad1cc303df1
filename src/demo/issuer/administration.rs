//! What is done to a running issuer by who owns it: its tenant looked at and changed, consent given and taken back.

use std::collections::BTreeMap;
use std::ops::Range;

use super::grants::Grant;
use super::management::ManagementFault;
use super::tenant::{Tenant, new_id};
use super::{Issuer, State};
use crate::clock;

impl Issuer {
    /// These calls of the Management API go wrong in this way: `0..1` is the next one, `2..3` the third from now.
    pub fn misbehave_management(&self, fault: ManagementFault, calls: Range<u32>) {
        self.0.state.management.misbehave(fault, calls);
    }

    /// The last calls of the Management API, the oldest first, as `GET /api/users/ada/grants`.
    pub fn management_calls(&self) -> Vec<String> {
        self.0.state.management.last()
    }

    /// The tenant as it is now.
    pub fn tenant(&self) -> Tenant {
        self.0.state.tenant().clone()
    }

    /// Changes the tenant as its administrator would. Nothing is checked.
    pub fn change<T>(&self, change: impl FnOnce(&mut Tenant) -> T) -> T {
        change(&mut self.0.state.tenant())
    }

    /// What the user allowed applications, whether these are still there or not.
    pub fn grants_of(&self, subject: &str) -> Vec<Grant> {
        self.0.state.grants().of_user(subject)
    }

    /// Allows an application something in a session of its own, as if the user had consented: the id of the grant.
    pub fn allow(&self, subject: &str, client_id: &str, resource: &str, scopes: &[&str]) -> Option<String> {
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        let mut grants = self.0.state.grants();
        let grant = grants.of_session(&new_id(), subject, client_id)?;
        grant.allow(&["openid".to_owned()], &BTreeMap::from([(resource.to_owned(), scopes)]));
        Some(grant.id.clone())
    }

    /// Ends a grant; false if there is none.
    pub fn revoke(&self, grant: &str) -> bool {
        self.0.state.grants().revoke(grant).is_some()
    }
}

impl State {
    /// Takes an application away with all that was granted to it. What hangs on a grant ends with it, so that its
    /// refresh tokens are worth nothing.
    pub fn end_application(&self, id: &str) {
        self.tenant().applications.retain(|application| application.id != id);
        self.grants().end_application(id);
    }

    /// Takes a user away; false if there is none. The grants stay, as in Logto.
    pub fn end_user(&self, id: &str) -> bool {
        let mut tenant = self.tenant();
        let before = tenant.users.len();
        tenant.users.retain(|user| user.id != id);
        tenant.users.len() < before
    }

    /// Keeps a user out, or lets them in again; false if there is none. The grants stay, as in Logto.
    pub fn suspend(&self, subject: &str, suspended: bool) -> bool {
        let mut tenant = self.tenant();
        let Some(user) = tenant.users.iter_mut().find(|user| user.id == subject) else { return false };
        user.suspended = suspended;
        user.updated_at = clock::unix_now();
        true
    }
}
