//! What the configuration means: compiled once, never changed, swapped whole.
//!
//! **Invariant:** `compile` is the only maker of a [`Policy`]. There is no `validate()`: a policy that exists is valid.

mod audit;
mod balance;
mod changes;
mod claims;
mod compile;
mod compile_audit;
mod compile_balance;
mod compile_consent;
mod compile_cors;
mod compile_introspection;
mod compile_issuer;
mod compile_limits;
mod compile_listen;
mod compile_logto;
mod compile_rate;
mod compile_registration;
mod compile_rewrite;
mod compile_service;
mod compile_tls;
mod compile_upgrade;
mod compile_upstream;
mod compile_webhook;
mod consent;
mod cors;
mod describe;
mod header_changes;
mod introspection;
mod limits;
mod listen;
mod managed;
mod path;
mod rate;
mod registration;
mod revocation;
mod rewriting;
mod route_key;
mod scope;
mod step_up;
mod table;
mod tenant;
mod tls;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use http::HeaderName;
use ipnet::IpNet;

pub use audit::{Audit, AuditTo, Decided, Facility, RouteAudit, SyslogServer};
pub use balance::{Balance, Balancing, CircuitBreaker, Ejection, HealthCheck, Question, Retries, RetryOn, is_idempotent};
pub use changes::changes;
pub use claims::{ClaimPath, ClaimRule, ClaimValue};
pub use compile::{Files, compile};
pub use compile_issuer::{ALGORITHMS, is_loopback};
pub use compile_upgrade::Upgrade;
pub use compile_webhook::WEBHOOK_WINDOW_MS;
pub use consent::Consent;
pub use cors::{Cors, OriginRule, origin, preflight};
pub use header_changes::HeaderChanges;
pub use introspection::{EndpointSource, Introspection};
pub use limits::{Limits, Timeouts};
pub use listen::{Listen, Listener, Spoken};
pub use managed::{Managed, fold};
pub use path::{CheckedPath, PathFault};
pub use rate::{RateKey, RateLimit, RateLimits, Redis, State};
pub use registration::{OwnEndpoint, RedirectRules, Registration};
pub use revocation::{REVOKED_LIFT_WINDOW_MS, Revocations};
pub use rewriting::{HostRewrite, PathRewrite, Rewriting};
pub use route_key::{Methods, RouteKey};
pub use scope::{ScopeRule, Scopes};
pub use step_up::StepUp;
pub use table::{Found, Leaf, Parameters, Site, Tree};
pub use tenant::{Logto, LogtoAccess, ScopeOf, Tenant, TenantApp, TenantResource, TenantRole, TenantScope, Webhook};
pub use tls::{CertificateHeader, CertificatePart, CertificateRule, ClientCertificates, Tls, TlsFiles, TlsVersion};

pub use upstream::{At, Dns, EndpointAt, Upstream, UpstreamBounds, UpstreamTimeouts, UpstreamTls};

pub use crate::config::{Advertise, AppKind, ClientAuth, Grant, Keys, Log, LogFormat, Mode, Protocol, RoleKind, Secret, Streams};

/// Everything that the operator's document means.
#[derive(Debug)]
pub struct Policy {
    /// SHA-256 over the document and every file that it names, in hex: two policies with one hash are the same.
    pub hash: String,
    pub listeners: Vec<Listener>,
    pub admin: SocketAddr,
    pub issuers: Vec<Issuer>,
    pub services: Vec<Service>,
    /// Hosts that some service names.
    pub hosts: HashMap<String, Site>,
    /// All other hosts.
    pub other_hosts: Site,
    pub tls: Option<Tls>,
    pub trusted_proxies: Vec<IpNet>,
    pub managed: Managed,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub keys: Keys,
    /// Seconds by which clocks may differ.
    pub leeway: i64,
    pub remembered_tokens: usize,
    pub log: Log,
    pub audit: Option<Audit>,
    pub shutdown_delay: Duration,
    pub shutdown_deadline: Duration,
    pub upgrade: Option<Upgrade>,
    pub reload_interval: Duration,
    pub state: State,
    pub logto: Option<Logto>,
    pub revocations: Revocations,
    pub registration: Option<Arc<Registration>>,
    /// What the operator should know although it is allowed.
    pub warnings: Vec<String>,
}

/// An issuer whose tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The issuer identifier, compared with `iss` code point by code point.
    pub url: String,
    pub source: KeySource,
    pub algorithms: Vec<String>,
    /// Accepted `typ` values in lower case, without `application/`.
    pub token_types: Vec<String>,
    pub untyped_tokens: bool,
    pub allow_http: bool,
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Metadata documents to try in turn; the first that answers names the key set.
    Discovery(Vec<String>),
    JwksUri(String),
    File(Vec<u8>),
}

/// A service behind the gate.
#[derive(Debug)]
pub struct Service {
    pub name: Arc<str>,
    /// Without a closing slash.
    pub prefix: String,
    /// Exact audiences; the first is the published resource identifier.
    pub audiences: Vec<String>,
    /// Where a client finds the metadata document (RFC 9728 §3.1).
    pub metadata_url: String,
    pub upstream: Upstream,
    /// Indexes into `Policy::issuers`.
    pub issuers: Vec<usize>,
    /// How the issuer is asked about opaque tokens; `None` refuses them.
    pub introspection: Option<Arc<Introspection>>,
    /// How Logto is asked whether a user's consent still stands; `None` takes the token's word.
    pub consent: Option<Arc<Consent>>,
    pub routes: Vec<Route>,
    pub tree: Tree<Target>,
    /// Shared, so that headers made for a token are known to be made for this very list.
    pub identity: Arc<[IdentityHeader]>,
    /// What the upstream is told of the client's certificate.
    pub certificate_headers: Arc<[CertificateHeader]>,
    pub forward_authorization: bool,
    pub rate_limits: Vec<Arc<RateLimit>>,
    /// What changes on the way, where a route says nothing of its own; and on refusals that have no route.
    pub rewriting: Arc<Rewriting>,
    /// Which pages may read refusals that have no route.
    pub cors: Option<Arc<Cors>>,
    /// Scopes that some route asks for, for `scopes_supported`.
    pub scopes: Vec<String>,
    /// Whether this is not an operator's service but the gate's own endpoints of a host.
    pub own: bool,
}

/// What a path and a method lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Index into the service's routes.
    Route(usize),
    /// Where Logto tells of suspended and deleted users.
    Webhook,
    /// The protected-resource metadata of a service; whether it was asked for with a closing slash.
    Metadata { service: usize, slash: bool },
    /// Client registration and what belongs to it.
    Own(OwnEndpoint),
}

#[derive(Debug)]
pub struct Route {
    /// As the operator wrote it: the route's name in logs and metrics.
    pub key: Arc<str>,
    pub requirement: Requirement,
    /// Which certificate the client must have shown over TLS, beside all else.
    pub client_certificate: Option<CertificateRule>,
    pub timeout: Duration,
    pub mode: Mode,
    /// What becomes of an open stream when its token counts no more.
    pub streams: Streams,
    /// Whether a WebSocket may bring its token among the subprotocols that it offers.
    pub websocket_token: bool,
    pub rate_limits: RateLimits,
    /// The longest body of a request.
    pub body_bytes: u64,
    /// What the route says of the audit trail for itself.
    pub audit: Option<RouteAudit>,
    /// The port to which requests are sent that came without TLS; `None` serves them.
    pub redirect_to_https: Option<u16>,
    /// What changes on the way.
    pub rewriting: Arc<Rewriting>,
    /// Which pages may call; `None` leaves that to the upstream.
    pub cors: Option<Arc<Cors>>,
}

/// What a request must bring.
#[derive(Debug)]
pub enum Requirement {
    Public,
    Token(Rules),
}

/// What a valid token must say.
#[derive(Debug)]
pub struct Rules {
    pub scopes: ScopeRule,
    pub claims: Vec<ClaimRule>,
    pub clients: Vec<String>,
    pub step_up: StepUp,
}

/// A header that tells the upstream who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityHeader {
    pub name: HeaderName,
    pub claim: ClaimPath,
}

impl Service {
    /// Whether clients reach it at this host by the address that is published.
    pub fn is_published_at(&self, host: &str) -> bool {
        let uri = self.metadata_url.parse::<http::Uri>().ok();
        uri.and_then(|uri| uri.host().map(|known| known.eq_ignore_ascii_case(host))).unwrap_or(false)
    }
}

impl Policy {
    /// Whether this address is a trusted proxy's.
    pub fn trusts(&self, address: std::net::IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&address))
    }

    /// The index of the service that a host and a path lead to. `None` twice over: the outer for a host that nobody serves.
    pub fn service(&self, host: &str, path: &CheckedPath<'_>) -> Option<Option<usize>> {
        let site = match self.hosts.get(host) {
            Some(site) => site,
            None if self.other_hosts.is_empty() => return None,
            None => &self.other_hosts,
        };
        Some(site.find(path))
    }
}
