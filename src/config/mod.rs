//! What the operator wrote: the YAML document as types, with every fault found at once.
//!
//! The types here are text, not meaning: `policy::compile` gives them theirs. Their doc comments are the
//! descriptions in the JSON Schema that `wicketgate schema` prints.

mod audit;
mod balance;
mod consent;
mod cors;
mod document;
mod fault;
mod introspection;
mod issuer;
mod limits;
mod listen;
mod logto;
mod rate;
mod read;
mod registration;
mod revocation;
mod rewrite;
mod route;
mod secret;
mod shapes;
mod tls;
mod tree;
mod units;
mod upgrade;
mod upstream;

use schemars::JsonSchema;
use serde::Deserialize;

pub use audit::{Audit, AuditRecords, AuditTo, AuditToKeys, Facility, RouteAudit};
pub use balance::{Balance, BalanceKeys, CircuitBreaker, Ejection, HashKeys, HealthCheck, Retries, RetryOn};
pub use consent::{Consent, ConsentCheck, OnError};
pub use cors::Cors;
pub use document::{Document, json_schema};
pub use fault::{ConfigErrors, Fault, Place, Trail};
pub use introspection::{AudienceCheck, ClientAuth, Introspection};
pub use issuer::{Issuer, IssuerKeys};
pub use limits::{Limits, Timeouts};
pub use listen::{Listen, ListenKeys, RedirectToHttps, Spoken};
pub use logto::{AppKind, Logto, LogtoRole, RoleKind, ScopeNames, ThirdPartyApp};
pub use rate::{RateKey, RateLimit, RateLimitKeys, State};
pub use registration::{Advertise, Ceiling, Grant, Hosts, Redirect, Registration};
pub use revocation::Revocations;
pub use rewrite::{RequestHeaders, ResponseHeaders, Rewrite, RouteRewrite};
pub use route::{Access, Mode, Route, Streams};
pub use secret::Secret;
pub use shapes::{Entries, OneOrMany};
pub use tls::{
    Certificate, CertificateHeaders, CertificateMode, CertificatePart, CertificateRule, CertificateRuleKeys, ClientCertificates, Tls,
    TlsVersion,
};
pub use tree::Environment;
pub use units::{Size, Span};
pub use upgrade::Upgrade;
pub use upstream::{Dns, Endpoint, EndpointKeys, Protocol, Upstream, UpstreamKeys, UpstreamTimeouts, UpstreamTls};

/// The configuration of Wicketgate: a service behind the gate, its issuer, and its routes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Wicketgate configuration")]
pub struct Config {
    /// Where clients connect: `host:port`, `unix:/path` or `fd:NAME`, or a map with more about it; a list for several.
    #[serde(default = "default_listen")]
    pub listen: OneOrMany<Listen>,
    /// Where operators connect: `/metrics`, `/livez`, `/readyz`, `/status`, `/revocations`, `/drain`. Keep it off the public network.
    #[serde(default = "default_admin")]
    pub admin: String,
    /// Whose tokens count: the issuer URL, or a map with more about it, or a list of either.
    #[serde(default)]
    pub issuer: Option<OneOrMany<Issuer>>,
    /// The services behind the gate.
    pub services: Vec<Service>,
    /// Serve TLS on the listeners, with these certificates.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Addresses (CIDR) whose `X-Forwarded-*` and `Forwarded` headers are believed. Nobody's by default.
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// How much of each thing the gate takes.
    #[serde(default)]
    pub limits: Limits,
    /// How long each step may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How issuers' key sets are fetched and kept.
    #[serde(default)]
    pub keys: Keys,
    /// How access tokens are checked and remembered.
    #[serde(default)]
    pub tokens: Tokens,
    /// What is logged.
    #[serde(default)]
    pub log: Log,
    /// The audit trail: who did what, and who was refused. There is none by default.
    #[serde(default)]
    pub audit: Option<Audit>,
    /// How the gate goes down.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// How a new process takes over from a running one, without losing a request. Off without this key.
    #[serde(default)]
    pub upgrade: Option<Upgrade>,
    /// How changes of this file are noticed.
    #[serde(default)]
    pub reload: Reload,
    /// What is counted across requests, and whether other instances count with this one.
    #[serde(default)]
    pub state: State,
    /// What is revoked by the operator and by Logto's webhook, and for how long.
    #[serde(default)]
    pub revocations: Revocations,
    /// Logto's Management API: credentials, and what the tenant should hold.
    #[serde(default)]
    pub logto: Option<Logto>,
    /// Agents may register themselves (RFC 7591). Off without this key.
    #[serde(default)]
    pub registration: Option<Registration>,
}

/// A service behind the gate.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The name of the service in logs and metrics.
    pub name: String,
    /// Host names that this service answers to; all of them by default.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The path below which this service lives; the longest prefix of whole segments wins.
    #[serde(default = "default_path")]
    pub path: String,
    /// The API resource indicator: what a token's `aud` must contain, exactly. A list for several; the first is published.
    pub resource: OneOrMany<String>,
    /// Where clients reach this service, when that is not the resource's own address.
    #[serde(default)]
    pub public_url: Option<String>,
    /// Where the service is: `http://host:port`, `https://host:port` or `unix:/path`, or a map with more about it.
    pub upstream: Upstream,
    /// Issuers whose tokens this service accepts; all top-level ones by default.
    #[serde(default)]
    pub issuer: Option<OneOrMany<Issuer>>,
    /// Ask the issuer about opaque tokens; they are refused by default.
    #[serde(default)]
    pub introspection: Option<Introspection>,
    /// Let third-party apps in only while their users' consent stands; the token's word is enough by default.
    #[serde(default)]
    pub consent: Option<Consent>,
    /// Route keys (`[METHODS ]PATH`) and who may use them. What is not named here is refused.
    pub routes: Entries<Route>,
    /// Header names and the claims that fill them, instead of the default identity headers.
    #[serde(default)]
    pub headers: Option<Entries<String>>,
    /// Header names and what of the client's certificate fills them. None by default.
    #[serde(default)]
    pub client_certificate_headers: Option<CertificateHeaders>,
    /// Pass the caller's `Authorization` header on. Only for an upstream that is the same resource.
    #[serde(default)]
    pub forward_authorization: bool,
    /// Scopes and what a user reads about each when asked to consent. Made so by `wicketgate logto apply`.
    #[serde(default)]
    pub scopes: Option<Entries<String>>,
    /// How long this resource's access tokens live. Made so by `wicketgate logto apply`.
    #[serde(default)]
    pub access_token_ttl: Option<Span>,
    /// How often callers may ask this service, whatever the route; a list for several limits.
    #[serde(default)]
    pub rate_limit: Option<OneOrMany<RateLimit>>,
    /// How path and host change on the way to the upstream; they do not by default.
    #[serde(default)]
    pub rewrite: Option<Rewrite>,
    /// Headers that are set, added or removed on the way to the upstream.
    #[serde(default)]
    pub request_headers: Option<RequestHeaders>,
    /// Headers that are set, added or removed on the way to the client.
    #[serde(default)]
    pub response_headers: Option<ResponseHeaders>,
    /// Which pages may call from a browser; without it the upstream answers for itself.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// The longest body of a request to this service, instead of `limits.body_bytes`.
    #[serde(default)]
    pub body_bytes: Option<Size>,
    /// Answer requests that came without TLS with 308 to https: `true`, or the port where https is.
    #[serde(default)]
    pub redirect_to_https: Option<RedirectToHttps>,
}

/// How issuers' key sets are fetched and kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// How often a key set is fetched anew, give or take a tenth.
    pub refresh: Span,
    /// The least time between two fetches that unknown key ids cause.
    pub cooldown: Span,
    /// How long the last good key set counts while the issuer cannot be reached.
    pub max_stale: Span,
    /// How long one fetch may take.
    pub timeout: Span,
}

/// How access tokens are checked and remembered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// How far clocks may differ when `exp`, `nbf` and `iat` are compared.
    pub leeway: Span,
    /// How many verified tokens are remembered, so that a signature is checked once. 0 remembers none.
    pub remembered: u32,
}

/// What is logged, to standard output.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The least level that is written.
    pub level: Level,
    /// One JSON object a line, or text for a terminal.
    pub format: LogFormat,
    /// One line a request.
    pub access: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Text,
}

/// How the gate goes down after SIGTERM or SIGINT.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long `/readyz` says 503 while requests are still served, so that load balancers look away first.
    pub delay: Span,
    /// How long requests in flight may take after that.
    pub deadline: Span,
}

/// How changes of this file, and of the files that it names, are noticed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reload {
    /// How often their content is compared. SIGHUP reloads at once.
    pub interval: Span,
}

fn default_listen() -> OneOrMany<Listen> {
    OneOrMany(vec![Listen::at("0.0.0.0:8080")])
}

fn default_admin() -> String {
    "127.0.0.1:9090".to_owned()
}

fn default_path() -> String {
    "/".to_owned()
}

impl Default for Keys {
    fn default() -> Self {
        Self { refresh: Span::seconds(300), cooldown: Span::seconds(10), max_stale: Span::seconds(86_400), timeout: Span::seconds(5) }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self { leeway: Span::seconds(30), remembered: 10_000 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: Level::Info, format: LogFormat::Json, access: true }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { delay: Span::seconds(5), deadline: Span::seconds(25) }
    }
}

impl Default for Reload {
    fn default() -> Self {
        Self { interval: Span::seconds(2) }
    }
}
