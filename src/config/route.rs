//! What the operator writes about one route: who may use it, and how.

use schemars::JsonSchema;
use serde::Deserialize;

use super::audit::RouteAudit;
use super::cors::Cors;
use super::listen::RedirectToHttps;
use super::rate::RateLimit;
use super::rewrite::{RequestHeaders, ResponseHeaders, Rewrite, RouteRewrite};
use super::shapes::{Entries, OneOrMany, short_or_long};
use super::tls::{CertificateRule, CertificateRuleKeys};
use super::units::{Size, Span};

/// Who may use a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everyone, without a token: the only word that opens a route.
    Public,
    /// Any valid token for this service's resource, whatever its scopes.
    Authenticated,
    /// A token with all of these scopes.
    All(Vec<String>),
    /// A token with one of these scopes at least.
    Any(Vec<String>),
}

/// A route with everything that can be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub access: Access,
    pub claims: Vec<(String, OneOrMany<String>)>,
    pub clients: Vec<String>,
    pub acr_values: Vec<String>,
    pub max_age: Option<Span>,
    pub client_certificate: Option<CertificateRuleKeys>,
    pub timeout: Option<Span>,
    pub mode: Mode,
    pub streams: Streams,
    pub websocket_token: bool,
    pub rate_limit: Vec<RateLimit>,
    pub body_bytes: Option<Size>,
    pub audit: Option<RouteAudit>,
    pub redirect_to_https: Option<RedirectToHttps>,
    pub rewriting: RouteRewrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A request that the rules refuse is refused.
    #[default]
    Enforce,
    /// A request that the rules refuse is recorded as such and let through without an identity that was not verified.
    Report,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Streams {
    /// A stream ends when its token counts no more.
    #[default]
    End,
    /// A stream goes on until one of its sides ends it.
    Keep,
}

/// The long form of a route.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteKeys {
    /// `public` or `authenticated`, when no scope is asked for.
    #[serde(default)]
    access: Option<Word>,
    /// A scope, or a list of which all are needed, or `{ any: [...] }`.
    #[serde(default)]
    scopes: Option<Scopes>,
    /// All of these scopes are needed.
    #[serde(default)]
    all: Option<OneOrMany<String>>,
    /// One of these scopes is enough.
    #[serde(default)]
    any: Option<OneOrMany<String>>,
    /// Claims that must equal a literal, one of a list, or a path parameter written `{name}`; `*` is any value.
    #[serde(default)]
    claims: Option<Entries<OneOrMany<String>>>,
    /// The only client_ids that may use the route.
    #[serde(default)]
    clients: Option<OneOrMany<String>>,
    /// How the user must have signed in: `acr` is one of these (RFC 9470).
    #[serde(default)]
    acr_values: Option<OneOrMany<String>>,
    /// How lately the user must have signed in: `auth_time` is no older (RFC 9470).
    #[serde(default)]
    max_age: Option<Span>,
    /// The client shows a certificate over TLS: `true` for any verified one, or what must stand in it.
    #[serde(default)]
    client_certificate: Option<CertificateRule>,
    /// How long the upstream may take to begin its answer; the default is `timeouts.response`.
    #[serde(default)]
    timeout: Option<Span>,
    /// `report` decides and records, but lets the request through.
    #[serde(default)]
    mode: Option<Mode>,
    /// `keep` lets WebSockets, server-sent events and gRPC streams go on when their token has expired or was revoked.
    #[serde(default)]
    streams: Option<Streams>,
    /// Take the token of a WebSocket from `Sec-WebSocket-Protocol: wicketgate.bearer.TOKEN` too: a page in a browser has no other way.
    #[serde(default)]
    websocket_token: bool,
    /// How often callers may use the route, beside the limits of the service; a list for several limits.
    #[serde(default)]
    rate_limit: Option<OneOrMany<RateLimit>>,
    /// The longest body of a request, instead of that of the service.
    #[serde(default)]
    body_bytes: Option<Size>,
    /// `always` or `never` record its requests in the audit trail, whatever `audit.records` says.
    #[serde(default)]
    audit: Option<RouteAudit>,
    /// Answer requests that came without TLS with 308 to https, in place of what the service says: `true`, `false` or a port.
    #[serde(default)]
    redirect_to_https: Option<RedirectToHttps>,
    /// How path and host change on the way to the upstream, in place of what the service says; `{}` for not at all.
    #[serde(default)]
    rewrite: Option<Rewrite>,
    /// Headers that are set, added or removed on the way to the upstream, in place of the service's.
    #[serde(default)]
    request_headers: Option<RequestHeaders>,
    /// Headers that are set, added or removed on the way to the client, in place of the service's.
    #[serde(default)]
    response_headers: Option<ResponseHeaders>,
    /// Which pages may call from a browser, in place of those of the service.
    #[serde(default)]
    cors: Option<Cors>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Word {
    Public,
    Authenticated,
}

/// `read:weather`, `[read:weather, admin:weather]` (all) or `{ any: [...] }`.
#[derive(Debug, Clone)]
struct Scopes(Access);

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScopesKeys {
    /// All of these scopes are needed.
    #[serde(default)]
    all: Option<OneOrMany<String>>,
    /// One of these scopes is enough.
    #[serde(default)]
    any: Option<OneOrMany<String>>,
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> serde::de::Visitor<'de> for Form {
            type Value = Scopes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a scope, a list of scopes, or { any: [...] }")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Scopes, E> {
                Ok(Scopes(Access::All(vec![text.to_owned()])))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Scopes, A::Error> {
                let list = OneOrMany::deserialize(serde::de::value::SeqAccessDeserializer::new(list))?;
                Ok(Scopes(Access::All(list.0)))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Scopes, A::Error> {
                let keys = ScopesKeys::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                let access = only_one(None, None, keys.all, keys.any).map_err(serde::de::Error::custom)?;
                access.map(Scopes).ok_or_else(|| serde::de::Error::custom("no scope; write all: or any: with a list of scopes"))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for Scopes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scopes".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let list = generator.subschema_for::<OneOrMany<String>>();
        let keys = generator.subschema_for::<ScopesKeys>();
        schemars::json_schema!({ "anyOf": [list, keys] })
    }
}

fn only_one(
    word: Option<Word>,
    scopes: Option<Scopes>,
    all: Option<OneOrMany<String>>,
    any: Option<OneOrMany<String>>,
) -> Result<Option<Access>, String> {
    let said = [
        word.map(|word| match word {
            Word::Public => Access::Public,
            Word::Authenticated => Access::Authenticated,
        }),
        scopes.map(|scopes| scopes.0),
        all.map(|scopes| Access::All(scopes.0)),
        any.map(|scopes| Access::Any(scopes.0)),
    ];
    let mut said = said.into_iter().flatten();
    match (said.next(), said.next()) {
        (_, Some(_)) => Err("who may use the route is said twice; keep one of access, scopes, all and any".to_owned()),
        (access, None) => Ok(access),
    }
}

impl Route {
    fn short(text: &str) -> Result<Self, String> {
        let access = match text {
            "public" => Access::Public,
            "authenticated" => Access::Authenticated,
            scope => Access::All(vec![scope.to_owned()]),
        };
        Ok(Self {
            access,
            claims: Vec::new(),
            clients: Vec::new(),
            acr_values: Vec::new(),
            max_age: None,
            client_certificate: None,
            timeout: None,
            mode: Mode::Enforce,
            streams: Streams::End,
            websocket_token: false,
            rate_limit: Vec::new(),
            body_bytes: None,
            audit: None,
            redirect_to_https: None,
            rewriting: RouteRewrite::default(),
        })
    }

    fn long(keys: RouteKeys) -> Result<Self, String> {
        let Some(access) = only_one(keys.access, keys.scopes, keys.all, keys.any)? else {
            return Err("a route without a requirement; write access: public, access: authenticated, or scopes".to_owned());
        };
        let claims = keys.claims.map(|claims| claims.0).unwrap_or_default();
        let clients = keys.clients.map(|clients| clients.0).unwrap_or_default();
        let acr_values = keys.acr_values.map(|values| values.0).unwrap_or_default();
        let asks = !claims.is_empty() || !clients.is_empty() || !acr_values.is_empty() || keys.max_age.is_some() || keys.websocket_token;
        if access == Access::Public && asks {
            return Err("a public route with rules about a token, which it does not ask for; write access: authenticated".to_owned());
        }
        let rate_limit = keys.rate_limit.map(|limits| limits.0).unwrap_or_default();
        Ok(Self {
            access,
            claims,
            clients,
            acr_values,
            max_age: keys.max_age,
            client_certificate: match keys.client_certificate {
                Some(CertificateRule::Some(rule)) => Some(rule),
                Some(CertificateRule::None) | None => None,
            },
            timeout: keys.timeout,
            mode: keys.mode.unwrap_or_default(),
            streams: keys.streams.unwrap_or_default(),
            websocket_token: keys.websocket_token,
            rate_limit,
            body_bytes: keys.body_bytes,
            audit: keys.audit,
            redirect_to_https: keys.redirect_to_https,
            rewriting: RouteRewrite {
                rewrite: keys.rewrite,
                request_headers: keys.request_headers,
                response_headers: keys.response_headers,
                cors: keys.cors,
            },
        })
    }
}

short_or_long!(
    Route,
    RouteKeys,
    "`public`, `authenticated`, a scope, or a map with access, scopes, all, any, claims, clients, acr_values, max_age, client_certificate, timeout, mode, streams, websocket_token, rate_limit, body_bytes, audit, redirect_to_https, rewrite, request_headers, response_headers, cors",
    Route::short,
    Route::long
);
