//! Taking back: what a user allowed an application, and a user's access as a whole.

use super::{Issuer, State};
use crate::demo::event::event;

impl Issuer {
    /// Ends all that this user allowed this application, and says how many grants that were: there is one for each
    /// session. Its opaque and refresh tokens die with them; a JWT works until it expires, since nobody asks for it here.
    pub fn withdraw(&self, subject: &str, client_id: &str) -> usize {
        self.0.state.withdraw(subject, client_id)
    }

    /// Whether there is such a user.
    pub fn suspend(&self, subject: &str, suspended: bool) -> bool {
        self.0.state.suspend(subject, suspended)
    }
}

impl State {
    pub fn withdraw(&self, subject: &str, client_id: &str) -> usize {
        let revoked = self.grants().revoke_all(subject, client_id);
        let (user, client) = self.names(subject, client_id);
        let reason = format!("{revoked} grants; a JWT that is out already works until it expires");
        event(&user, &format!("takes back what {client} was allowed"), "revoked", &reason);
        revoked
    }

    /// A suspended user's sessions, codes and tokens end, and do not come back when the suspension is lifted. Grants stay
    /// in the list, as in Logto.
    pub fn suspend(&self, subject: &str, suspended: bool) -> bool {
        let mut tenant = self.tenant();
        let Some(user) = tenant.users.iter_mut().find(|user| user.id == subject) else { return false };
        user.suspended = suspended;
        let name = user.name.clone();
        drop(tenant);
        if suspended {
            self.sessions().retain(|_, session| session.subject != subject);
            self.codes().retain(|_, code| code.subject() != subject);
            let mut tokens = self.tokens();
            tokens.opaque.retain(|_, opaque| opaque.subject != subject);
            tokens.refresh.retain(|_, refresh| refresh.authorization.subject != subject);
            drop(tokens);
        }
        let what = if suspended { "is suspended" } else { "is no longer suspended" };
        event(&name, what, "done", "sessions and tokens that ended stay ended; a JWT works until it expires");
        true
    }

    /// For people: the names behind the ids.
    fn names(&self, subject: &str, client_id: &str) -> (String, String) {
        let tenant = self.tenant();
        let user = tenant.user(subject).map_or(subject, |user| &user.name).to_owned();
        let client = tenant.application(client_id).map_or(client_id, |client| &client.name).to_owned();
        (user, client)
    }
}
