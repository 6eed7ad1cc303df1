//! What a registered app does with its own registration (RFC 7592): read it, replace it, end it.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::audit::{self, Entry, Happened};
use super::mark;
use super::office::{Office, away};
use super::register::Caller;
use crate::logto::{Application, ApplicationKind, ConsentedScopes, LogtoError};
use crate::oauth::registration::{AccessToken, AuthMethod, Refusal, Registered, answer, read_change};

impl Office {
    /// RFC 7592 §2.1. The secret is not shown again, and the token stays as it is.
    pub async fn show(&self, caller: &Caller, client_id: &str) -> Result<Vec<u8>, Refusal> {
        let application = self.find(caller, client_id).await?;
        let consented = self.api.consent_scopes(&application.id).await.map_err(|error| away("reading a registration", &error))?;
        Ok(answer(&self.settings, &registered(&application, &consented)))
    }

    /// RFC 7592 §2.2: what is not sent is as if it were registered without it.
    pub async fn replace(self: &Arc<Self>, caller: Caller, client_id: String, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let application = self.find(&caller, &client_id).await?;
        let (wanted, shown) = read_change(&self.settings, &client_id, body)?;
        if wanted.kind != application.kind {
            return Err(Refusal::Metadata(
                "Logto cannot make a public client of a confidential one, or a native one of another; register anew",
            ));
        }
        let failed = |error: LogtoError| away("changing a registration", &error);
        if let Some(shown) = shown {
            let secrets = self.api.application_secrets(&application.id).await.map_err(failed)?;
            let equal = |value: &str| verify_slices_are_equal(value.as_bytes(), shown.as_bytes()).is_ok();
            if !secrets.iter().any(|secret| equal(secret.value.expose())) {
                return Err(Refusal::Metadata("client_secret is not this client's"));
            }
        }
        let office = self.clone();
        // A task of its own: what was begun is brought to its end when the client leaves.
        let changed = tokio::spawn(async move { office.rewrite(application, wanted, &caller).await.map_err(failed) });
        let registered = changed.await.unwrap_or(Err(Refusal::LogtoAway { seconds: 1 }))?;
        Ok(answer(&self.settings, &registered))
    }

    /// First what is taken away, then what the app is, then what it gets: broken off anywhere it has too little, and the
    /// same request makes it whole.
    async fn rewrite(
        &self,
        application: Application,
        mut wanted: crate::oauth::registration::Wanted,
        caller: &Caller,
    ) -> Result<Registered, LogtoError> {
        let id = &application.id;
        let scopes = self.consent_scopes(&mut wanted.granted, false).await?;
        let held = self.api.consent_scopes(id).await?;
        for scope in held.resource_scopes.iter().flat_map(|held| &held.scopes) {
            if !scopes.resource_scopes.contains(&scope.id) {
                self.api.remove_consent_scope(id, &scope.id).await?;
            }
        }
        for scope in held.user_scopes.iter().filter(|scope| !scopes.user_scopes.contains(scope)) {
            self.api.remove_consent_user_scope(id, scope).await?;
        }
        let changed = self.api.replace_application(&application, &wanted.name, &wanted.redirect_uris, &mark::settings(&wanted)).await?;
        self.api.add_consent_scopes(id, &scopes).await?;
        self.note(Happened::Changed, id, &wanted, caller);
        Ok(Registered { scope: wanted.granted.names.join(" "), ..registered(&changed, &ConsentedScopes::default()) })
    }

    /// RFC 7592 §2.3. Logto ends the app's refresh tokens with it; access tokens live until they expire.
    pub async fn end(&self, caller: &Caller, client_id: &str) -> Result<(), Refusal> {
        let application = self.find(caller, client_id).await?;
        self.api.delete_application(&application.id).await.map_err(|error| away("deleting a registration", &error))?;
        self.metrics.changes.with_label_values(&[Happened::Deleted.label()]).inc();
        self.metrics.apps.dec();
        let entry = Entry {
            client_id,
            name: &application.name,
            redirect_uris: &application.oidc_client_metadata.redirect_uris,
            scope: "",
            address: caller.address,
            request_id: Some(&caller.request_id),
        };
        audit::write(&self.observer.audit, Happened::Deleted, &entry);
        Ok(())
    }

    /// The app whose token was shown. An app that is not there, that is another's, or that was not registered here is
    /// refused alike (RFC 7592 §2): nobody learns which there are.
    async fn find(&self, caller: &Caller, client_id: &str) -> Result<Application, Refusal> {
        let token = caller.token.as_deref().ok_or(Refusal::ClientTokenMissing)?;
        if !AccessToken::is_possible(token) || !mark::may_be_id(client_id) {
            return Err(Refusal::ClientTokenWrong);
        }
        self.limits[1].take(caller.address)?;
        let found = self.api.application(client_id).await.map_err(|error| away("looking for a client", &error))?;
        let known = found.as_ref().map_or("", mark::token_hash);
        let right = AccessToken::is_of(known, token);
        let ours = |application: &Application| mark::registered_at(application).is_some() && !mark::is_pending(application);
        found.filter(|application| right && ours(application)).ok_or(Refusal::ClientTokenWrong)
    }
}

fn registered(application: &Application, consented: &ConsentedScopes) -> Registered {
    let resources = consented.resource_scopes.iter().flat_map(|held| held.scopes.iter().map(|scope| scope.name.clone()));
    let mut names: Vec<String> = Vec::new();
    for name in resources.chain(consented.user_scopes.iter().cloned()).chain(mark::free_scopes(application)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let method: AuthMethod = mark::auth_method(application);
    Registered {
        client_id: application.id.clone(),
        issued_at: mark::registered_at(application).unwrap_or_default(),
        name: application.name.clone(),
        redirect_uris: application.oidc_client_metadata.redirect_uris.clone(),
        auth_method: method.name().to_owned(),
        grant_types: mark::grant_types(application),
        scope: names.join(" "),
        native: application.kind == ApplicationKind::Native,
        client_secret: None,
        access_token: None,
    }
}
