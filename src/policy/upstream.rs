//! Where a service is: its endpoints, how they are spoken to, and what they may be asked to bear.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use super::Balancing;
use crate::config::Protocol;

/// Where a service's requests are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Scheme and authority of the first endpoint, with `/` as path.
    pub base: Uri,
    pub endpoints: Vec<EndpointAt>,
    pub protocol: Protocol,
    /// `None` for endpoints in clear text.
    pub tls: Option<Arc<UpstreamTls>>,
    pub bounds: UpstreamBounds,
    pub timeouts: UpstreamTimeouts,
    pub dns: Dns,
    pub balancing: Arc<Balancing>,
}

/// One endpoint as the operator wrote it. A name may come to be several addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointAt {
    /// In logs and metrics.
    pub label: Arc<str>,
    pub at: At,
    /// Whose certificate is expected there, when nothing else is said.
    pub host: String,
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum At {
    Address(SocketAddr),
    Name(String, u16),
    Unix(PathBuf),
}

/// How an endpoint proves who it is, and how the gate does.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Authorities, PEM; those of the system without it.
    pub ca_pem: Option<Vec<u8>>,
    /// The gate's own certificate and key, PEM.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that is asked for and verified, instead of the endpoint's host.
    pub server_name: Option<String>,
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// What one endpoint is asked to bear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamBounds {
    /// Connections to one endpoint, tunnels among them.
    pub connections: usize,
    /// Requests that wait for a connection of one endpoint when it has as many as it may.
    pub pending: usize,
    /// Connections to one endpoint that are kept open ahead of need.
    pub warm: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams: usize,
    /// How long a connection is kept on which nothing is asked.
    pub idle: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    /// To the first byte of an answer, where a route says nothing else.
    pub response: Duration,
    /// Between two pieces of an answer's body.
    pub idle: Duration,
    /// From a request's head to the last byte of its answer.
    pub total: Option<Duration>,
    /// For what is left of a request's body when its answer has ended.
    pub body: Duration,
}

/// How names are resolved, and how long an answer counts, whatever it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    pub least: Duration,
    pub longest: Duration,
    /// Who is asked; none for the system's resolver.
    pub servers: Vec<SocketAddr>,
}

impl Upstream {
    /// That of the gate's own endpoints, which are nowhere else.
    pub(super) fn nowhere() -> Self {
        let zero = Duration::ZERO;
        Self {
            base: Uri::default(),
            endpoints: Vec::new(),
            protocol: Protocol::Auto,
            tls: None,
            bounds: UpstreamBounds { connections: 0, pending: 0, warm: 0, streams: 0, idle: zero },
            timeouts: UpstreamTimeouts { connect: zero, response: zero, idle: zero, total: None, body: zero },
            dns: Dns { least: zero, longest: zero, servers: Vec::new() },
            balancing: Arc::new(Balancing::none()),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            let gap = if i == 0 { "" } else { ", " };
            match endpoint.at {
                At::Unix(_) => write!(f, "{gap}{}", endpoint.label)?,
                At::Address(_) | At::Name(..) => write!(f, "{gap}{scheme}://{}/", endpoint.label)?,
            }
        }
        Ok(())
    }
}
