//! What Prometheus reads of rate limits and of the shared state.

use std::collections::{HashMap, HashSet};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::metrics::Maker;
use crate::policy::Policy;
use crate::rate::{Rates, Standing};
use crate::state::Shared;

#[derive(Debug)]
pub struct RateMetrics {
    pub(super) over: IntCounterVec,
    keys: IntGauge,
    evicted: IntCounter,
    fallbacks: IntCounter,
    shared_up: IntGaugeVec,
    shared_failures: IntCounter,
}

impl RateMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            over: make.counters(
                "rate_limited_total",
                "Requests over a limit, by limit; in report mode they went through.",
                &["service", "route", "limit", "mode"],
            )?,
            keys: make.gauge("rate_limit_keys", "Callers that are counted in this process at the moment.")?,
            evicted: make.counter("rate_limit_keys_evicted_total", "Counters that made room for others while they still counted.")?,
            fallbacks: make.counter("rate_limit_fallbacks_total", "Requests counted in this process because the shared state was away.")?,
            shared_up: make.gauges("shared_state_up", "Whether the shared state is there; absent when none is configured.", &["server"])?,
            shared_failures: make
                .counter("shared_state_failures_total", "Calls of the shared state that failed or took longer than they may.")?,
        })
    }

    /// Counts a request that was over a limit. A limit of a service has no route.
    pub fn count_over(&self, service: &str, standing: &Standing, enforced: bool) {
        let route = standing.limit.route.as_deref().unwrap_or("-");
        let labels = [service, route, standing.limit.name.as_str(), if enforced { "enforce" } else { "report" }];
        if let Ok(counter) = self.over.get_metric_with_label_values(&labels) {
            counter.inc();
        }
    }

    /// Whether the limit of a series is gone from the policy.
    pub(super) fn gone(policy: &Policy) -> impl Fn(&HashMap<&str, &str>) -> bool {
        let routes = policy.services.iter().flat_map(|service| service.routes.iter().map(move |route| (service, route)));
        let limits = routes.flat_map(|(service, route)| route.rate_limits.list.iter().map(move |limit| (service, limit)));
        let known: HashSet<[&str; 3]> =
            limits.map(|(service, limit)| [&*service.name, limit.route.as_deref().unwrap_or("-"), &*limit.name]).collect();
        move |labels| {
            let label = |name| labels.get(name).copied().unwrap_or_default();
            !known.contains(&[label("service"), label("route"), label("limit")])
        }
    }

    /// Brings what is counted elsewhere up to date.
    pub(super) fn take(&self, rates: &Rates, shared: Option<&Shared>) {
        self.keys.set(i64::try_from(rates.keys()).unwrap_or(i64::MAX));
        let bring = |counter: &IntCounter, to: u64| counter.inc_by(to.saturating_sub(counter.get()));
        bring(&self.evicted, rates.evicted());
        bring(&self.fallbacks, rates.fallbacks());
        self.shared_up.reset();
        if let Some(shared) = shared {
            self.shared_up.with_label_values(&[shared.name()]).set(i64::from(shared.is_up()));
            bring(&self.shared_failures, shared.failures());
        }
    }
}
