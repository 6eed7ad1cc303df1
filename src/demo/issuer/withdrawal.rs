//! Taking back: what a user allowed an application, and a user's access as a whole.

use super::{Issuer, State};
use crate::clock;
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
        user.updated_at = clock::unix_now();
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::visitor::{Visitor, WEATHER, call, exchange, refresh, start};
    use super::*;

    const ALL: &[(&str, &str)] = &[("scope", "openid offline_access profile read:weather"), ("prompt", "consent")];

    /// An opaque token of this browser's user for an application, and the refresh token beside it.
    async fn tokens(issuer: &Issuer, visitor: &mut Visitor, client_id: &str, user: &str) -> Value {
        let code = visitor.code(client_id, user, ALL).await;
        exchange(issuer, client_id, &code, &[("resource", "")]).await.1
    }

    async fn is_active(issuer: &Issuer, tokens: &Value) -> bool {
        let form = [("token", tokens["access_token"].as_str().unwrap())];
        call(issuer, "/token/introspection", "cron", &form).await.1["active"] == true
    }

    #[tokio::test]
    async fn a_withdrawal_ends_every_sessions_grant_of_that_user_and_application_alone() {
        let issuer = start().await;
        let (mut alice, mut elsewhere, mut bob) = (Visitor::of(&issuer), Visitor::of(&issuer), Visitor::of(&issuer));
        let first = tokens(&issuer, &mut alice, "weatherbot", "alice").await;
        let second = tokens(&issuer, &mut elsewhere, "weatherbot", "alice").await;
        let others = [
            ("official", tokens(&issuer, &mut alice, "official", "alice").await),
            ("weatherbot", tokens(&issuer, &mut bob, "weatherbot", "bob").await),
        ];
        let code = alice.authorize("weatherbot", &[("scope", "openid read:weather")]).await.answer("code").unwrap();
        assert_eq!(issuer.withdraw("alice", "weatherbot"), 2);
        assert_eq!(issuer.withdraw("alice", "weatherbot"), 0);
        for tokens in [first, second] {
            assert!(!is_active(&issuer, &tokens).await);
            let (status, answer) = refresh(&issuer, "weatherbot", &tokens["refresh_token"], &[]).await;
            // Fixture 06-grants-webhooks/08-refresh-after-grant-revoked.
            let expected = json!({
                "code": "oidc.invalid_grant",
                "message": "Grant request is invalid.",
                "error_uri": "https://openid.sh/debug/invalid_grant",
                "error": "invalid_grant",
                "error_description": "grant request is invalid",
            });
            assert_eq!((status, answer), (400, expected));
        }
        // A code from before is worth nothing either.
        assert_eq!(exchange(&issuer, "weatherbot", &code, &[]).await.1["error"], "invalid_grant");
        for (client, tokens) in others {
            assert!(is_active(&issuer, &tokens).await);
            assert_eq!(refresh(&issuer, client, &tokens["refresh_token"], &[]).await.0, 200);
        }
        // Alice is asked again.
        assert!(alice.authorize("weatherbot", &[]).await.location().starts_with("/consent"));
    }

    #[tokio::test]
    async fn what_a_suspension_ends_does_not_come_back() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let tokens = tokens(&issuer, &mut alice, "weatherbot", "alice").await;
        let code = alice.authorize("official", &[]).await.answer("code").unwrap();
        assert!(issuer.suspend("alice", true) && !issuer.suspend("nobody", true));
        assert!(!is_active(&issuer, &tokens).await);
        assert_eq!(refresh(&issuer, "weatherbot", &tokens["refresh_token"], &[("resource", WEATHER)]).await.1["error"], "invalid_grant");
        issuer.suspend("alice", false);
        assert!(!is_active(&issuer, &tokens).await);
        assert_eq!(refresh(&issuer, "weatherbot", &tokens["refresh_token"], &[]).await.0, 400);
        assert_eq!(exchange(&issuer, "official", &code, &[]).await.0, 400);
        assert!(alice.authorize("official", &[]).await.location().starts_with("/sign-in"));
        assert!(!issuer.0.state.grants().of_user("alice").is_empty());
    }

    #[tokio::test]
    async fn a_user_suspended_by_another_way_has_nothing_meanwhile() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let tokens = tokens(&issuer, &mut alice, "weatherbot", "alice").await;
        issuer.0.state.tenant().users[0].suspended = true;
        assert!(!is_active(&issuer, &tokens).await);
        assert_eq!(refresh(&issuer, "weatherbot", &tokens["refresh_token"], &[]).await.0, 400);
        assert!(alice.authorize("official", &[]).await.location().starts_with("/sign-in"));
        issuer.0.state.tenant().users.remove(0);
        assert!(!is_active(&issuer, &tokens).await);
        assert!(alice.authorize("official", &[]).await.location().starts_with("/sign-in"));
    }
}
