//! Compiles how the endpoints of a service are chosen, left alone and tried again.

use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, StatusCode};

use super::ClaimPath;
use super::balance::{Balance, Balancing, CircuitBreaker, Ejection, HealthCheck, Question, Retries, RetryOn};
use super::compile::{Compiler, at_least};
use crate::config::{self, Span, Trail};

const ATTEMPTS_MAX: u32 = 10;
const REPLAY_BYTES_MAX: u64 = 1 << 20;
const SLOW_START_MAX: Span = Span::seconds(3600);
const WINDOW_MAX: Span = Span::seconds(60);

/// A place below `upstream:`, where faults are.
struct At<'c>(&'c Trail);

impl At<'_> {
    fn key(&self, steps: &[&str]) -> Trail {
        self.0.iter().cloned().chain(steps.iter().map(|step| (*step).to_owned())).collect()
    }
}

/// `at` is the place of the service's `upstream`.
pub(super) fn balancing(c: &mut Compiler<'_>, written: &config::UpstreamKeys, at: &Trail) -> Balancing {
    let at = At(at);
    let http2 = written.protocol == config::Protocol::Http2;
    if written.slow_start > SLOW_START_MAX {
        c.fault(at.key(&["slow_start"]), &written.slow_start.to_string(), "too long a way back", format!("write {SLOW_START_MAX} or less"));
    }
    Balancing {
        balance: balance(c, &written.balance, &at),
        slow_start: written.slow_start.0,
        health_check: written.health_check.as_ref().and_then(|check| health_check(c, check, http2, &at)),
        ejection: ejection(c, &written.ejection, &at),
        retries: retries(c, &written.retries, &at),
        circuit_breaker: written.circuit_breaker.as_ref().map(|breaker| circuit_breaker(c, breaker, &at)),
    }
}

fn balance(c: &mut Compiler<'_>, written: &config::Balance, at: &At<'_>) -> Balance {
    let keys = match written {
        config::Balance::RoundRobin => return Balance::RoundRobin,
        config::Balance::LeastRequests => return Balance::LeastRequests,
        config::Balance::Hash(keys) => keys,
    };
    let place = |key: &str| at.key(&["balance", "hash", key]);
    match (&keys.header, &keys.claim) {
        (Some(header), None) => match HeaderName::from_bytes(header.as_bytes()) {
            Ok(name) => return Balance::HashHeader(name),
            Err(_) => c.fault(place("header"), header, "no name of a header", "write letters, digits and '-', as in X-Session"),
        },
        (None, Some(claim)) => match ClaimPath::parse(claim) {
            Some(path) => return Balance::HashClaim(path),
            None => c.fault(place("claim"), claim, "no claim", "write its name, with dots for nested ones, as in sub"),
        },
        (Some(_), Some(_)) => c.fault(at.key(&["balance", "hash"]), "", "two things to choose by", "give one of header and claim"),
        (None, None) => c.fault(at.key(&["balance", "hash"]), "", "nothing to choose by", "give one of header and claim"),
    }
    Balance::RoundRobin
}

fn health_check(c: &mut Compiler<'_>, written: &config::HealthCheck, http2: bool, at: &At<'_>) -> Option<HealthCheck> {
    let place = |key: &str| at.key(&["health_check", key]);
    let question = match &written.grpc {
        Some(service) if http2 => Some(Question::Grpc { service: service.clone() }),
        Some(service) => {
            c.fault(place("grpc"), service, "gRPC needs HTTP/2", "add protocol: http2 to this upstream");
            None
        }
        None => http_question(c, written, at),
    };
    let interval = timed(c, place("interval"), written.interval, Span::milliseconds(50));
    let timeout = timed(c, place("timeout"), written.timeout, Span::milliseconds(10));
    for (key, count) in [("healthy", written.healthy), ("unhealthy", written.unhealthy)] {
        if count == 0 {
            c.fault(place(key), "0", "no number of checks", "write 1 or more");
        }
    }
    let host = written.host.as_ref().and_then(|host| {
        let good = host.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
        match good.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
            Some(value) => Some(value),
            None => {
                c.fault(place("host"), host, "no host", "write a name, and a port if it needs one, as in health.internal");
                None
            }
        }
    });
    let (healthy, unhealthy) = (written.healthy.max(1), written.unhealthy.max(1));
    Some(HealthCheck { question: question?, interval, timeout, healthy, unhealthy, host })
}

fn http_question(c: &mut Compiler<'_>, written: &config::HealthCheck, at: &At<'_>) -> Option<Question> {
    let good = statuses(c, &written.status, 200..=599, at.key(&["health_check", "status"]));
    if good.is_empty() && written.status.is_empty() {
        c.fault(at.key(&["health_check", "status"]), "", "no status of a good answer", "write one or more, as in [200, 204]");
    }
    let path = Some(&written.path).filter(|path| path.starts_with('/')).and_then(|path| path.parse::<PathAndQuery>().ok());
    if path.is_none() {
        c.fault(at.key(&["health_check", "path"]), &written.path, "no path", "write it with a slash at the front, as in /healthz");
    }
    Some(Question::Http { path: path?, good })
}

fn ejection(c: &mut Compiler<'_>, written: &config::Ejection, at: &At<'_>) -> Ejection {
    let place = |key: &str| at.key(&["ejection", key]);
    if written.failures == 0 {
        c.fault(place("failures"), "0", "every endpoint would be out from the start", "write 1 or more; max_ejected: 0 takes none out");
    }
    percent(c, place("max_ejected"), written.max_ejected, 0);
    let time = timed(c, place("time"), written.time, Span::milliseconds(100));
    if written.time_max < written.time {
        c.fault(place("time_max"), &written.time_max.to_string(), "shorter than time", format!("write {} or more", written.time));
    }
    Ejection {
        failures: written.failures.max(1),
        time,
        time_max: written.time_max.0,
        max_ejected: written.max_ejected,
        statuses: statuses(c, &written.statuses, 500..=599, place("statuses")),
    }
}

fn retries(c: &mut Compiler<'_>, written: &config::Retries, at: &At<'_>) -> Retries {
    let place = |key: &str| at.key(&["retries", key]);
    if written.attempts == 0 || written.attempts > ATTEMPTS_MAX {
        let cure = format!("write 1, which tries nothing again, to {ATTEMPTS_MAX}");
        c.fault(place("attempts"), &written.attempts.to_string(), "no number of tries", cure);
    }
    for (i, on) in written.on.iter().enumerate() {
        if let RetryOn::Status(status) = on
            && !(500..=599).contains(status)
        {
            let cure = "write one of the service's own failures, as in 503";
            c.fault(at.key(&["retries", "on", &i.to_string()]), &status.to_string(), "an answer that another try does not change", cure);
        }
    }
    if written.on.contains(&RetryOn::Timeout) && written.per_try_timeout.is_none() {
        c.fault(place("on"), "", "no try is ever too slow", "add per_try_timeout:, or take `timeout` out");
    }
    percent(c, place("budget"), written.budget, 0);
    if written.replay_bytes.0 > REPLAY_BYTES_MAX {
        let cure = "write 1MiB or less; it is held for every request that is on its way";
        c.fault(place("replay_bytes"), &written.replay_bytes.to_string(), "too much to keep", cure);
    }
    let per_try_timeout = written.per_try_timeout.map(|span| timed(c, place("per_try_timeout"), span, Span::milliseconds(1)));
    if written.backoff > Span::seconds(1) {
        c.fault(place("backoff"), &written.backoff.to_string(), "callers would wait too long", "write 1s or less");
    }
    Retries {
        attempts: written.attempts,
        on: written.on.clone(),
        budget: written.budget,
        budget_floor: written.budget_floor,
        replay_bytes: written.replay_bytes.bytes_usize(),
        per_try_timeout,
        backoff: written.backoff.0,
    }
}

fn circuit_breaker(c: &mut Compiler<'_>, written: &config::CircuitBreaker, at: &At<'_>) -> CircuitBreaker {
    let place = |key: &str| at.key(&["circuit_breaker", key]);
    percent(c, place("failures"), written.failures, 1);
    for (key, count) in [("requests", written.requests), ("probes", written.probes)] {
        if count == 0 {
            c.fault(place(key), "0", "no number of requests", "write 1 or more");
        }
    }
    if written.window < Span::seconds(1) || written.window > WINDOW_MAX || written.window.0.subsec_millis() != 0 {
        let cure = format!("write whole seconds from 1s to {WINDOW_MAX}");
        c.fault(place("window"), &written.window.to_string(), "no time to look back", cure);
    }
    CircuitBreaker {
        failures: written.failures,
        requests: written.requests.max(1),
        window: written.window.0,
        open: timed(c, place("open"), written.open, Span::milliseconds(50)),
        probes: written.probes.max(1),
        statuses: statuses(c, &written.statuses, 500..=599, place("statuses")),
    }
}

fn percent(c: &mut Compiler<'_>, at: Trail, found: u32, least: u32) {
    if found < least || found > 100 {
        c.fault(at, &found.to_string(), "no part of a hundred", format!("write {least} to 100"));
    }
}

fn statuses(c: &mut Compiler<'_>, found: &[u16], range: std::ops::RangeInclusive<u16>, at: Trail) -> Vec<StatusCode> {
    let mut list = Vec::new();
    for (i, number) in found.iter().enumerate() {
        match StatusCode::from_u16(*number).ok().filter(|_| range.contains(number)) {
            Some(status) => list.push(status),
            None => {
                let place = at.iter().cloned().chain([i.to_string()]).collect();
                c.fault(place, &number.to_string(), "no such status", format!("write {} to {}", range.start(), range.end()));
            }
        }
    }
    list
}

fn timed(c: &mut Compiler<'_>, at: Trail, span: Span, least: Span) -> Duration {
    let steps: Vec<&str> = at.iter().map(String::as_str).collect();
    at_least(c, &steps, span, u64::try_from(least.0.as_millis()).unwrap_or(u64::MAX))
}
