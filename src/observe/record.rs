//! Step 14. What happened to one request: filled on its way, written once at its end, whatever the end.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode, Version};

use super::audit::{Access, AuditTrail, Scopes, required};
use super::limit_metrics::Limit;
use super::metrics::Metrics;
use crate::access::Identity;
use crate::clock;
use crate::policy::{Decided, Policy, Route, Service};

/// How a request ended, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Forwarded with a verified identity.
    Permitted,
    /// Forwarded on a public route.
    Public,
    /// Forwarded on a route in report mode although the rules say no.
    Reported,
    /// Refused by the policy.
    Denied,
    /// Answered by the gate itself: metadata.
    Own,
    /// Neither: the client or the upstream broke off, or sent nonsense.
    Failed,
}

impl Outcome {
    pub fn label(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Public => "public",
            Self::Reported => "reported",
            Self::Denied => "denied",
            Self::Own => "own",
            Self::Failed => "failed",
        }
    }
}

/// Where records go.
#[derive(Debug)]
pub struct Observer {
    pub metrics: Metrics,
    pub audit: AuditTrail,
    access_log: AtomicBool,
}

impl Observer {
    pub fn new(metrics: Metrics) -> Self {
        let audit = AuditTrail::new(metrics.audit_counters());
        Self { metrics, audit, access_log: AtomicBool::new(true) }
    }

    pub fn set_access_log(&self, on: bool) {
        self.access_log.store(on, Ordering::Relaxed);
    }
}

/// The reason of a request whose client left.
pub const CLIENT_GONE: &str = "client_gone";

/// The status of a request whose client left before its answer: never sent, and no fault of the gate's or the service's.
fn unanswered() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// The record of one request. It is written when it is dropped, so that no way out of a request goes without.
#[derive(Debug)]
pub struct Record {
    observer: Arc<Observer>,
    started: Instant,
    pub request_id: String,
    pub peer: Option<IpAddr>,
    pub method: Method,
    pub path: String,
    pub version: Version,
    /// Names from the policy; `-` until the route is known.
    pub service: Arc<str>,
    pub route: Arc<str>,
    pub status: StatusCode,
    pub outcome: Outcome,
    pub reason: Option<&'static str>,
    pub detail: Cow<'static, str>,
    /// Who is calling, once a token was verified.
    pub identity: Option<Identity>,
    /// What the client is called, where that is known.
    pub client_name: Option<Arc<str>>,
    pub upstream: Option<Duration>,
    /// How often it was sent, and where to at last if there are several places.
    pub tries: u32,
    pub endpoint: Option<Arc<str>>,
    pub response_bytes: u64,
    /// What was decided, with what, and where: for the audit trail, which tells it from how the request ended.
    decided: Option<Outcome>,
    policy: Option<Arc<Policy>>,
    place: (Option<usize>, Option<usize>),
    audited: bool,
}

impl Record {
    pub fn begin(observer: &Arc<Observer>, request_id: String, method: Method, path: &str, version: Version) -> Self {
        observer.metrics.requests_in_flight.inc();
        Self {
            observer: observer.clone(),
            started: clock::instant_now(),
            request_id,
            peer: None,
            method,
            path: loggable_path(path),
            version,
            service: Arc::clone(&observer.metrics.nowhere),
            route: Arc::clone(&observer.metrics.nowhere),
            status: unanswered(),
            outcome: Outcome::Failed,
            reason: Some(CLIENT_GONE),
            detail: Cow::Borrowed(""),
            identity: None,
            client_name: None,
            upstream: None,
            tries: 0,
            endpoint: None,
            response_bytes: 0,
            decided: None,
            policy: None,
            place: (None, None),
            audited: false,
        }
    }

    /// Notes the policy that the request is judged by.
    pub fn judge(&mut self, policy: &Arc<Policy>) {
        if !self.policy.as_ref().is_some_and(|known| Arc::ptr_eq(known, policy)) {
            self.policy = Some(policy.clone());
        }
    }

    /// Notes what was decided, by which service and route as far as they were found.
    pub fn decide(&mut self, policy: &Arc<Policy>, service: Option<usize>, route: Option<usize>, outcome: Outcome) {
        self.judge(policy);
        (self.outcome, self.decided, self.place) = (outcome, Some(outcome), (service, route));
        if let Some(service) = service.map(|service| &policy.services[service]) {
            self.service = service.name.clone();
            if let Some(route) = route {
                self.route = service.routes[route].key.clone();
            }
        }
    }

    /// Writes the audit record, if the request is worth one and has none yet: when the head of its answer is known, not at
    /// its end, which for a stream may be hours later.
    pub fn audit(&mut self) {
        if std::mem::replace(&mut self.audited, true) {
            return;
        }
        let Some(policy) = &self.policy else { return };
        let Some(audit) = &policy.audit else { return };
        let (refused, let_through) = match self.decided {
            Some(Outcome::Permitted | Outcome::Public) => (false, true),
            Some(Outcome::Reported) => (true, true),
            Some(Outcome::Denied) => (true, false),
            // What is public anyway was read.
            Some(Outcome::Own) => return,
            // The client left before anything was decided.
            Some(Outcome::Failed) | None if self.reason == Some(CLIENT_GONE) => return,
            Some(Outcome::Failed) | None => (true, false),
        };
        let service = self.place.0.map(|service| &policy.services[service]);
        let route = service.and_then(|service| self.place.1.map(|route| &service.routes[route]));
        let decided = Decided { refused, let_through, method: &self.method, status: self.status };
        if audit.wants(route.and_then(|route| route.audit), decided) {
            self.write_audit_record(policy, service, route);
        }
    }

    fn write_audit_record(&self, policy: &Policy, service: Option<&Service>, route: Option<&Route>) {
        let mut access = Access {
            request_id: &self.request_id,
            config_hash: &policy.hash,
            service: service.map(|service| &*service.name),
            route: route.map(|route| &*route.key),
            method: cut(self.method.as_str(), METHOD_BYTES_LOGGED_MAX),
            path: &self.path,
            peer: self.peer,
            decision: self.decided.unwrap_or(Outcome::Failed).label(),
            status: self.status.as_u16(),
            reason: self.reason,
            user: None,
            agent: None,
            act: None,
            organization_id: None,
            scopes: Scopes { required: route.and_then(|route| required(&route.requirement)), granted: None },
            jti: None,
        };
        if let Some(identity) = &self.identity {
            access.identify(identity.claims(), self.client_name.as_deref());
        }
        self.observer.audit.write(&access, clock::wall_now() - self.elapsed());
    }

    /// Counts a limit that ended the request.
    pub fn limited(&self, limit: Limit) {
        self.observer.metrics.limits.count(limit);
    }

    pub fn elapsed(&self) -> Duration {
        clock::instant_now().duration_since(self.started)
    }

    fn write_access_line(&self) {
        let claims = self.identity.as_ref().map(Identity::claims);
        let ms = |duration: Duration| duration.as_micros() as f64 / 1000.0;
        tracing::info!(
            target: "access",
            request_id = self.request_id,
            peer = self.peer.map(tracing::field::display),
            method = cut(self.method.as_str(), METHOD_BYTES_LOGGED_MAX),
            path = self.path,
            version = ?self.version,
            service = &*self.service,
            route = &*self.route,
            status = self.status.as_u16(),
            decision = self.outcome.label(),
            reason = self.reason,
            detail = Some(&*self.detail).filter(|detail| !detail.is_empty()),
            subject = claims.map(|claims| &*claims.subject),
            client_id = claims.and_then(|claims| claims.client_id.as_deref()),
            duration_ms = ms(self.elapsed()),
            upstream_ms = self.upstream.map(ms),
            endpoint = self.endpoint.as_deref(),
            tries = Some(self.tries).filter(|tries| *tries > 1),
            response_bytes = self.response_bytes,
        );
    }
}

const PATH_BYTES_LOGGED_MAX: usize = 1024;
const METHOD_BYTES_LOGGED_MAX: usize = 20;

fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.len().min(bytes_max)).unwrap_or("-")
}

/// A path as the log shows it: cut, and without a token that a client put into it by mistake.
fn loggable_path(path: &str) -> String {
    let path = cut(path, PATH_BYTES_LOGGED_MAX);
    if !path.contains("eyJ") {
        return path.to_owned();
    }
    let shown = |segment| if str::contains(segment, "eyJ") { "[token]" } else { segment };
    path.split('/').map(shown).collect::<Vec<_>>().join("/")
}

impl Drop for Record {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.outcome, self.reason, self.status) = (Outcome::Failed, Some("internal"), StatusCode::INTERNAL_SERVER_ERROR);
        }
        // Permitted, but nobody was there any more when the answer came.
        if self.status == unanswered() && matches!(self.outcome, Outcome::Permitted | Outcome::Public) {
            (self.outcome, self.reason) = (Outcome::Failed, Some(CLIENT_GONE));
        }
        self.audit();
        self.observer.metrics.requests_in_flight.dec();
        self.observer.metrics.count(self);
        if self.observer.access_log.load(Ordering::Relaxed) {
            self.write_access_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_path_is_not_logged() {
        assert_eq!(loggable_path("/me/eyJhbGciOiJFUzM4NCJ9.e30.c2ln/x"), "/me/[token]/x");
        assert_eq!(loggable_path("/forecast/oslo"), "/forecast/oslo");
        assert!(loggable_path(&"/a".repeat(5000)).len() <= PATH_BYTES_LOGGED_MAX);
    }
}
