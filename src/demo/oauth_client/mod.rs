//! The client's half of OAuth 2.1 and OpenID Connect, as a web application with a backend writes it.
//!
//! It is written out instead of taken from the `oauth2` crate: that one revokes tokens by https alone, so never on this
//! machine, and brings a second set of hashes and random numbers.

mod callback;
mod challenge;
mod discovery;
mod exchange;
mod id_token;

use std::io;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::{Request, StatusCode, header};
use serde_json::Value;
use url::{Url, form_urlencoded};
use uuid::Uuid;

pub use callback::{Answered, CallbackFault, check as check_callback};
pub use challenge::Challenge;
pub use discovery::{IssuerMetadata, resource_metadata};
pub use exchange::{Answer, Http};
pub use id_token::Person;

use super::wire::{FORM, Party, Wire};
use crate::clock::{self, UnixSeconds};
use crate::policy::Secret;

/// Characters of what others said that are shown to people.
const SAID_CHARS_MAX: usize = 300;
/// A token that ends so soon is taken for expired, since the question still has to travel.
const EXPIRY_MARGIN_SECONDS: i64 = 5;

/// A client as it is registered with one issuer.
pub struct Client {
    pub id: String,
    secret: Secret,
    /// The issuer identifier. The secret goes to the endpoints of this issuer and nowhere else.
    pub issuer: String,
    redirect_uri: String,
    pub http: Http,
}

/// Why something could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nobody answered, or not in time.
    #[error("{0}")]
    Unanswered(String),
    /// What was said cannot be believed.
    #[error("{0}")]
    Distrusted(String),
    /// An error response of the issuer's (RFC 6749 §5.2).
    #[error("{error}: {description}")]
    Refused { error: String, description: String },
}

impl Trouble {
    fn distrusted(reason: &str) -> Self {
        Self::Distrusted(reason.to_owned())
    }

    /// A code or a refresh token is no good any more (RFC 6749 §5.2): only the user can help.
    pub fn is_invalid_grant(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error == "invalid_grant")
    }
}

/// What a browser was sent off with. It is kept in that browser's session, and used once.
pub struct Pending {
    pub state: String,
    nonce: String,
    verifier: String,
    pub resource: String,
    /// What is asked for.
    pub scopes: Vec<String>,
    pub issuer: Arc<IssuerMetadata>,
}

impl Pending {
    pub fn new(issuer: Arc<IssuerMetadata>, resource: &str, scopes: Vec<String>) -> Self {
        Self { state: unguessable(), nonce: unguessable(), verifier: unguessable(), resource: resource.to_owned(), scopes, issuer }
    }
}

/// What a user gave.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub access: Secret,
    pub expires_at: Option<UnixSeconds>,
    pub refresh: Option<Secret>,
    id: Option<Secret>,
    /// What was granted. An issuer need not say so if it is what was asked for (RFC 6749 §5.1); some do not if it is nothing.
    pub scopes: Option<Vec<String>>,
}

impl Tokens {
    pub fn is_expired(&self, now: UnixSeconds) -> bool {
        self.expires_at.is_some_and(|end| end <= now.saturating_add(EXPIRY_MARGIN_SECONDS))
    }
}

impl Client {
    pub fn new(id: String, secret: String, issuer: String, redirect_uri: String) -> io::Result<Self> {
        Ok(Self { id, secret: Secret::new(secret), issuer, redirect_uri, http: Http::new()? })
    }

    /// The issuer's metadata, as of now.
    pub async fn discover(&self, wire: &mut Wire) -> Result<Arc<IssuerMetadata>, Trouble> {
        discovery::issuer_metadata(&self.http, wire, &self.issuer).await.map(Arc::new)
    }

    /// Where to send the browser (RFC 6749 §4.1.1), with PKCE (RFC 7636), a nonce, and the resource (RFC 8707).
    pub fn authorization_url(&self, pending: &Pending, prompt: Option<&str>) -> Result<Url, Trouble> {
        let mut url = Url::parse(&pending.issuer.authorization_endpoint).map_err(|_| Trouble::distrusted("no authorization endpoint"))?;
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, pending.verifier.as_bytes()));
        let scopes = pending.scopes.join(" ");
        let parameters = [
            ("response_type", "code"),
            ("client_id", &self.id),
            ("redirect_uri", &self.redirect_uri),
            ("scope", &scopes),
            ("resource", &pending.resource),
            ("state", &pending.state),
            ("nonce", &pending.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        url.query_pairs_mut().extend_pairs(parameters).extend_pairs(prompt.map(|prompt| ("prompt", prompt)));
        Ok(url)
    }

    /// A code for tokens. The resource is named again: without it, Logto's token is opaque.
    pub async fn exchange_code(&self, wire: &mut Wire, pending: &Pending, code: &str) -> Result<(Tokens, Person), Trouble> {
        let why = "The code is exchanged for tokens. The secret and the verifier prove that it is the one who asked.";
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.redirect_uri),
            ("code_verifier", &pending.verifier),
            ("resource", &pending.resource),
        ];
        let tokens = self.ask_for_tokens(wire, why, &pending.issuer, &form).await?;
        let id_token = tokens.id.as_ref().ok_or_else(|| Trouble::distrusted("the issuer did not say who signed in"))?;
        let person = id_token::check(id_token.expose(), &self.issuer, &self.id, &pending.nonce, clock::unix_now())?;
        Ok((tokens, person))
    }

    /// New tokens without the user (RFC 6749 §6). The old refresh token may be used up by this.
    pub async fn refresh(&self, wire: &mut Wire, issuer: &IssuerMetadata, tokens: &Tokens, resource: &str) -> Result<Tokens, Trouble> {
        let refresh = tokens.refresh.as_ref().ok_or_else(|| Trouble::distrusted("there is no refresh token"))?;
        let why =
            "A new access token for the refresh token, without asking anybody. Most issuers change the refresh token at the same time.";
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose()), ("resource", resource)];
        let mut new = self.ask_for_tokens(wire, why, issuer, &form).await?;
        // One that does not rotate stays good (RFC 6749 §6).
        new.refresh = new.refresh.or_else(|| tokens.refresh.clone());
        Ok(new)
    }

    /// Tells the issuer that a refresh token is not needed any more (RFC 7009).
    pub async fn revoke(&self, wire: &mut Wire, issuer: &IssuerMetadata, tokens: &Tokens) -> Result<(), Trouble> {
        let (Some(endpoint), Some(refresh)) = (&issuer.revocation_endpoint, &tokens.refresh) else {
            return Err(Trouble::distrusted("there is nothing to revoke, or nowhere"));
        };
        let why = "The refresh token is revoked, so that nobody can use it again (RFC 7009).";
        let form = [("token", refresh.expose()), ("token_type_hint", "refresh_token")];
        let answer = self.http.exchange(wire, Party::Issuer, why, self.authenticated(issuer, endpoint, &form)?).await?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(refusal(&answer)),
        }
    }

    /// Where to send the browser to end the session at the issuer (RP-Initiated Logout 1.0), if the issuer has such a place.
    pub fn end_session_url(&self, issuer: &IssuerMetadata, back_to: &str) -> Option<Url> {
        let mut url = Url::parse(issuer.end_session_endpoint.as_deref()?).ok()?;
        url.query_pairs_mut().append_pair("client_id", &self.id).append_pair("post_logout_redirect_uri", back_to);
        Some(url)
    }

    async fn ask_for_tokens(&self, wire: &mut Wire, why: &str, issuer: &IssuerMetadata, form: &[(&str, &str)]) -> Result<Tokens, Trouble> {
        let request = self.authenticated(issuer, &issuer.token_endpoint, form)?;
        let answer = self.http.exchange(wire, Party::Issuer, why, request).await?;
        if answer.status != StatusCode::OK {
            return Err(refusal(&answer));
        }
        let answer = answer.json().unwrap_or_default();
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        // RFC 6749 §7.1: a token of a kind that is not understood MUST NOT be used.
        if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
            return Err(Trouble::distrusted("the issuer gave no bearer token"));
        }
        let access =
            text("access_token").filter(|token| !token.is_empty()).ok_or_else(|| Trouble::distrusted("the issuer gave no token"))?;
        let expires_in = answer.get("expires_in").and_then(Value::as_i64);
        Ok(Tokens {
            access: Secret::new(access),
            expires_at: expires_in.map(|seconds| clock::unix_now().saturating_add(seconds)),
            refresh: text("refresh_token").map(Secret::new),
            id: text("id_token").map(Secret::new),
            scopes: text("scope").map(|scopes| scopes.split_ascii_whitespace().map(str::to_owned).collect()),
        })
    }

    /// A POST as this client, whose id and secret stand in the header, form-encoded (RFC 6749 §2.3.1).
    fn authenticated(&self, issuer: &IssuerMetadata, endpoint: &str, form: &[(&str, &str)]) -> Result<Request<Vec<u8>>, Trouble> {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let mut request = Request::post(endpoint).header(header::CONTENT_TYPE, FORM).header(header::ACCEPT, "application/json");
        if issuer.takes_secret_in_the_body_only() {
            body.append_pair("client_id", &self.id).append_pair("client_secret", self.secret.expose());
        } else {
            let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let credentials = format!("{}:{}", encoded(&self.id), encoded(self.secret.expose()));
            request = request.header(header::AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(credentials)));
        }
        request.body(body.finish().into_bytes()).map_err(|_| Trouble::distrusted("an endpoint is no address"))
    }
}

fn refusal(answer: &Answer) -> Trouble {
    let body = answer.json().unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(said);
    match text("error") {
        Some(error) => Trouble::Refused { error, description: text("error_description").unwrap_or_default() },
        None => Trouble::Unanswered(format!("the issuer answered with status {}", answer.status.as_u16())),
    }
}

/// Words of others, as they may be shown: on one line, and not too many.
pub fn said(text: &str) -> String {
    text.chars().take(SAID_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// 64 characters that nobody can guess, good as a state, a nonce, a PKCE verifier or the name of a session.
pub fn unguessable() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn client() -> Client {
        let text = str::to_owned;
        Client::new(text("bot"), text("s3cret &:é"), text("https://id.example"), text("http://127.0.0.1:1/callback")).unwrap()
    }

    fn issuer(change: Value) -> Arc<IssuerMetadata> {
        let mut document = json!({
            "issuer": "https://id.example",
            "authorization_endpoint": "https://id.example/auth?tenant=1",
            "token_endpoint": "https://id.example/token",
            "end_session_endpoint": "https://id.example/session/end",
        });
        document.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Arc::new(serde_json::from_value(document).unwrap())
    }

    #[test]
    fn an_authorization_request_names_the_resource_and_proves_itself_later() {
        let pending = Pending::new(issuer(json!({})), "https://api.example", vec!["openid".to_owned(), "read:weather".to_owned()]);
        let url = client().authorization_url(&pending, Some("consent")).unwrap();
        let query: std::collections::BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, pending.verifier.as_bytes()));
        for (name, value) in [
            ("tenant", "1"),
            ("response_type", "code"),
            ("scope", "openid read:weather"),
            ("resource", "https://api.example"),
            ("state", &pending.state),
            ("nonce", &pending.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("prompt", "consent"),
        ] {
            assert_eq!(query[name], value, "{name}");
        }
        // RFC 7636 §4.1.
        assert!((43..=128).contains(&pending.verifier.len()));
        assert!(!url.as_str().contains(&pending.verifier));
        assert_ne!(pending.state, pending.nonce);
    }

    #[test]
    fn the_secret_is_encoded_and_stands_in_one_place() {
        let request = client().authenticated(&issuer(json!({})), "https://id.example/token", &[("a", "b")]).unwrap();
        let credentials = BASE64_STANDARD.encode("bot:s3cret+%26%3A%C3%A9");
        assert_eq!(request.headers()["authorization"], format!("Basic {credentials}"));
        assert_eq!(request.body(), b"a=b");
        let posted = json!({ "token_endpoint_auth_methods_supported": ["client_secret_post"] });
        let request = client().authenticated(&issuer(posted), "https://id.example/token", &[("a", "b")]).unwrap();
        assert!(request.headers().get("authorization").is_none());
        assert_eq!(request.body(), b"a=b&client_id=bot&client_secret=s3cret+%26%3A%C3%A9");
    }

    #[test]
    fn signing_out_leads_to_the_issuer_and_back() {
        let url = client().end_session_url(&issuer(json!({})), "http://127.0.0.1:1/").unwrap();
        assert_eq!(url.query(), Some("client_id=bot&post_logout_redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2F"));
    }

    #[test]
    fn a_token_that_ends_soon_counts_as_expired() {
        let tokens = |expires_at| Tokens { access: Secret::new("a"), expires_at, refresh: None, id: None, scopes: None };
        assert!(!tokens(None).is_expired(0));
        assert!(!tokens(Some(100)).is_expired(94));
        assert!(tokens(Some(100)).is_expired(95));
    }

    #[test]
    fn secrets_are_not_printed() {
        let tokens =
            Tokens { access: Secret::new("hunter2"), expires_at: None, refresh: Some(Secret::new("hunter2")), id: None, scopes: None };
        assert!(!format!("{tokens:?}").contains("hunter2"));
    }
}
