//! The access token for the Management API: fetched once for all who wait for it, kept until shortly before it expires.

use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::Mutex;
use url::form_urlencoded::byte_serialize;

use super::client::Wire;
use super::error::{LogtoError, printable};
use super::repeat::{Failure, Repeat};
use crate::clock;
use crate::config::Secret;
use crate::policy::LogtoAccess;

/// A token is fetched anew this long before it expires; of a short life, half is kept.
const EARLY: Duration = Duration::from_secs(60);

/// The scope of the Management API.
const SCOPE: &str = "all";

/// A token, and which one it is.
#[derive(Debug, Clone)]
pub struct Token {
    pub secret: Secret,
    number: u64,
}

#[derive(Debug, Default)]
struct State {
    token: Option<(Token, Instant)>,
    /// The last failure and when: all who had asked before share it.
    failed: Option<(Failure, Instant)>,
    fetched: u64,
}

/// The cache. Its lock is held while fetching, so that one fetch serves all who wait.
#[derive(Debug, Default)]
pub struct TokenCache(Mutex<State>);

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl TokenCache {
    /// A token that counts. `not` is one that was refused although it should have counted.
    pub async fn get(&self, wire: &Wire, access: &LogtoAccess, not: Option<&Token>) -> Result<Token, Failure> {
        let asked = clock::instant_now();
        let mut state = self.0.lock().await;
        if let Some((token, until)) = &state.token
            && *until > clock::instant_now()
            && not.is_none_or(|not| not.number != token.number)
        {
            return Ok(token.clone());
        }
        if let Some((failure, at)) = &state.failed
            && *at >= asked
        {
            return Err(failure.clone());
        }
        match fetch(wire, access).await {
            Ok((secret, life)) => {
                state.fetched += 1;
                let token = Token { secret, number: state.fetched };
                let kept = life.saturating_sub(EARLY).max(life / 2);
                state.token = Some((token.clone(), clock::instant_now() + kept));
                state.failed = None;
                Ok(token)
            }
            Err(failure) => {
                state.token = None;
                state.failed = Some((failure.clone(), clock::instant_now()));
                Err(failure)
            }
        }
    }
}

async fn fetch(wire: &Wire, access: &LogtoAccess) -> Result<(Secret, Duration), Failure> {
    const CALL: &str = "POST /oidc/token";
    let url = format!("{}/oidc/token", access.endpoint);
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("resource", &access.management_api)
        .append_pair("scope", SCOPE)
        .finish();
    // RFC 6749 §2.3.1: both are form-encoded before they are put together.
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let request = wire
        .client
        .post(url)
        .basic_auth(encoded(&access.app_id), Some(encoded(access.app_secret.expose())))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "application/json")
        .body(form);
    // A token too many does no harm.
    let answer = wire.send(CALL, request).await?;
    if answer.status == 200 {
        let granted: Granted = answer.json(CALL)?;
        let scopes = granted.scope.as_deref().unwrap_or_default();
        if !scopes.split(' ').any(|scope| scope == SCOPE) {
            return Err(never(LogtoError::Forbidden("the token lacks the scope all".to_owned())));
        }
        /// RFC 6749 §5.1 lets an issuer leave it out; Logto does not.
        const LIFE_UNKNOWN_SECONDS: u64 = 60;
        return Ok((Secret::new(granted.access_token), Duration::from_secs(granted.expires_in.unwrap_or(LIFE_UNKNOWN_SECONDS))));
    }
    match serde_json::from_slice::<Denied>(&answer.body) {
        Ok(denied) if denied.error == "invalid_client" => Err(never(LogtoError::CredentialsRefused(denied.error))),
        Ok(denied) => Err(never(LogtoError::Forbidden(printable(&format!("{}: {}", denied.error, denied.error_description))))),
        Err(_) if answer.status == 401 => Err(never(LogtoError::CredentialsRefused("401".to_owned()))),
        Err(_) => Err(answer.unexpected(CALL, "no token and no error")),
    }
}

fn never(error: LogtoError) -> Failure {
    Failure { error, repeat: Repeat::Never }
}
