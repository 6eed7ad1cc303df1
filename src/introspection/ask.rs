//! One question to an introspection endpoint (RFC 7662 §2): POST, the token in the form, the gate's own credentials, no
//! redirects, an answer of bounded size.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use tokio::sync::Mutex;
use url::form_urlencoded;

use crate::access::Introspected;
use crate::clock;
use crate::keys::{Documents, Metadata, describe, is_safe};
use crate::policy::{ClientAuth, EndpointSource, Introspection};

/// An answer about a token, and the metadata document that names the endpoint.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The metadata is asked again after this, so that an endpoint that moved is found.
const ENDPOINT_AGE_MAX: Duration = Duration::from_secs(300);

/// Why nothing was said about a token.
#[derive(Debug)]
pub enum Trouble {
    /// Nobody can be asked: no connection, no metadata, no endpoint where it says.
    Away(String),
    /// The issuer does not take the gate's own credentials.
    Credentials(String),
    /// An answer that is none.
    Nonsense(String),
    /// No answer in time.
    Slow,
}

impl Trouble {
    /// For the caller's line in the log, and for who counts.
    pub fn why(&self) -> &'static str {
        match self {
            Self::Away(_) => "the endpoint cannot be reached",
            Self::Credentials(_) => "the gate's own credentials were refused",
            Self::Nonsense(_) => "the endpoint's answer is none",
            Self::Slow => "no answer in time",
        }
    }

    /// Whether it would be the same for any other token, so that asking at once again is of no use.
    pub fn is_general(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Credentials(_))
    }

    pub fn label(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "credentials_refused",
            Self::Away(_) | Self::Nonsense(_) | Self::Slow => "unavailable",
        }
    }

    /// For the operator.
    pub fn detail(&self) -> &str {
        match self {
            Self::Away(detail) | Self::Credentials(detail) | Self::Nonsense(detail) => detail,
            Self::Slow => "",
        }
    }
}

/// Asks one endpoint.
pub struct Caller {
    documents: Documents,
    authorization: Option<HeaderValue>,
    /// Where metadata said that the endpoint is, and when.
    found: Mutex<Option<(String, Instant)>>,
}

impl Caller {
    pub fn new(settings: &Introspection) -> Result<Self, String> {
        let documents = Documents::new(settings.timeout, ANSWER_BYTES_MAX)?;
        let authorization = match settings.auth {
            ClientAuth::Basic => Some(basic(settings)?),
            ClientAuth::Post => None,
        };
        Ok(Self { documents, authorization, found: Mutex::default() })
    }

    /// Asks about a token, for as long as the settings allow.
    pub async fn ask(&self, settings: &Introspection, token: &str) -> Result<Introspected, Trouble> {
        let answer = self.ask_at(settings, token, &self.endpoint(settings).await?).await;
        if answer.as_ref().is_err_and(Trouble::is_general) {
            *self.found.lock().await = None;
        }
        answer
    }

    async fn ask_at(&self, settings: &Introspection, token: &str, endpoint: &str) -> Result<Introspected, Trouble> {
        let mut request = self
            .documents
            .client
            .post(endpoint)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response =
            request.body(form(settings, token)).send().await.map_err(|error| match (error.is_timeout(), error.is_connect()) {
                (true, _) => Trouble::Slow,
                (false, true) => Trouble::Away(describe("the answer", &error)),
                // It may have been this token that made it break off.
                (false, false) => Trouble::Nonsense(describe("the answer", &error)),
            })?;
        let status = response.status();
        let body = self.documents.read("the answer", response).await.map_err(Trouble::Nonsense)?;
        if status == StatusCode::OK {
            return Introspected::parse(settings, token, &body).map_err(|reason| Trouble::Nonsense(reason.to_owned()));
        }
        Err(refused(status, &body))
    }

    /// Where to ask. Those who come while the metadata is asked share that question.
    async fn endpoint(&self, settings: &Introspection) -> Result<String, Trouble> {
        let urls = match &settings.endpoint {
            EndpointSource::Given(url) => return Ok(url.clone()),
            EndpointSource::Discovery(urls) => urls,
        };
        let mut found = self.found.lock().await;
        let now = clock::instant_now();
        if let Some((endpoint, since)) = &*found
            && now.duration_since(*since) < ENDPOINT_AGE_MAX
        {
            return Ok(endpoint.clone());
        }
        let wanted = |metadata: Metadata| {
            let endpoint = metadata.introspection_endpoint.ok_or("the metadata names no introspection endpoint; give endpoint:")?;
            match is_safe(&endpoint, settings.allow_http) {
                true => Ok(endpoint),
                false => Err("the metadata names an introspection endpoint that is not reached by https".to_owned()),
            }
        };
        let endpoint = self.documents.discover(urls, &settings.issuer, &wanted).await.map_err(Trouble::Away)?;
        *found = Some((endpoint.clone(), now));
        Ok(endpoint)
    }
}

/// An answer that is no 200 says nothing about the token (RFC 7662 §2.3). Servers say 401, 403, or 400 with a word of
/// OAuth's (RFC 6749 §5.2) when they do not know who asks.
fn refused(status: StatusCode, body: &[u8]) -> Trouble {
    let error = serde_json::from_slice::<serde_json::Value>(body).ok();
    let error = error.as_ref().and_then(|body| body["error"].as_str()).unwrap_or_default();
    let own = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        || (status == StatusCode::BAD_REQUEST && matches!(error, "invalid_client" | "unauthorized_client" | "invalid_request"));
    let detail = format!("status {} {}", status.as_u16(), error.chars().take(60).flat_map(char::escape_debug).collect::<String>());
    match (own, status) {
        (true, _) => Trouble::Credentials(detail),
        (false, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE) => Trouble::Away(detail),
        (false, _) => Trouble::Nonsense(detail),
    }
}

/// The form of RFC 7662 §2.1.
fn form(settings: &Introspection, token: &str) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("token", token).append_pair("token_type_hint", "access_token");
    if settings.auth == ClientAuth::Post {
        form.append_pair("client_id", &settings.client_id).append_pair("client_secret", settings.client_secret.expose());
    }
    form.finish()
}

/// Id and secret are form-encoded before they are joined (RFC 6749 §2.3.1).
fn basic(settings: &Introspection) -> Result<HeaderValue, String> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encoded(&settings.client_id), encoded(settings.client_secret.expose()));
    let value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)));
    let mut value = value.map_err(|_| "client credentials that no header can carry".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}
