//! Fetching an issuer's metadata and key set: bounded in time and size, without redirects, and only from where the
//! configuration says.

use std::time::Duration;

use reqwest::header::{ETAG, IF_NONE_MATCH};
use reqwest::{Client, StatusCode, redirect};
use serde::Deserialize;
use url::Url;

use super::jwk::KeySet;
use crate::policy::KeySource;

/// What a fetch brought.
pub enum Fetched {
    Keys(KeySet),
    /// The issuer says that nothing changed.
    Unchanged,
}

/// Fetches one issuer's keys and remembers what makes the next fetch cheaper.
pub struct Fetcher {
    client: Client,
    issuer: String,
    source: KeySource,
    allow_http: bool,
    limits: FetchLimits,
    jwks_uri: Option<String>,
    etag: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    pub timeout: Duration,
    pub body_bytes_max: usize,
    pub key_count_max: usize,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    pub fn new(issuer: &str, source: KeySource, allow_http: bool, limits: FetchLimits) -> Result<Self, String> {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(limits.timeout)
            .timeout(limits.timeout)
            .user_agent(concat!("wicketgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("no HTTP client: {error}"))?;
        Ok(Self { client, issuer: issuer.to_owned(), source, allow_http, limits, jwks_uri: None, etag: None })
    }

    /// Fetches the keys. `anew` also asks for the metadata again, so that a moved key set is noticed.
    pub async fn fetch(&mut self, anew: bool) -> Result<Fetched, String> {
        let deadline = self.limits.timeout;
        let outcome = match tokio::time::timeout(deadline, self.fetch_steps(anew)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {deadline:?}")),
        };
        if outcome.is_err() {
            self.jwks_uri = None;
            self.etag = None;
        }
        outcome
    }

    async fn fetch_steps(&mut self, anew: bool) -> Result<Fetched, String> {
        let jwks_uri = match (&self.source, self.jwks_uri.take().filter(|_| !anew)) {
            (KeySource::File(bytes), _) => return KeySet::parse(bytes, self.limits.key_count_max).map(Fetched::Keys),
            (KeySource::JwksUri(uri), _) => uri.clone(),
            (KeySource::Discovery(_), Some(known)) => known,
            (KeySource::Discovery(urls), None) => self.discover(urls).await?,
        };
        let mut request = self.client.get(&jwks_uri).header("accept", "application/jwk-set+json, application/json");
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = request.send().await.map_err(|error| describe("the key set", &error))?;
        if response.status() == StatusCode::NOT_MODIFIED && self.etag.is_some() {
            self.jwks_uri = Some(jwks_uri);
            return Ok(Fetched::Unchanged);
        }
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let body = self.body("the key set", response).await?;
        let keys = KeySet::parse(&body, self.limits.key_count_max)?;
        self.jwks_uri = Some(jwks_uri);
        self.etag = etag;
        Ok(Fetched::Keys(keys))
    }

    /// Asks for the metadata documents in turn and takes the key set's address from the first that is this issuer's.
    async fn discover(&self, urls: &[String]) -> Result<String, String> {
        let mut failure = "nowhere to look for the metadata".to_owned();
        for url in urls {
            match self.discover_at(url).await {
                Ok(jwks_uri) => return Ok(jwks_uri),
                Err(reason) if failure.starts_with("nowhere") => failure = reason,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn discover_at(&self, url: &str) -> Result<String, String> {
        let response = self.client.get(url).header("accept", "application/json").send().await;
        let response = response.map_err(|error| describe("the metadata", &error))?;
        let body = self.body("the metadata", response).await?;
        let metadata: Metadata = serde_json::from_slice(&body).map_err(|error| format!("the metadata is no metadata: {error}"))?;
        if metadata.issuer != self.issuer {
            // RFC 8414 §3.3: such a document MUST NOT be used.
            return Err(format!("the metadata is of another issuer: {}", metadata.issuer.escape_debug()));
        }
        let jwks_uri = Url::parse(&metadata.jwks_uri).map_err(|_| "the metadata names no key set".to_owned())?;
        let allowed =
            jwks_uri.scheme() == "https" || (jwks_uri.scheme() == "http" && (self.allow_http || crate::policy::is_loopback(&jwks_uri)));
        match allowed {
            true => Ok(metadata.jwks_uri),
            false => Err("the metadata names a key set that is not reached by https".to_owned()),
        }
    }

    async fn body(&self, what: &str, mut response: reqwest::Response) -> Result<Vec<u8>, String> {
        if response.status() != StatusCode::OK {
            return Err(format!("{what} was answered with status {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| describe(what, &error))? {
            if body.len() + chunk.len() > self.limits.body_bytes_max {
                return Err(format!("{what} is larger than {} bytes", self.limits.body_bytes_max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// An error with its causes, without the address: the log line names the issuer.
fn describe(what: &str, error: &reqwest::Error) -> String {
    let mut text = format!("{what} could not be fetched");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
