//! What Prometheus reads. Labels come from the policy and from closed enums, never from a request.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::Method;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use tracing_appender::non_blocking::ErrorCounter;

use super::audit::Counters;
use super::consent_metrics::ConsentMetrics;
use super::limit_metrics::LimitMetrics;
use super::listener_metrics::ListenerMetrics;
use super::rate_metrics::RateMetrics;
use super::record::{Outcome, Record};
use super::revocation_metrics::RevocationMetrics;
use super::upstream_metrics::UpstreamMetrics;
use crate::access::{Identity, Snapshot};
use crate::clock;
use crate::rate::Rates;
use crate::state::Shared;

/// Seconds; the gate's own share is well under a millisecond, an upstream's may be long.
const BUCKETS: [f64; 14] = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What is counted of asking about opaque tokens.
#[derive(Debug, Clone)]
pub struct IntrospectionMetrics {
    /// Questions, by what came of them.
    pub results: IntCounterVec,
    /// Tokens looked up, by whether an answer was there.
    pub lookups: IntCounterVec,
    pub seconds: HistogramVec,
}

impl IntrospectionMetrics {
    fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            results: make.counters("introspections_total", "Questions about opaque tokens, by result.", &["result"])?,
            lookups: make.counters(
                "introspection_lookups_total",
                "Opaque tokens, by whether an answer about them was there.",
                &["cache"],
            )?,
            seconds: make.histograms("introspection_duration_seconds", "From a question about an opaque token to its answer.", &[])?,
        })
    }
}

/// What is counted of client registration.
#[derive(Debug, Clone)]
pub struct RegistrationMetrics {
    /// Apps that were made, changed or taken away.
    pub changes: IntCounterVec,
    /// Apps that there were at the last look.
    pub apps: IntGauge,
}

impl RegistrationMetrics {
    fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            changes: make.counters("registrations_total", "Apps of agents that were made, changed or taken away.", &["change"])?,
            apps: make.gauge("registered_apps", "Apps of agents that there were at the last look.")?,
        })
    }
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The name of no service and no route.
    pub nowhere: Arc<str>,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    upstream_seconds: HistogramVec,
    refusals: IntCounterVec,
    token_checks: IntCounterVec,
    pub rates: RateMetrics,
    pub limits: LimitMetrics,
    pub requests_in_flight: IntGauge,
    pub connections_open: IntGauge,
    pub connection_errors: IntCounterVec,
    remembered_tokens: IntGauge,
    pub introspection: IntrospectionMetrics,
    pub consents: ConsentMetrics,
    pub revocations: RevocationMetrics,
    pub listeners: ListenerMetrics,
    pub registration: RegistrationMetrics,
    pub upstreams: UpstreamMetrics,
    key_set_keys: IntGaugeVec,
    key_set_age_seconds: GaugeVec,
    key_set_success_seconds: GaugeVec,
    key_set_fetch_failures: IntCounterVec,
    config_info: IntGaugeVec,
    pub reloads: IntCounterVec,
    pub last_reload_successful: IntGauge,
    pub last_reload_seconds: Gauge,
    audit: Counters,
    log_lines_dropped: IntCounter,
    log_counter: OnceLock<ErrorCounter>,
    /// Scrapes, one at a time: they bring counters up to what is counted elsewhere.
    rendering: Mutex<()>,
}

impl Metrics {
    /// Registers everything. It fails only if two metrics have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("wicketgate".to_owned()), None)?;
        let make = Maker(&registry);
        let metrics = Self {
            nowhere: Arc::from("-"),
            requests: make.counters(
                "requests_total",
                "Requests, by how they ended.",
                &["service", "route", "method", "status", "outcome"],
            )?,
            request_seconds: make.histograms(
                "request_duration_seconds",
                "From a request's head to the end of its response.",
                &["service", "route"],
            )?,
            upstream_seconds: make.histograms(
                "upstream_duration_seconds",
                "From sending a request on to the head of its answer.",
                &["service", "route"],
            )?,
            refusals: make.counters(
                "refusals_total",
                "Requests that were refused, failed, or would have been refused (report mode), by reason.",
                &["service", "reason"],
            )?,
            token_checks: make.counters(
                "token_checks_total",
                "Verified tokens, by whether their signature had been checked before.",
                &["cache"],
            )?,
            rates: RateMetrics::new(&make)?,
            limits: LimitMetrics::new(&make)?,
            requests_in_flight: make.gauge("requests_in_flight", "Requests that have begun and not ended.")?,
            connections_open: make.gauge("connections_open", "Connections of clients.")?,
            connection_errors: make.counters("connection_errors_total", "Connections that ended by an error, by reason.", &["reason"])?,
            remembered_tokens: make.gauge("remembered_tokens", "Verified tokens that are remembered.")?,
            introspection: IntrospectionMetrics::new(&make)?,
            consents: ConsentMetrics::new(&make)?,
            revocations: RevocationMetrics::new(&make)?,
            listeners: ListenerMetrics::new(&make)?,
            registration: RegistrationMetrics::new(&make)?,
            upstreams: UpstreamMetrics::new(&make)?,
            key_set_keys: make.gauges("key_set_keys", "Usable keys of an issuer.", &["issuer"])?,
            key_set_success_seconds: make.floats(
                "key_set_last_success_timestamp_seconds",
                "When an issuer's key set was last fetched or confirmed.",
                &["issuer"],
            )?,
            key_set_age_seconds: make.floats(
                "key_set_age_seconds",
                "Time since an issuer's key set was last fetched or confirmed.",
                &["issuer"],
            )?,
            key_set_fetch_failures: make.counters(
                "key_set_fetch_failures_total",
                "Fetches of an issuer's key set that failed.",
                &["issuer"],
            )?,
            config_info: make.gauges("config_info", "The hash of the configuration in force; the value is always 1.", &["hash"])?,
            reloads: make.counters("config_reloads_total", "Changes of the configuration, by result.", &["result"])?,
            last_reload_successful: make.gauge("config_last_reload_successful", "Whether the last change of configuration was taken.")?,
            last_reload_seconds: make.float("config_last_reload_success_timestamp_seconds", "When a configuration was last taken.")?,
            audit: audit_counters(&make)?,
            log_lines_dropped: make.counter("log_lines_dropped_total", "Log lines lost because standard output was too slow.")?,
            log_counter: OnceLock::new(),
            rendering: Mutex::default(),
            registry: registry.clone(),
        };
        make.process()?;
        Ok(metrics)
    }

    /// Counts records of the audit trail.
    pub(super) fn audit_counters(&self) -> Counters {
        self.audit.clone()
    }

    /// Records of the audit trail that were lost, for whatever reason.
    pub fn audit_records_lost(&self) -> u64 {
        AUDIT_LOSSES.iter().map(|reason| self.audit.lost.with_label_values(&[reason]).get()).sum()
    }

    /// Shows how many log lines were lost.
    pub fn watch_log(&self, counter: ErrorCounter) {
        let _ = self.log_counter.set(counter);
    }

    /// How often this reason was counted for a service.
    #[cfg(test)]
    pub fn refused(&self, service: &str, reason: &str) -> u64 {
        self.refusals.with_label_values(&[service, reason]).get()
    }

    /// Counts one request at its end.
    pub(super) fn count(&self, record: &Record) {
        let place = [&*record.service, &*record.route];
        let class = match record.status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        let labels = [place[0], place[1], method_label(&record.method), class, record.outcome.label()];
        if let Ok(counter) = self.requests.get_metric_with_label_values(&labels) {
            counter.inc();
        }
        if let Ok(histogram) = self.request_seconds.get_metric_with_label_values(&place) {
            histogram.observe(record.elapsed().as_secs_f64());
        }
        if let Some(upstream) = record.upstream
            && let Ok(histogram) = self.upstream_seconds.get_metric_with_label_values(&place)
        {
            histogram.observe(upstream.as_secs_f64());
        }
        let refused = matches!(record.outcome, Outcome::Denied | Outcome::Failed | Outcome::Reported);
        if let (true, Some(reason)) = (refused, record.reason)
            && let Ok(counter) = self.refusals.get_metric_with_label_values(&[place[0], reason])
        {
            counter.inc();
        }
        if let Some(remembered) = record.identity.as_ref().map(Identity::was_remembered)
            && let Ok(counter) = self.token_checks.get_metric_with_label_values(&[if remembered { "hit" } else { "miss" }])
        {
            counter.inc();
        }
    }

    /// Takes over a new policy: labels of services and routes that are gone go with them, also those that a request wrote
    /// which was still open at the last change.
    pub fn adopt(&self, snapshot: &Snapshot) {
        let policy = &snapshot.policy;
        let routes = policy.services.iter().flat_map(|service| service.routes.iter().map(|route| (&*service.name, &*route.key)));
        let mut known: HashSet<(&str, &str)> = routes.collect();
        let nowhere = &*self.nowhere;
        known.extend(policy.services.iter().map(|service| (&*service.name, nowhere)));
        known.insert((nowhere, nowhere));
        let is_gone = |labels: &HashMap<&str, &str>| {
            let label = |name| labels.get(name).copied().unwrap_or(nowhere);
            !known.contains(&(label("service"), label("route")))
        };
        forget(&self.requests, &is_gone);
        forget(&self.refusals, &is_gone);
        forget(&self.rates.over, &RateMetrics::gone(policy));
        self.upstreams.forget_gone(policy);
        forget(&self.request_seconds, &is_gone);
        forget(&self.upstream_seconds, &is_gone);
        self.config_info.reset();
        self.config_info.with_label_values(&[policy.hash.get(..16).unwrap_or(&policy.hash)]).set(1);
        self.key_set_keys.reset();
        self.key_set_age_seconds.reset();
        self.key_set_success_seconds.reset();
        self.key_set_fetch_failures.reset();
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self, snapshot: &Snapshot, rates: &Rates, shared: Option<&Shared>) -> String {
        let _one_at_a_time = self.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        self.rates.take(rates, shared);
        self.revocations.entries.set(i64::try_from(snapshot.revocations()).unwrap_or(i64::MAX));
        self.remembered_tokens.set(i64::try_from(snapshot.remembered_tokens()).unwrap_or(i64::MAX));
        if let Some(counter) = self.log_counter.get() {
            self.log_lines_dropped.inc_by((counter.dropped_lines() as u64).saturating_sub(self.log_lines_dropped.get()));
        }
        for (issuer, state) in snapshot.policy.issuers.iter().zip(&snapshot.keyring.0) {
            let keys = state.keys.as_ref().map_or(0, |keys| keys.len());
            self.key_set_keys.with_label_values(&[&issuer.url]).set(i64::try_from(keys).unwrap_or(i64::MAX));
            let failures = self.key_set_fetch_failures.with_label_values(&[&issuer.url]);
            failures.inc_by(state.failures_total.saturating_sub(failures.get()));
            if let Some(last) = state.last_success {
                let age = clock::instant_now().duration_since(last).as_secs_f64();
                self.key_set_age_seconds.with_label_values(&[&issuer.url]).set(age);
                self.key_set_success_seconds.with_label_values(&[&issuer.url]).set(clock::unix_now() as f64 - age.round());
            }
        }
        let mut families = self.registry.gather();
        families.extend(prometheus::default_registry().gather());
        let mut text = String::new();
        match TextEncoder::new().encode_utf8(&families, &mut text) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

/// Takes out the series whose labels are gone.
pub(super) fn forget<B: MetricVecBuilder>(series: &MetricVec<B>, is_gone: &dyn Fn(&HashMap<&str, &str>) -> bool) {
    for family in series.collect() {
        for metric in family.get_metric() {
            let labels: HashMap<&str, &str> = metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
            if is_gone(&labels) {
                let _ = series.remove(&labels);
            }
        }
    }
}

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];

/// A method as a label: a name that a client made up is `other`.
fn method_label(method: &Method) -> &'static str {
    METHODS.iter().find(|name| **name == method.as_str()).copied().unwrap_or("other")
}

/// Why a record of the audit trail can be lost.
const AUDIT_LOSSES: [&str; 4] = ["queue_full", "write_failed", "too_long", "shutdown"];

/// Every reason is there from the start, so that an alert on the first loss sees a difference.
fn audit_counters(make: &Maker<'_>) -> Result<Counters, prometheus::Error> {
    let counters = Counters {
        written: make.counters("audit_records_total", "Records of the audit trail that were written, by kind.", &["kind"])?,
        lost: make.counters("audit_records_lost_total", "Records of the audit trail that were lost, by reason.", &["reason"])?,
    };
    for reason in AUDIT_LOSSES {
        counters.lost.with_label_values(&[reason]);
    }
    Ok(counters)
}

/// Makes and registers in one go.
pub(super) struct Maker<'r>(&'r Registry);

impl Maker<'_> {
    /// What is known of the process itself.
    fn process(&self) -> Result<(), prometheus::Error> {
        let build = self.gauges("build_info", "The version; the value is always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        prometheus::default_registry().register(Box::new(process)).or_else(|error| match error {
            prometheus::Error::AlreadyReg => Ok(()),
            other => Err(other),
        })?;
        Ok(())
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::new(name, help)?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn floats(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help)?)
    }

    fn float(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.register(Gauge::new(name, help)?)
    }

    pub(super) fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels)?)
    }
}
