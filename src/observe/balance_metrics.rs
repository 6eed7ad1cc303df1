//! What Prometheus reads of choosing among endpoints: how many are well, what was left alone, tried again, and refused.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::metrics::Maker;
use crate::balance::{BreakerState, Health, Standing};

/// How the endpoints of one service stand.
pub struct ServiceStanding {
    pub service: String,
    pub breaker: Option<BreakerState>,
    pub endpoints: Vec<Standing>,
}

#[derive(Debug, Clone)]
pub struct BalanceMetrics {
    retries: IntCounterVec,
    refused: IntCounterVec,
    ejections: IntCounterVec,
    checks: IntCounterVec,
    breaker_changes: IntCounterVec,
    endpoints: IntGaugeVec,
    breaker: IntGaugeVec,
}

const STATES: [&str; 4] = ["healthy", "unchecked", "unhealthy", "ejected"];

/// An endpoint's state in one word, for metrics and people.
pub fn state(standing: &Standing) -> &'static str {
    match (standing.ejected, standing.health) {
        (Some(_), _) => STATES[3],
        (None, Some(Health::Unhealthy)) => STATES[2],
        (None, Some(Health::Unchecked)) => STATES[1],
        (None, Some(Health::Healthy) | None) => STATES[0],
    }
}

impl BalanceMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            retries: make.counters(
                "upstream_retries_total",
                "Tries after the first one, by what they followed.",
                &["service", "reason"],
            )?,
            refused: make.counters(
                "upstream_retries_refused_total",
                "Requests that were not tried again because the budget of retries was used up.",
                &["service"],
            )?,
            ejections: make.counters(
                "upstream_ejections_total",
                "Endpoints that were left alone for a while.",
                &["service", "endpoint"],
            )?,
            checks: make.counters(
                "upstream_health_checks_total",
                "Health checks, by what came of them.",
                &["service", "endpoint", "result"],
            )?,
            breaker_changes: make.counters(
                "upstream_circuit_breaker_changes_total",
                "Changes of a circuit breaker, by what it came to be.",
                &["service", "state"],
            )?,
            endpoints: make.gauges("upstream_endpoints", "Endpoints of a service, by how they are.", &["service", "state"])?,
            breaker: make.gauges(
                "upstream_circuit_breaker_state",
                "1 for the state that a service's circuit breaker is in; absent where it has none.",
                &["service", "state"],
            )?,
        })
    }

    pub fn count_retry(&self, service: &str, reason: &str) {
        count(&self.retries, &[service, reason]);
    }

    pub fn count_refused(&self, service: &str) {
        count(&self.refused, &[service]);
    }

    pub fn count_ejection(&self, service: &str, endpoint: &str) {
        count(&self.ejections, &[service, endpoint]);
    }

    pub fn count_check(&self, service: &str, endpoint: &str, good: bool) {
        count(&self.checks, &[service, endpoint, if good { "good" } else { "bad" }]);
    }

    pub fn count_breaker(&self, service: &str, state: BreakerState) {
        count(&self.breaker_changes, &[service, state.label()]);
    }

    /// Takes over how all stand at the moment.
    pub fn take(&self, standings: &[ServiceStanding]) {
        self.endpoints.reset();
        self.breaker.reset();
        for standing in standings {
            for word in STATES {
                let count = standing.endpoints.iter().filter(|endpoint| state(endpoint) == word).count();
                self.endpoints.with_label_values(&[&*standing.service, word]).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            for state in BreakerState::ALL.into_iter().filter(|_| standing.breaker.is_some()) {
                let is = i64::from(standing.breaker == Some(state));
                self.breaker.with_label_values(&[&*standing.service, state.label()]).set(is);
            }
        }
    }

    /// The counters whose labels may be gone with a policy.
    pub(super) fn counters(&self) -> [&IntCounterVec; 5] {
        [&self.retries, &self.refused, &self.ejections, &self.checks, &self.breaker_changes]
    }
}

fn count(counters: &IntCounterVec, labels: &[&str]) {
    if let Ok(counter) = counters.get_metric_with_label_values(labels) {
        counter.inc();
    }
}
