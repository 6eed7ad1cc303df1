//! Fetching an issuer's key set, from where the configuration or the issuer's metadata says.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{ETAG, IF_NONE_MATCH};
use url::Url;

use super::discover::{Documents, Metadata, describe, is_safe};
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
    documents: Documents,
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

impl Fetcher {
    pub fn new(issuer: &str, source: KeySource, allow_http: bool, limits: FetchLimits) -> Result<Self, String> {
        let documents = Documents::new(limits.timeout, limits.body_bytes_max)?;
        Ok(Self { documents, issuer: issuer.to_owned(), source, allow_http, limits, jwks_uri: None, etag: None })
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
        let mut request = self.documents.client.get(&jwks_uri).header("accept", "application/jwk-set+json, application/json");
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = request.send().await.map_err(|error| describe("the key set", &error))?;
        if response.status() == StatusCode::NOT_MODIFIED && self.etag.is_some() {
            self.jwks_uri = Some(jwks_uri);
            return Ok(Fetched::Unchanged);
        }
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let body = self.documents.body("the key set", response).await?;
        let keys = KeySet::parse(&body, self.limits.key_count_max)?;
        self.jwks_uri = Some(jwks_uri);
        self.etag = etag;
        Ok(Fetched::Keys(keys))
    }

    async fn discover(&self, urls: &[String]) -> Result<String, String> {
        let key_set = |metadata: Metadata| {
            let jwks_uri = metadata.jwks_uri.filter(|uri| Url::parse(uri).is_ok()).ok_or("the metadata names no key set")?;
            match is_safe(&jwks_uri, self.allow_http) {
                true => Ok(jwks_uri),
                false => Err("the metadata names a key set that is not reached by https".to_owned()),
            }
        };
        self.documents.discover(urls, &self.issuer, &key_set).await
    }
}
