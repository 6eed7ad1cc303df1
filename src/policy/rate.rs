//! What rate limits and shared state mean, compiled.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::{Mode, Secret};
pub use crate::config::RateKey;

/// How often who may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Place and numbers: counters are kept as long as this is the same.
    pub id: String,
    /// Its name to callers, in metrics and in the log: `route-client-1m`.
    pub name: String,
    /// The service that it belongs to, and the route; `None` for a limit of the whole service.
    pub route: Option<Arc<str>>,
    pub by: Vec<RateKey>,
    pub requests: u32,
    pub per: Duration,
    pub burst: u32,
    pub mode: Mode,
}

impl RateLimit {
    /// The time that one request takes up.
    pub fn every(&self) -> Duration {
        self.per / self.requests.max(1)
    }

    /// Whether it asks for something that only a token says.
    pub fn needs_token(&self) -> bool {
        self.by.iter().any(|key| *key != RateKey::Address)
    }
}

/// `60 per 1m by client and subject, 10 at once`
impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by: Vec<&str> = self.by.iter().map(|key| key.word()).collect();
        write!(f, "{} per {} by {}", self.requests, crate::config::Span(self.per), by.join(" and "))?;
        if self.burst != self.requests {
            write!(f, ", {} at once", self.burst)?;
        }
        match self.mode {
            Mode::Enforce => Ok(()),
            Mode::Report => f.write_str(" (report)"),
        }
    }
}

/// All limits that a request to one route meets: its own, then those of its service.
#[derive(Default)]
pub struct RateLimits {
    pub list: Vec<Arc<RateLimit>>,
    /// The value of `RateLimit-Policy`.
    pub field: Option<HeaderValue>,
    /// Whether one of them counts by address.
    pub by_address: bool,
}

/// Those of the service are compared, and shown, with the service.
impl fmt::Debug for RateLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list.iter().filter(|limit| limit.route.is_some())).finish()
    }
}

/// Where counters live.
#[derive(Debug)]
pub struct State {
    pub keys: usize,
    pub redis: Option<Redis>,
}

/// The Redis that instances share.
#[derive(Debug, Clone)]
pub struct Redis {
    pub url: Secret,
    /// Scheme, host and port: what may be shown.
    pub shown: String,
    pub ca_pem: Option<Vec<u8>>,
    pub prefix: String,
    pub timeout: Duration,
}

impl PartialEq for Redis {
    fn eq(&self, other: &Self) -> bool {
        let Self { url, shown: _, ca_pem, prefix, timeout } = self;
        (url.expose(), ca_pem, prefix, timeout) == (other.url.expose(), &other.ca_pem, &other.prefix, &other.timeout)
    }
}
