//! Making an app (RFC 7591 §3): pending in Logto until it has its scopes, so that one that is half made is known for that.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::timeout;

use super::audit::{self, Entry, Happened};
use super::mark;
use super::office::{Office, away};
use crate::clock;
use crate::logto::{Application, ApplicationKind, LogtoError, NewApplication};
use crate::oauth::registration::{AccessToken, Refusal, Registered, Wanted, answer, is_initial_access_token, read};
use crate::policy::Secret;

/// Shown in the Console.
const DESCRIPTION: &str = "Registered itself at Wicketgate.";

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    pub address: Option<IpAddr>,
    pub request_id: String,
    /// The token of the `Authorization` header.
    pub token: Option<String>,
}

impl Office {
    /// Whether somebody with this token may register (RFC 7591 §3).
    pub fn admits(&self, token: Option<&str>) -> Result<(), Refusal> {
        match token {
            _ if self.settings.initial_access_tokens.is_empty() => Ok(()),
            None => Err(Refusal::InitialTokenMissing),
            Some(token) if is_initial_access_token(&self.settings, token) => Ok(()),
            Some(_) => Err(Refusal::InitialTokenWrong),
        }
    }

    /// Registers an app: the body of the answer. A request that asks for nothing that could be registered counts for no
    /// limit.
    pub async fn register(self: &Arc<Self>, caller: Caller, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let wanted = read(&self.settings, body)?;
        self.limits[0].take(caller.address)?;
        let office = self.clone();
        // A task of its own: what was begun is brought to its end when the client leaves.
        let made = tokio::spawn(async move {
            match timeout(office.deadline(), office.make(wanted, &caller)).await {
                Ok(made) => made,
                Err(_) => Err(away("registering", &LogtoError::Unreachable("not done in time".to_owned()))),
            }
        });
        let registered = made.await.unwrap_or(Err(Refusal::LogtoAway { seconds: 1 }))?;
        Ok(answer(&self.settings, &registered))
    }

    async fn make(self: &Arc<Self>, mut wanted: Wanted, caller: &Caller) -> Result<Registered, Refusal> {
        let _one_at_a_time = self.making.lock().await;
        let failed = |error: LogtoError| away("registering", &error);
        let known = self.api.third_party_applications().await.map_err(failed)?;
        let count = known.iter().filter(|application| mark::registered_at(application).is_some()).count();
        self.metrics.apps.set(i64::try_from(count).unwrap_or(i64::MAX));
        if count >= self.settings.quota {
            return Err(Refusal::QuotaFull);
        }
        // Before the app: what cannot be given is found out while there is nothing to clean up.
        self.consent_scopes(&mut wanted.granted, false).await.map_err(failed)?;
        let (token, now) = (AccessToken::fresh().ok_or(Refusal::LogtoAway { seconds: 1 })?, clock::unix_now());
        let new = NewApplication {
            name: wanted.name.clone(),
            description: Some(DESCRIPTION.to_owned()),
            kind: wanted.kind,
            third_party: true,
            redirect_uris: wanted.redirect_uris.clone(),
            marks: mark::fresh(&wanted, &token.hash, now),
        };
        let application = self.api.create_application(&new).await.map_err(failed)?;
        match self.complete(&application, &mut wanted).await {
            Ok(client_secret) => {
                self.note(Happened::Registered, &application.id, &wanted, caller);
                self.metrics.apps.inc();
                Ok(Registered {
                    client_id: application.id,
                    issued_at: now,
                    name: wanted.name,
                    redirect_uris: wanted.redirect_uris,
                    auth_method: wanted.auth_method.name().to_owned(),
                    grant_types: wanted.grant_types.into_iter().map(str::to_owned).collect(),
                    scope: wanted.granted.names.join(" "),
                    native: wanted.kind == ApplicationKind::Native,
                    client_secret,
                    access_token: Some(token.secret),
                })
            }
            Err(error) => {
                self.abandon(application);
                Err(failed(error))
            }
        }
    }

    /// Gives an app its scopes and its secret; only then is it done.
    async fn complete(&self, application: &Application, wanted: &mut Wanted) -> Result<Option<Secret>, LogtoError> {
        let mut scopes = self.consent_scopes(&mut wanted.granted, false).await?;
        match self.api.add_consent_scopes(&application.id, &scopes).await {
            Err(error) if error.is_unknown_scope() => {
                scopes = self.consent_scopes(&mut wanted.granted, true).await?;
                self.api.add_consent_scopes(&application.id, &scopes).await?;
            }
            other => other?,
        }
        // Its answer says nothing: a proxy in between may have given it.
        if !self.api.consent_scopes(&application.id).await?.has(&scopes) {
            let call = "POST /api/applications/:id/user-consent-scopes".to_owned();
            return Err(LogtoError::Unexpected { call, reason: "the scopes are not there after it".to_owned() });
        }
        let secret = match application.kind.is_confidential() {
            true => self.api.application_secrets(&application.id).await?.into_iter().next().map(|secret| secret.value),
            false => None,
        };
        if application.kind.is_confidential() && secret.is_none() {
            let call = "GET /api/applications/:id/secrets".to_owned();
            return Err(LogtoError::Unexpected { call, reason: "a confidential app without a secret".to_owned() });
        }
        let done = self.api.set_custom_data(&application.id, &application.marked(mark::done())).await?;
        match mark::is_pending(&done) {
            false => Ok(secret),
            true => Err(LogtoError::Unexpected { call: "PATCH /api/applications/:id".to_owned(), reason: "it changed nothing".to_owned() }),
        }
    }

    /// Takes away what is half made. Where that fails, too, the sweeper finds it by its mark.
    fn abandon(self: &Arc<Self>, application: Application) {
        let office = self.clone();
        tokio::spawn(async move { office.take_away(&application, Happened::Abandoned).await });
    }

    pub(super) fn note(&self, happened: Happened, client_id: &str, wanted: &Wanted, caller: &Caller) {
        self.metrics.changes.with_label_values(&[happened.label()]).inc();
        let scope = wanted.granted.names.join(" ");
        let entry = Entry {
            client_id,
            name: &wanted.name,
            redirect_uris: &wanted.redirect_uris,
            scope: &scope,
            address: caller.address,
            request_id: Some(&caller.request_id),
        };
        audit::write(&self.observer.audit, happened, &entry);
    }
}
