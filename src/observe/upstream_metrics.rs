//! What Prometheus reads of the connections to upstreams. An endpoint's label is what the operator wrote: addresses of one
//! name are counted together.

use std::collections::{HashMap, HashSet};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::balance_metrics::BalanceMetrics;
use super::metrics::{Maker, forget};
use crate::policy::Policy;

/// What can come of making a connection.
const RESULTS: [&str; 5] = ["ok", "refused", "timeout", "tls", "http"];

#[derive(Debug, Clone)]
pub struct UpstreamMetrics {
    pub balance: BalanceMetrics,
    pub(super) open: IntGaugeVec,
    pub(super) idle: IntGaugeVec,
    pub(super) pending: IntGaugeVec,
    pub(super) connects: IntCounterVec,
    pub(super) refused: IntCounterVec,
    pub(super) resolutions: IntCounterVec,
}

/// Those of one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointMetrics {
    pub open: IntGauge,
    pub idle: IntGauge,
    pub pending: IntGauge,
    pub refused: IntCounter,
    connects: [IntCounter; RESULTS.len()],
}

impl EndpointMetrics {
    pub fn connects(&self, result: &str) {
        if let Some(at) = RESULTS.iter().position(|known| *known == result) {
            self.connects[at].inc();
        }
    }
}

impl UpstreamMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        let labels = &["service", "endpoint"];
        Ok(Self {
            balance: BalanceMetrics::new(make)?,
            open: make.gauges("upstream_connections", "Connections to upstreams that are open or being made.", labels)?,
            idle: make.gauges("upstream_connections_idle", "HTTP/1.1 connections to upstreams on which nothing is asked.", labels)?,
            pending: make.gauges("upstream_requests_pending", "Requests that wait for a connection.", labels)?,
            connects: make.counters(
                "upstream_connects_total",
                "Connections to upstreams that were tried, by what came of it.",
                &["service", "endpoint", "result"],
            )?,
            refused: make.counters(
                "upstream_overloaded_total",
                "Requests for which an endpoint had no connection, and no place to wait for one.",
                labels,
            )?,
            resolutions: make.counters(
                "upstream_resolutions_total",
                "Names of upstreams that were resolved, by what came of it.",
                &["service", "result"],
            )?,
        })
    }

    pub fn endpoint(&self, service: &str, endpoint: &str) -> EndpointMetrics {
        let labels = [service, endpoint];
        EndpointMetrics {
            open: self.open.with_label_values(&labels),
            idle: self.idle.with_label_values(&labels),
            pending: self.pending.with_label_values(&labels),
            refused: self.refused.with_label_values(&labels),
            connects: RESULTS.map(|result| self.connects.with_label_values(&[service, endpoint, result])),
        }
    }

    pub fn resolutions(&self, service: &str, result: &str) {
        self.resolutions.with_label_values(&[service, result]).inc();
    }

    /// Takes out the series of endpoints and services that are gone from the policy.
    pub(super) fn forget_gone(&self, policy: &Policy) {
        let endpoints = policy.services.iter().flat_map(|service| {
            let labels = service.upstream.endpoints.iter().map(|endpoint| Some(&*endpoint.label));
            labels.chain([None]).map(|label| (&*service.name, label))
        });
        let known: HashSet<(&str, Option<&str>)> = endpoints.collect();
        let is_gone = |labels: &HashMap<&str, &str>| {
            !known.contains(&(labels.get("service").copied().unwrap_or_default(), labels.get("endpoint").copied()))
        };
        for gauges in [&self.open, &self.idle, &self.pending] {
            forget(gauges, &is_gone);
        }
        for counters in [&self.connects, &self.refused, &self.resolutions].into_iter().chain(self.balance.counters()) {
            forget(counters, &is_gone);
        }
    }
}
