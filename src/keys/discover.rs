//! What an issuer publishes about itself (OpenID Connect Discovery, RFC 8414): fetched bounded in time and size, without
//! redirects, and only from where the configuration says.

use std::time::Duration;

use reqwest::{Client, StatusCode, redirect};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

/// Connections are not used again after this: common servers close theirs after 5 s, and a question sent into one that
/// is just closing is lost.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// A metadata document, as far as it is read.
#[derive(Deserialize)]
pub struct Metadata {
    pub issuer: String,
    pub jwks_uri: Option<String>,
    pub introspection_endpoint: Option<String>,
}

/// How documents of issuers are fetched.
#[derive(Debug, Clone)]
pub struct Documents {
    pub client: Client,
    body_bytes_max: usize,
}

impl Documents {
    pub fn new(timeout: Duration, body_bytes_max: usize) -> Result<Self, String> {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(timeout)
            .timeout(timeout)
            .pool_idle_timeout(IDLE_MAX)
            .user_agent(concat!("wicketgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("no HTTP client: {error}"))?;
        Ok(Self { client, body_bytes_max })
    }

    /// Asks for the metadata documents in turn, and takes from the first that is this issuer's what is wanted of it.
    pub async fn discover(
        &self,
        urls: &[String],
        issuer: &str,
        wanted: &(dyn Fn(Metadata) -> Result<String, String> + Sync),
    ) -> Result<String, String> {
        let mut failure = "nowhere to look for the metadata".to_owned();
        for url in urls {
            match self.metadata_at(url, issuer).await.and_then(wanted) {
                Ok(found) => return Ok(found),
                Err(reason) if failure.starts_with("nowhere") => failure = reason,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// Asks for the metadata documents in turn: the first that is this issuer's, whole.
    pub async fn document(&self, urls: &[String], issuer: &str) -> Result<Map<String, Value>, String> {
        let mut failure = "nowhere to look for the metadata".to_owned();
        for url in urls {
            match self.body_at(url).await.and_then(|body| Ok((parsed(&body, issuer)?, body))) {
                Ok((_, body)) => return serde_json::from_slice(&body).map_err(|error| format!("the metadata is no metadata: {error}")),
                Err(reason) if failure.starts_with("nowhere") => failure = reason,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn metadata_at(&self, url: &str, issuer: &str) -> Result<Metadata, String> {
        parsed(&self.body_at(url).await?, issuer)
    }

    async fn body_at(&self, url: &str) -> Result<Vec<u8>, String> {
        let response = self.client.get(url).header("accept", "application/json").send().await;
        let response = response.map_err(|error| describe("the metadata", &error))?;
        self.body("the metadata", response).await
    }

    /// The body of a good answer.
    pub(super) async fn body(&self, what: &str, response: reqwest::Response) -> Result<Vec<u8>, String> {
        match response.status() {
            StatusCode::OK => self.read(what, response).await,
            status => Err(format!("{what} was answered with status {}", status.as_u16())),
        }
    }

    /// The body of an answer, whatever its status.
    pub async fn read(&self, what: &str, mut response: reqwest::Response) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| describe(what, &error))? {
            if body.len() + chunk.len() > self.body_bytes_max {
                return Err(format!("{what} is larger than {} bytes", self.body_bytes_max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn parsed(body: &[u8], issuer: &str) -> Result<Metadata, String> {
    let metadata: Metadata = serde_json::from_slice(body).map_err(|error| format!("the metadata is no metadata: {error}"))?;
    match metadata.issuer == issuer {
        true => Ok(metadata),
        // RFC 8414 §3.3: such a document MUST NOT be used.
        false => Err(format!("the metadata is of another issuer: {}", metadata.issuer.escape_debug())),
    }
}

/// Whether an address that a document names may be asked: `https`, or `http` to this machine or where the operator
/// allows it.
pub fn is_safe(url: &str, allow_http: bool) -> bool {
    Url::parse(url).is_ok_and(|url| url.scheme() == "https" || (url.scheme() == "http" && (allow_http || crate::policy::is_loopback(&url))))
}

/// An error with its causes, without the address: the log line names the issuer.
pub fn describe(what: &str, error: &reqwest::Error) -> String {
    let mut text = format!("{what} could not be fetched");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
