//! The client: one attempt on the wire with its limits, and calls made of attempts.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{LogtoError, printable};
use super::repeat::{Attempts, Failure, Repeat};
use super::token::TokenCache;
use crate::clock;
use crate::policy::LogtoAccess;

/// The longest answer: a list of grants has no pages.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// Logto's own limit for a page.
const PAGE_ITEMS: usize = 100;

/// Pages of one list; a tenant with more is not read to its end but refused.
pub const PAGES_MAX: usize = 200;

/// Asks Logto's Management API. Cheap to share; one of them has one token for all.
#[derive(Debug)]
pub struct ManagementApi {
    pub(super) wire: Wire,
    access: LogtoAccess,
    tokens: TokenCache,
}

/// What an attempt needs.
#[derive(Debug)]
pub struct Wire {
    pub client: Client,
    timeout: Duration,
}

/// An answer, whatever its status.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    total: Option<usize>,
}

/// The body of the Management API's refusals. `data` is not read: it may echo a token's claims.
#[derive(Deserialize)]
struct Refusal {
    code: String,
    #[serde(default)]
    message: String,
}

impl Wire {
    /// One attempt: sends, and reads the answer to its end. Refusals that pass are failures here.
    pub async fn send(&self, call: &str, request: RequestBuilder) -> Result<Answer, Failure> {
        match tokio::time::timeout(self.timeout, self.exchange(call, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure {
                error: LogtoError::Unreachable(format!("no answer to {call} within {:?}", self.timeout)),
                repeat: Repeat::MayHaveHappened { after: None },
            }),
        }
    }

    async fn exchange(&self, call: &str, request: RequestBuilder) -> Result<Answer, Failure> {
        let broken = |error: &reqwest::Error| Failure {
            error: LogtoError::Unreachable(causes(call, error)),
            repeat: match error.is_connect() {
                true => Repeat::Safe { after: None },
                false => Repeat::MayHaveHappened { after: None },
            },
        };
        let mut response = request.send().await.map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        // The form with a date (RFC 9110 §10.2.3) is as good as none: backing off is then enough.
        let after = header("retry-after").and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
        let total = header("total-number").and_then(|value| value.parse().ok());
        match status {
            429 => return Err(Failure { error: LogtoError::RateLimited { retry_after: after }, repeat: Repeat::Safe { after } }),
            500.. => {
                let error = LogtoError::Unreachable(format!("{call} was answered with status {status}"));
                return Err(Failure { error, repeat: Repeat::MayHaveHappened { after } });
            }
            _ => {}
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                let answer = Answer { status, body: Vec::new(), total };
                return Err(answer.unexpected(call, &format!("it is larger than {BODY_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body, total })
    }
}

impl Answer {
    pub fn json<T: DeserializeOwned>(&self, call: &str) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| match error.classify() {
            // Its text would quote the body.
            serde_json::error::Category::Data => self.unexpected(call, "it is JSON of another shape"),
            _ => self.unexpected(call, "it is no JSON"),
        })
    }

    pub fn unexpected(&self, call: &str, reason: &str) -> Failure {
        let reason = format!("status {}, {reason}", self.status);
        Failure { error: LogtoError::Unexpected { call: call.to_owned(), reason }, repeat: Repeat::Never }
    }

    /// The failure that a status which is no success means.
    fn refused(&self, call: &str) -> Failure {
        let refusal: Option<Refusal> = serde_json::from_slice(&self.body).ok();
        let error = match (self.status, refusal) {
            (401 | 403, refusal) => {
                let code = refusal.map_or(String::new(), |refusal| format!(" {}", printable(&refusal.code)));
                LogtoError::Forbidden(format!("{call} was answered with {}{code}", self.status))
            }
            (status @ 400..500, Some(refusal)) => {
                LogtoError::Refused { call: call.to_owned(), status, code: printable(&refusal.code), message: printable(&refusal.message) }
            }
            (300..400, _) => return self.unexpected(call, "a redirect, which is not followed"),
            _ => return self.unexpected(call, "not an answer of the Management API"),
        };
        Failure { error, repeat: Repeat::Never }
    }
}

impl ManagementApi {
    pub fn new(access: LogtoAccess) -> Result<Self, LogtoError> {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(access.timeout)
            .user_agent(concat!("wicketgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| LogtoError::Unreachable(format!("no HTTP client: {error}")))?;
        Ok(Self { wire: Wire { client, timeout: access.timeout }, access, tokens: TokenCache::default() })
    }

    /// Whether it asks there with these credentials: one that does can outlive a reload, and its token with it.
    pub fn is_for(&self, access: &LogtoAccess) -> bool {
        self.access == *access
    }

    pub(super) fn attempts(&self) -> Attempts {
        Attempts::until(clock::instant_now() + self.access.deadline)
    }

    /// One attempt with a token; a second one when the token was refused, since it may have expired on the way.
    pub(super) async fn attempt(&self, attempts: &Attempts, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let call = format!("{method} /api{}", path.split('?').next().unwrap_or(path));
        let work = async {
            let mut refused = None;
            loop {
                let token = self.tokens.get(&self.wire, &self.access, refused.as_ref()).await?;
                let mut request = self.wire.client.request(method.clone(), format!("{}/api{path}", self.access.endpoint));
                request = request.bearer_auth(token.secret.expose()).header("accept", "application/json");
                if let Some(body) = body {
                    request = request.header("content-type", "application/json").body(body.to_string());
                }
                let answer = self.wire.send(&call, request).await?;
                match answer.status {
                    200..300 => return Ok(answer),
                    401 if refused.is_none() => refused = Some(token),
                    _ => return Err(answer.refused(&call)),
                }
            }
        };
        match tokio::time::timeout(attempts.left(clock::instant_now()), work).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure {
                error: LogtoError::Unreachable(format!("no answer to {call} within {:?}", self.access.deadline)),
                repeat: Repeat::MayHaveHappened { after: None },
            }),
        }
    }

    /// Waits before the next attempt, or gives the error back when there is none.
    pub(super) async fn wait(&self, attempts: &mut Attempts, failure: Failure) -> Result<(), LogtoError> {
        let wait = attempts.next(failure, clock::instant_now(), jitter())?;
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// A call that does no harm when it is made twice.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, LogtoError> {
        let mut attempts = self.attempts();
        loop {
            match self.attempt(&attempts, &method, path, body).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.wait(&mut attempts, failure).await?,
            }
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, LogtoError> {
        let answer = self.call(Method::GET, path, None).await?;
        answer.json(&format!("GET /api{}", path.split('?').next().unwrap_or(path))).map_err(|failure| failure.error)
    }

    /// Sets what stands there to these values.
    pub(super) async fn patch(&self, path: &str, body: &impl Serialize) -> Result<(), LogtoError> {
        let body = serde_json::to_value(body).unwrap_or_default();
        self.call(Method::PATCH, path, Some(&body)).await.map(|_| ())
    }

    /// Deletes. What is gone already is as wanted, also by an attempt before whose answer was lost.
    pub(super) async fn delete(&self, path: &str) -> Result<(), LogtoError> {
        match self.call(Method::DELETE, path, None).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// A list, page by page to its end. An entry that moved to the next page meanwhile is there once.
    pub(super) async fn list<T: DeserializeOwned>(&self, path: &str, id: impl Fn(&T) -> &str) -> Result<Vec<T>, LogtoError> {
        let call = format!("GET /api{}", path.split('?').next().unwrap_or(path));
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut items: Vec<T> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for page in 1..=PAGES_MAX {
            let answer = self.call(Method::GET, &format!("{path}{separator}page={page}&page_size={PAGE_ITEMS}"), None).await?;
            let found: Vec<T> = answer.json(&call).map_err(|failure| failure.error)?;
            let (before, count) = (items.len(), found.len());
            items.extend(found.into_iter().filter(|item| seen.insert(id(item).to_owned())));
            let whole = match answer.total {
                Some(total) => page * PAGE_ITEMS >= total,
                None => count < PAGE_ITEMS,
            };
            // A server without pages brings the same again.
            if whole || items.len() == before {
                return Ok(items);
            }
        }
        let reason = format!("it goes on after {PAGES_MAX} pages");
        Err(LogtoError::Unexpected { call, reason })
    }
}

/// Between 0 and 1, so that gates that were refused together do not come back together.
fn jitter() -> f64 {
    (RandomState::new().hash_one(0u8) % 1001) as f64 / 1000.0
}

/// An error with its causes, without the address, which the operator wrote.
fn causes(call: &str, error: &reqwest::Error) -> String {
    let mut text = format!("{call} failed");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&printable(&error.to_string()));
        cause = error.source();
    }
    text
}
