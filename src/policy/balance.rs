//! How a service's endpoints are chosen, left alone and tried again, compiled.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::ClaimPath;
pub use crate::config::RetryOn;

/// Everything that is said of choosing among the endpoints of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancing {
    pub balance: Balance,
    /// How long an endpoint that comes back takes to its full share.
    pub slow_start: Duration,
    pub health_check: Option<HealthCheck>,
    pub ejection: Ejection,
    pub retries: Retries,
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// How the endpoint of a request is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastRequests,
    HashHeader(HeaderName),
    HashClaim(ClaimPath),
}

/// How endpoints are asked how they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub question: Question,
    pub interval: Duration,
    pub timeout: Duration,
    /// Good ones in a row that bring an endpoint back.
    pub healthy: u32,
    /// Bad ones in a row that take it out.
    pub unhealthy: u32,
    pub host: Option<HeaderValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Http {
        path: http::uri::PathAndQuery,
        good: Vec<StatusCode>,
    },
    /// `grpc.health.v1.Health/Check` of a service.
    Grpc {
        service: String,
    },
}

/// When an endpoint is left alone, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    pub failures: u32,
    pub time: Duration,
    pub time_max: Duration,
    /// Of a hundred.
    pub max_ejected: u32,
    pub statuses: Vec<StatusCode>,
}

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Tries of one request, the first one included.
    pub attempts: u32,
    pub on: Vec<RetryOn>,
    /// Of a hundred.
    pub budget: u32,
    pub budget_floor: u32,
    pub replay_bytes: usize,
    pub per_try_timeout: Option<Duration>,
    pub backoff: Duration,
}

/// When requests are answered at once instead of being sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Of a hundred.
    pub failures: u32,
    pub requests: u32,
    pub window: Duration,
    pub open: Duration,
    pub probes: u32,
    pub statuses: Vec<StatusCode>,
}

impl Balancing {
    /// That of the gate's own endpoints, which are nowhere else.
    pub(super) fn none() -> Self {
        let zero = Duration::ZERO;
        Self {
            balance: Balance::RoundRobin,
            slow_start: zero,
            health_check: None,
            ejection: Ejection { failures: 1, time: zero, time_max: zero, max_ejected: 0, statuses: Vec::new() },
            retries: Retries {
                attempts: 1,
                on: Vec::new(),
                budget: 0,
                budget_floor: 0,
                replay_bytes: 0,
                per_try_timeout: None,
                backoff: zero,
            },
            circuit_breaker: None,
        }
    }
}

impl Retries {
    pub fn names(&self, on: RetryOn) -> bool {
        self.on.contains(&on)
    }

    /// Whether anything is tried again after it may have reached the service.
    pub fn repeats(&self) -> bool {
        self.attempts > 1 && self.on.iter().any(|on| !matches!(on, RetryOn::Connect | RetryOn::Unsent))
    }
}

/// Whether doing it twice is doing it once (RFC 9110 §9.2.2). A method that is not known here is none.
pub fn is_idempotent(method: &Method) -> bool {
    const IDEMPOTENT: [Method; 6] = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];
    IDEMPOTENT.contains(method)
}
