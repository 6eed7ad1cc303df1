//! An OpenID issuer that behaves as Logto does, for the demo and for tests.
//!
//! It can do what a test needs of an issuer: change its keys, count who asks, sign anything, fail in many ways, and stop.

mod administration;
mod documents;
mod faults;
mod grants;
mod management;
mod signing;
mod tenant;
mod token_endpoint;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::error::Unspecified;
use http::Request;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

pub use faults::Fault;
pub use grants::Grant;
pub use management::ManagementFault;
pub use signing::SigningAlgorithm;
pub use tenant::{Application, ApplicationKind, Ceiling, Resource, Role, RoleKind, Scope, Secret, Tenant, User};

use super::server::{self, Reply, Server};
use crate::clock;
use documents::Document;
use faults::MOVED;
use grants::Grants;
use management::Management;
use signing::{Keys, SigningKey, random_text};
use token_endpoint::Refusal;

/// What the issuer starts with.
#[derive(Clone)]
pub struct Settings {
    pub resources: Vec<Resource>,
    pub applications: Vec<Application>,
    pub users: Vec<User>,
    pub token_lifetime_seconds: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { resources: Vec::new(), applications: Vec::new(), users: Vec::new(), token_lifetime_seconds: TOKEN_LIFETIME_SECONDS }
    }
}

/// Logto's default.
const TOKEN_LIFETIME_SECONDS: i64 = 3600;

/// What an access token is to say.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    pub subject: String,
    pub client_id: String,
    pub resource: String,
    /// Space separated; with `None` the claim is absent, as in Logto.
    pub scope: Option<String>,
    pub organization_id: Option<String>,
    /// Seconds from now; below zero for an expired token.
    pub expires_in: i64,
    /// Further claims. They win over those above.
    pub claims: Map<String, Value>,
}

impl Default for TokenRequest {
    fn default() -> Self {
        Self {
            subject: "user".to_owned(),
            client_id: "agent".to_owned(),
            resource: "https://api.weather.example".to_owned(),
            scope: None,
            organization_id: None,
            expires_in: TOKEN_LIFETIME_SECONDS,
            claims: Map::new(),
        }
    }
}

/// How often each endpoint was asked since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub discovery: u64,
    pub key_set: u64,
    pub token: u64,
    pub management: u64,
}

/// A running issuer. It ends when it is stopped or its last clone is dropped.
#[derive(Clone)]
pub struct Issuer(Arc<Running>);

struct Running {
    server: Server,
    state: Arc<State>,
}

impl Issuer {
    /// Starts on a loopback address with a fresh ES384 key. Port 0 takes a free one.
    pub async fn start(address: SocketAddr, settings: Settings) -> io::Result<Self> {
        let listener = server::bind(address).await?;
        let state = Arc::new(State {
            url: format!("http://{}/oidc", listener.local_addr()?),
            tenant: Mutex::new(Tenant::new(settings.resources, settings.applications, settings.users)),
            grants: Mutex::default(),
            token_lifetime_seconds: settings.token_lifetime_seconds,
            keys: Keys::generate(SigningAlgorithm::default()).map_err(io::Error::other)?,
            fault: Mutex::default(),
            discovery: AtomicU64::new(0),
            key_set: AtomicU64::new(0),
            token: AtomicU64::new(0),
            management: Management::default(),
        });
        let shared = state.clone();
        let server = Server::start(listener, move |request| answer(shared.clone(), request))?;
        Ok(Self(Arc::new(Running { server, state })))
    }

    /// The issuer identifier, the `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.0.state.url
    }

    pub fn address(&self) -> SocketAddr {
        self.0.server.address()
    }

    /// Closes the port and all connections, and waits for it. Tokens can still be signed.
    pub async fn stop(&self) {
        self.0.server.stop().await;
    }

    /// Signs with a new key from now on. The set has the new key and the last one; an older one goes.
    pub fn rotate(&self, algorithm: SigningAlgorithm) {
        if self.0.state.keys.rotate(algorithm).is_err() {
            tracing::error!(target: "wicketgate::demo", algorithm = algorithm.name(), "no key could be made, the old one stays");
        }
    }

    /// Takes the last key out of the set, so that its tokens verify no more.
    pub fn forget_previous(&self) {
        self.0.state.keys.forget_previous();
    }

    /// The id of the key that signs now.
    pub fn kid(&self) -> String {
        self.0.state.keys.current().kid.clone()
    }

    pub fn counts(&self) -> Counts {
        let [discovery, key_set, token] =
            [&self.0.state.discovery, &self.0.state.key_set, &self.0.state.token].map(|count| count.load(Ordering::Relaxed));
        Counts { discovery, key_set, token, management: self.0.state.management.count() }
    }

    /// Answers for the metadata and the key set with this fault from now on; `None` ends it.
    pub fn misbehave(&self, fault: Option<Fault>) {
        *self.0.state.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Signs exactly this header and these claims with the current key.
    pub fn sign(&self, header: Value, claims: Value) -> String {
        or_empty(self.0.state.keys.current().sign(&header, &claims))
    }

    /// An access token as Logto makes them.
    pub fn token(&self, request: TokenRequest) -> String {
        or_empty(self.0.state.access_token(request))
    }
}

/// Signing only fails if the cryptographic library does; an empty token is then refused wherever it is shown.
fn or_empty(token: Result<String, Unspecified>) -> String {
    token.unwrap_or_else(|_| {
        tracing::error!(target: "wicketgate::demo", "no token could be signed");
        String::new()
    })
}

/// What the endpoints share.
pub struct State {
    pub url: String,
    tenant: Mutex<Tenant>,
    grants: Mutex<Grants>,
    token_lifetime_seconds: i64,
    pub keys: Keys,
    fault: Mutex<Option<Fault>>,
    discovery: AtomicU64,
    key_set: AtomicU64,
    token: AtomicU64,
    management: Management,
}

impl State {
    /// The tenant as it is now. Two locks are never held at once.
    pub fn tenant(&self) -> MutexGuard<'_, Tenant> {
        self.tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds that an access token for this resource lives.
    pub fn lifetime(&self, resource: &Resource) -> i64 {
        resource.access_token_ttl.unwrap_or(self.token_lifetime_seconds)
    }

    /// Claims and header of Logto's access tokens, complete: it adds no `nbf`, no roles and nothing of the session.
    pub fn access_token(&self, request: TokenRequest) -> Result<String, Unspecified> {
        let TokenRequest { subject, client_id, resource, scope, organization_id, expires_in, claims: further } = request;
        let now = clock::unix_now();
        let mut claims = json!({
            "jti": random_text()?,
            "sub": subject,
            "iat": now,
            "exp": now.saturating_add(expires_in),
            "client_id": client_id,
            "iss": self.url,
            "aud": resource,
        });
        let optional = [("scope", scope), ("organization_id", organization_id)];
        for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            claims[name] = Value::from(value);
        }
        for (name, value) in further {
            claims[name] = value;
        }
        // One look at the current key: a rotation between two would name a key that did not sign.
        let key: Arc<SigningKey> = self.keys.current();
        key.sign(&json!({ "alg": key.algorithm.name(), "typ": "at+jwt", "kid": key.kid }), &claims)
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Reply {
    let (method, path) = (request.method().as_str(), request.uri().path());
    match (method, path) {
        ("GET" | "HEAD", "/oidc/.well-known/openid-configuration" | "/oidc/.well-known/oauth-authorization-server") => {
            state.discovery.fetch_add(1, Ordering::Relaxed);
            publish(&state, &request, documents::metadata).await
        }
        ("GET" | "HEAD", "/oidc/jwks") => {
            state.key_set.fetch_add(1, Ordering::Relaxed);
            publish(&state, &request, documents::key_set).await
        }
        ("POST", "/oidc/token") => {
            state.token.fetch_add(1, Ordering::Relaxed);
            token_endpoint::answer(&state, request).await
        }
        (_, path) if path.starts_with(management::PREFIX) => management::answer(&state, request).await,
        _ => Refusal::unknown_route(method, path).reply(&state.url),
    }
}

async fn publish(state: &State, request: &Request<Incoming>, document: fn(&State, Option<Fault>) -> Document) -> Reply {
    let fault = *state.fault.lock().unwrap_or_else(PoisonError::into_inner);
    let fault = fault.filter(|fault| *fault != Fault::Redirect || request.uri().query() != Some(MOVED));
    let document = document(state, fault);
    match fault {
        Some(fault) => faults::answer(fault, request.uri().path(), request.headers(), document).await,
        None => document.reply(request.headers()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use reqwest::{Client, Response};

    use super::*;
    use crate::keys::KeySet;

    async fn start() -> Issuer {
        Issuer::start(SocketAddr::from(([127, 0, 0, 1], 0)), Settings::default()).await.unwrap()
    }

    fn client() -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
    }

    async fn get(issuer: &Issuer, path: &str) -> Response {
        client().get(format!("http://{}{path}", issuer.address())).send().await.unwrap()
    }

    async fn json_of(response: Response) -> Value {
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    fn part(token: &str, i: usize) -> Value {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(i).unwrap()).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn metadata_are_where_logto_has_them_and_lead_to_the_key_set() {
        let issuer = start().await;
        let openid = json_of(get(&issuer, "/oidc/.well-known/openid-configuration").await).await;
        let oauth = json_of(get(&issuer, "/oidc/.well-known/oauth-authorization-server").await).await;
        assert_eq!(openid, oauth);
        assert_eq!(openid["issuer"], issuer.url());
        let keys = client().get(openid["jwks_uri"].as_str().unwrap()).send().await.unwrap().bytes().await.unwrap();
        assert!(KeySet::parse(&keys, 10).unwrap().names(&issuer.kid()));
        assert_eq!(issuer.counts(), Counts { discovery: 2, key_set: 1, ..Counts::default() });
        for path in ["/.well-known/openid-configuration/oidc", "/.well-known/oauth-authorization-server/oidc", "/oidc/reg", "/"] {
            let response = get(&issuer, path).await;
            assert_eq!(response.status(), 404, "{path}");
            assert_eq!(json_of(response).await["error"], "invalid_request", "{path}");
        }
    }

    #[tokio::test]
    async fn the_key_set_is_revalidated_with_its_etag() {
        let issuer = start().await;
        let first = get(&issuer, "/oidc/jwks").await;
        assert_eq!(first.headers()["content-type"], "application/jwk-set+json; charset=utf-8");
        assert_eq!(first.headers()["cache-control"], "no-cache, max-age=0, must-revalidate");
        let etag = first.headers()["etag"].clone();
        let url = format!("{}/jwks", issuer.url());
        let again = || client().get(&url).header("if-none-match", &etag).send();
        let unchanged = again().await.unwrap();
        assert_eq!((unchanged.status().as_u16(), &unchanged.headers()["etag"]), (304, &etag));
        let head = client().head(&url).send().await.unwrap();
        let body = first.bytes().await.unwrap();
        assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &body.len().to_string().parse().unwrap()));
        issuer.rotate(SigningAlgorithm::EdDsa);
        assert_eq!(again().await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn an_access_token_has_the_header_and_claims_of_logtos_and_no_others() {
        let issuer = start().await;
        issuer.rotate(SigningAlgorithm::Rs256);
        let plain = issuer.token(TokenRequest::default());
        assert_eq!(part(&plain, 0), json!({ "alg": "RS256", "typ": "at+jwt", "kid": issuer.kid() }));
        let names = |token: &str| part(token, 1).as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&plain), "aud client_id exp iat iss jti sub");
        let full = issuer.token(TokenRequest {
            scope: Some("read:weather".to_owned()),
            organization_id: Some("org".to_owned()),
            expires_in: -60,
            claims: Map::from_iter([("aud".to_owned(), json!(["a", "b"]))]),
            ..TokenRequest::default()
        });
        assert_eq!(names(&full), "aud client_id exp iat iss jti organization_id scope sub");
        let claims = part(&full, 1);
        assert_eq!((claims["exp"].as_i64(), &claims["aud"]), (claims["iat"].as_i64().map(|iat| iat - 60), &json!(["a", "b"])));
    }

    #[tokio::test]
    async fn what_is_signed_is_exactly_what_was_given() {
        let issuer = start().await;
        let token = issuer.sign(json!({ "alg": "none", "crit": ["x"] }), json!("no claims"));
        assert_eq!((part(&token, 0), part(&token, 1)), (json!({ "alg": "none", "crit": ["x"] }), json!("no claims")));
    }

    #[tokio::test]
    async fn each_fault_shows_in_the_answer_and_ends_when_it_is_taken_back() {
        let issuer = start().await;
        issuer.misbehave(Some(Fault::Html));
        assert_eq!(get(&issuer, "/oidc/jwks").await.headers()["content-type"], "text/html; charset=utf-8");
        issuer.misbehave(Some(Fault::Status(503)));
        assert_eq!(get(&issuer, "/oidc/jwks").await.status(), 503);
        issuer.misbehave(Some(Fault::Redirect));
        let redirect = get(&issuer, "/oidc/jwks").await;
        assert_eq!(redirect.status(), 302);
        assert_eq!(get(&issuer, redirect.headers()["location"].to_str().unwrap()).await.status(), 200);
        issuer.misbehave(Some(Fault::EmptyKeySet));
        assert_eq!(json_of(get(&issuer, "/oidc/jwks").await).await, json!({ "keys": [] }));
        issuer.misbehave(Some(Fault::WrongIssuer));
        assert_ne!(json_of(get(&issuer, "/oidc/.well-known/openid-configuration").await).await["issuer"], issuer.url());
        issuer.misbehave(None);
        assert_eq!(json_of(get(&issuer, "/oidc/jwks").await).await["keys"][0]["kid"], issuer.kid());
    }

    #[tokio::test]
    async fn a_truncated_document_has_a_length_that_it_does_not_reach() {
        let issuer = start().await;
        issuer.misbehave(Some(Fault::Truncated));
        let mut response = get(&issuer, "/oidc/jwks").await;
        assert_eq!(response.status(), 200);
        let promised = response.content_length().unwrap();
        let half = response.chunk().await.unwrap().unwrap();
        assert_eq!(half.len() as u64, promised / 2);
        assert!(response.chunk().await.is_err());
    }

    #[tokio::test]
    async fn an_endless_document_goes_on_and_a_slow_one_only_begins() {
        let issuer = start().await;
        issuer.misbehave(Some(Fault::Endless));
        let mut response = get(&issuer, "/oidc/jwks").await;
        let mut bytes = 0;
        while bytes < 4 << 20 {
            bytes += response.chunk().await.unwrap().unwrap().len();
        }
        issuer.misbehave(Some(Fault::SlowDrip));
        assert_eq!(get(&issuer, "/oidc/jwks").await.chunk().await.unwrap().unwrap(), "{");
    }

    #[tokio::test]
    async fn a_hanging_issuer_says_nothing_and_can_be_stopped_all_the_same() {
        let issuer = start().await;
        issuer.misbehave(Some(Fault::Hang));
        let url = format!("{}/jwks", issuer.url());
        let timed_out = client().get(&url).timeout(Duration::from_millis(50)).send().await.unwrap_err();
        assert!(timed_out.is_timeout());
        issuer.stop().await;
        assert!(client().get(&url).send().await.unwrap_err().is_connect());
        assert!(!issuer.token(TokenRequest::default()).is_empty());
    }
}
