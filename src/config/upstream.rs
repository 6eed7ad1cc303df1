//! What the operator writes of where a service is: one place in short, or a map with everything that can be said of it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::balance::{Balance, CircuitBreaker, Ejection, HealthCheck, Retries};
use super::shapes::{OneOrMany, short_or_long};
use super::units::Span;

/// Where a service is, with everything that can be said of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamKeys {
    /// The one endpoint: `http://host:port`, `https://host:port` or `unix:/path`.
    pub url: Option<String>,
    /// Several endpoints, instead of `url`: all `http` (`unix:` among them) or all `https`.
    pub endpoints: Option<OneOrMany<Endpoint>>,
    /// What is spoken: `auto` is HTTP/1.1 in clear text, and over TLS what the endpoint chooses.
    pub protocol: Protocol,
    /// How `https` endpoints prove who they are, and how the gate does.
    pub tls: Option<UpstreamTls>,
    /// Connections to one endpoint at a time; a tunnel (WebSocket) and an HTTP/1.1 stream (SSE) each hold one.
    pub connections: u32,
    /// Requests that wait for a connection of an endpoint that has no more; the next is refused with 503.
    pub pending: u32,
    /// Connections to each endpoint that are kept open ahead of need.
    pub warm: u32,
    /// How long a connection is kept on which nothing is asked. Keep it below the idle time of the service.
    pub idle: Span,
    /// Requests at a time on one HTTP/2 connection.
    pub streams: u32,
    /// How long each step may take.
    pub timeouts: UpstreamTimeouts,
    /// How names are resolved, and how often: when their TTL says so, within these bounds.
    pub dns: Dns,
    /// How the endpoint of a request is chosen.
    pub balance: Balance,
    /// How long an endpoint that comes (back) takes to its full share. 0s: none.
    pub slow_start: Span,
    /// Ask endpoints how they are.
    pub health_check: Option<HealthCheck>,
    /// Leave endpoints alone for a while that fail.
    pub ejection: Ejection,
    /// When a request is tried again.
    pub retries: Retries,
    /// Answer at once, instead of sending, while most requests fail.
    pub circuit_breaker: Option<CircuitBreaker>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream(pub UpstreamKeys);

short_or_long!(
    Upstream,
    UpstreamKeys,
    "http://host:port, https://host:port, unix:/path, or a map with url or endpoints and more",
    |text: &str| Ok::<_, String>(Upstream(UpstreamKeys { url: Some(text.to_owned()), ..UpstreamKeys::default() })),
    |keys| Ok::<_, String>(Upstream(keys))
);

/// One of several endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointKeys {
    /// `http://host:port`, `https://host:port` or `unix:/path`.
    pub url: String,
    /// Its share of the requests, beside the weights of the others.
    #[serde(default = "default_weight")]
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(pub EndpointKeys);

short_or_long!(
    Endpoint,
    EndpointKeys,
    "http://host:port, https://host:port, unix:/path, or a map with url and weight",
    |text: &str| Ok::<_, String>(Endpoint(EndpointKeys { url: text.to_owned(), weight: default_weight() })),
    |keys| Ok::<_, String>(Endpoint(keys))
);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Auto,
    Http1,
    Http2,
}

/// How `https` endpoints prove who they are, and how the gate does. Files are read again when they change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// Certificates of the authorities that count, PEM, instead of the system's.
    pub ca_file: Option<String>,
    /// The gate's own certificate chain, PEM, for endpoints that ask for one.
    pub certificate_file: Option<String>,
    /// Its private key, PEM.
    pub key_file: Option<String>,
    /// The name that is asked for (SNI) and verified, instead of the host in the URL.
    pub server_name: Option<String>,
}

/// How long each step on the way to the service may take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTimeouts {
    /// To connect, TLS included, and to wait for a connection; `timeouts.connect` without it.
    pub connect: Option<Span>,
    /// To the first byte of the answer; `timeouts.response` without it. A route's `timeout` goes before.
    pub response: Option<Span>,
    /// Between two pieces of the answer's body; `timeouts.tunnel_idle` without it.
    pub idle: Option<Span>,
    /// From the request's head to the last byte of the answer; no limit without it.
    pub total: Option<Span>,
}

/// How names are resolved, and how long an answer counts, whatever it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// The least time between two resolutions of a name.
    pub least: Span,
    /// The longest.
    pub longest: Span,
    /// Servers that are asked (`address` or `address:port`), instead of those of the system's resolver.
    pub servers: Vec<String>,
}

fn default_weight() -> u32 {
    1
}

impl Default for UpstreamKeys {
    fn default() -> Self {
        Self {
            url: None,
            endpoints: None,
            protocol: Protocol::Auto,
            tls: None,
            connections: 16_384,
            pending: 1024,
            warm: 0,
            // Below the keep-alive time of common servers (Node: 5 s), so that a request seldom meets a connection that the
            // service is just closing.
            idle: Span::seconds(4),
            streams: 100,
            timeouts: UpstreamTimeouts::default(),
            dns: Dns::default(),
            balance: Balance::default(),
            slow_start: Span::seconds(10),
            health_check: None,
            ejection: Ejection::default(),
            retries: Retries::default(),
            circuit_breaker: None,
        }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self { least: Span::seconds(1), longest: Span::seconds(300), servers: Vec::new() }
    }
}
