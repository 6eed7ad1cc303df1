//! What the operator writes about a service with several endpoints: who is chosen, who is left alone, what is tried again.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::shapes::short_or_long;
use super::units::{Size, Span};

/// How the endpoint of a request is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Balance {
    /// Each in its turn.
    #[default]
    RoundRobin,
    /// Of two that are picked by chance, the one with fewer requests.
    LeastRequests,
    /// The same endpoint for the same value.
    Hash(HashKeys),
}

/// The same endpoint for the same value of a header or of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BalanceKeys {
    /// Of what the endpoint is made.
    pub hash: HashKeys,
}

/// Of what the endpoint is made: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashKeys {
    /// A header of the request.
    #[serde(default)]
    pub header: Option<String>,
    /// A claim of the verified token; nested ones by dots.
    #[serde(default)]
    pub claim: Option<String>,
}

short_or_long!(
    Balance,
    BalanceKeys,
    "round_robin, least_requests, or a map with hash: { header: ... } or { claim: ... }",
    |text: &str| match text {
        "round_robin" => Ok(Balance::RoundRobin),
        "least_requests" => Ok(Balance::LeastRequests),
        _ => Err(format!("'{text}' is no way to choose; write round_robin, least_requests, or hash: {{ claim: sub }}")),
    },
    |keys: BalanceKeys| Ok::<_, String>(Balance::Hash(keys.hash))
);

/// Endpoints are asked how they are, each by itself. Off without this key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked for, with GET.
    #[serde(default = "default_path")]
    pub path: String,
    /// From one check to the next, give or take a tenth.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// How long one check may take.
    #[serde(default = "default_check_timeout")]
    pub timeout: Span,
    /// Good checks in a row that bring an endpoint back.
    #[serde(default = "default_healthy")]
    pub healthy: u32,
    /// Bad checks in a row that take an endpoint out.
    #[serde(default = "default_unhealthy")]
    pub unhealthy: u32,
    /// Statuses of a good answer.
    #[serde(default = "default_status")]
    pub status: Vec<u16>,
    /// The `Host` that is sent; the endpoint's own by default.
    #[serde(default)]
    pub host: Option<String>,
    /// Ask by gRPC's health protocol for this service, instead of `path`; an empty text asks for the whole server.
    #[serde(default)]
    pub grpc: Option<String>,
}

/// An endpoint that fails is left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    /// Failures in a row that take an endpoint out.
    pub failures: u32,
    /// For how long at first; each time again for twice as long.
    pub time: Span,
    /// For how long at most.
    pub time_max: Span,
    /// How many endpoints of a hundred may be out at a time, rounded down; 0 takes none out.
    pub max_ejected: u32,
    /// Statuses that count as failures, beside connections that cannot be made, break or say nothing in time.
    pub statuses: Vec<u16>,
}

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Tries of one request, the first one included; 1 tries nothing again.
    pub attempts: u32,
    /// After what: `connect`, `unsent`, `reset`, `timeout`, or a status as in 503. The first two for every request, the others
    /// for idempotent ones.
    pub on: Vec<RetryOn>,
    /// Of a hundred requests of the last ten seconds, so many may be tried again.
    pub budget: u32,
    /// So many may be tried again in ten seconds whatever the budget.
    pub budget_floor: u32,
    /// A body of this size at most is kept, so that it can be sent again. 0 keeps none.
    pub replay_bytes: Size,
    /// How long one try may take until its answer begins; as long as the request itself by default.
    pub per_try_timeout: Option<Span>,
    /// Before a try at an endpoint that was tried already; each time again twice as long.
    pub backoff: Span,
}

/// After what a request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection could be made.
    Connect,
    /// It provably never left, though there was a connection.
    Unsent,
    /// The connection broke before the first byte of an answer.
    Reset,
    /// No answer within `per_try_timeout`.
    Timeout,
    /// An answer with this status.
    Status(u16),
}

const RETRY_WORDS: [(&str, RetryOn); 4] =
    [("connect", RetryOn::Connect), ("unsent", RetryOn::Unsent), ("reset", RetryOn::Reset), ("timeout", RetryOn::Timeout)];

impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RETRY_WORDS.iter().find(|(_, on)| on == self) {
            Some((word, _)) => f.write_str(word),
            None => match self {
                Self::Status(status) => write!(f, "{status}"),
                Self::Connect | Self::Unsent | Self::Reset | Self::Timeout => Ok(()),
            },
        }
    }
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const WHAT: &str = "connect, unsent, reset, timeout, or a status as in 503";
        struct Either;
        impl Visitor<'_> for Either {
            type Value = RetryOn;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(WHAT)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RetryOn, E> {
                let word = RETRY_WORDS.iter().find(|(word, _)| *word == text).map(|(_, on)| *on);
                let status = || text.parse::<u16>().ok().map(RetryOn::Status);
                word.or_else(status).ok_or_else(|| E::custom(format!("'{text}' is nothing to try again after; write {WHAT}")))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<RetryOn, E> {
                u16::try_from(number).map(RetryOn::Status).map_err(|_| E::custom(format!("{number} is no status; write one as in 503")))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<RetryOn, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for RetryOn {
    fn schema_name() -> Cow<'static, str> {
        "RetryOn".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = RETRY_WORDS.iter().map(|(word, _)| *word).collect();
        json_schema!({ "anyOf": [{ "enum": words }, { "type": "integer", "minimum": 500, "maximum": 599 }] })
    }
}

/// While most requests fail, they are answered at once instead of being sent. Off without this key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// Of a hundred requests of the window, so many must fail for it to open.
    pub failures: u32,
    /// And there must be so many requests.
    pub requests: u32,
    /// How far back requests are looked at, in whole seconds.
    pub window: Span,
    /// How long it stays open before some are let through.
    pub open: Span,
    /// How many are let through then; when all are answered it closes, when one fails it opens again.
    pub probes: u32,
    /// Statuses that count as failures, beside requests without any answer.
    pub statuses: Vec<u16>,
}

const FAILURES: [u16; 3] = [502, 503, 504];

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 5, time: Span::seconds(10), time_max: Span::seconds(300), max_ejected: 50, statuses: FAILURES.to_vec() }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 3,
            on: vec![RetryOn::Connect, RetryOn::Unsent],
            budget: 20,
            budget_floor: 30,
            replay_bytes: Size::kib(64),
            per_try_timeout: None,
            backoff: Span::milliseconds(25),
        }
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { failures: 50, requests: 20, window: Span::seconds(10), open: Span::seconds(5), probes: 3, statuses: FAILURES.to_vec() }
    }
}

fn default_path() -> String {
    "/healthz".to_owned()
}

fn default_interval() -> Span {
    Span::seconds(5)
}

fn default_check_timeout() -> Span {
    Span::seconds(2)
}

fn default_healthy() -> u32 {
    2
}

fn default_unhealthy() -> u32 {
    3
}

fn default_status() -> Vec<u16> {
    vec![200]
}
