//! Compiles rate limits and where their counters live.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use url::Url;

use super::compile::{Compiler, at_least, trail};
use super::rate::{RateLimit, RateLimits, Redis, State};
use super::{Mode, Requirement};
use crate::config::{self, Secret, Trail};

/// Shared counters know whole microseconds: at this beat they are right to one part in a hundred.
const EVERY_MIN: Duration = Duration::from_micros(100);
const PER_MAX: Duration = Duration::from_secs(31 * 24 * 3600);
/// The longest that a burst may take to be earned again. Beyond it a counter would outlive any restart.
const BURST_TIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
const LIMITS_MAX: usize = 8;
const KEYS_MAX: u32 = 10_000_000;
const TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// The limits of a service, or of one route of it.
pub(super) fn limits(
    c: &mut Compiler<'_>,
    written: &[config::RateLimit],
    service: &str,
    route: Option<&Arc<str>>,
    at: &Trail,
) -> Vec<Arc<RateLimit>> {
    let mut limits: Vec<Arc<RateLimit>> = Vec::new();
    if written.len() > LIMITS_MAX {
        let reason = format!("{} limits in one place", written.len());
        c.fault(at.clone(), "", reason, format!("write {LIMITS_MAX} at most; each is asked for every request"));
    }
    for (i, config::RateLimit(keys)) in written.iter().enumerate() {
        let mut place = at.clone();
        place.push(i.to_string());
        let Some(limit) = limit(c, keys, service, route, &place) else { continue };
        match limits.iter().any(|known| known.name == limit.name) {
            true => {
                let reason = "two limits that count by the same, in the same time";
                c.fault(place, &limit.to_string(), reason, "keep the lower one");
            }
            false => limits.push(Arc::new(limit)),
        }
    }
    limits
}

fn limit(c: &mut Compiler<'_>, keys: &config::RateLimitKeys, service: &str, route: Option<&Arc<str>>, at: &Trail) -> Option<RateLimit> {
    let place = |key: &str| -> Trail { at.iter().cloned().chain([key.to_owned()]).collect() };
    let faults = c.faults.len();
    let mut by = keys.by.0.clone();
    by.sort_unstable();
    by.dedup();
    if by.len() < keys.by.0.len() {
        c.fault(place("by"), "", "the same word twice", "keep one");
    }
    let burst = keys.burst.unwrap_or(keys.requests);
    if keys.requests == 0 {
        c.fault(place("requests"), "0", "nobody could ever ask", "write 1 or more; to close a route take it out");
    } else if burst == 0 {
        c.fault(place("burst"), "0", "nobody could ever ask", "write 1 or more, or take the key out");
    }
    let per = keys.per.0;
    if per < Duration::from_secs(1) || per > PER_MAX || per.subsec_nanos() != 0 {
        c.fault(place("per"), &keys.per.to_string(), "no time to count in", "write whole seconds, from 1s to 744h");
    } else if keys.requests > 0 && per / keys.requests < EVERY_MIN {
        c.fault(place("requests"), &keys.requests.to_string(), "more than can be told apart", "write at most 10000 a second");
    } else if keys.requests > 0 && (per / keys.requests).checked_mul(burst).is_none_or(|time| time > BURST_TIME_MAX) {
        c.fault(place("burst"), &burst.to_string(), "it would take more than a year to be earned again", "write a smaller one");
    }
    if c.faults.len() > faults {
        return None;
    }
    let words: Vec<&str> = by.iter().map(|key| key.word()).collect();
    let name = format!("{}-{}-{}", if route.is_some() { "route" } else { "service" }, words.join("-"), keys.per);
    let id = format!("{service}\n{}\n{name}\n{}\n{burst}", route.map_or("", |route| route), keys.requests);
    let mode = keys.mode.unwrap_or_default();
    Some(RateLimit { id, name, route: route.cloned(), by, requests: keys.requests, per, burst, mode })
}

/// What a request to a route meets. A limit that needs a token can say nothing of a public route: on the route itself
/// that is a fault, among the limits of its service it is left out.
pub(super) fn of_route(
    c: &mut Compiler<'_>,
    own: Vec<Arc<RateLimit>>,
    services: &[Arc<RateLimit>],
    requirement: &Requirement,
    at: &Trail,
) -> RateLimits {
    let public = matches!(requirement, Requirement::Public);
    if let Some(limit) = own.iter().find(|limit| public && limit.needs_token()) {
        c.fault(at.clone(), &limit.to_string(), "a public route knows no client, subject or organization", "count by address");
    }
    let services = services.iter().filter(|limit| !(public && limit.needs_token())).cloned();
    let list: Vec<Arc<RateLimit>> = own.into_iter().chain(services).collect();
    let item = |limit: &Arc<RateLimit>| format!("\"{}\";q={};w={}", limit.name, limit.requests, limit.per.as_secs());
    let items: Vec<String> = list.iter().filter(|limit| limit.mode == Mode::Enforce).map(item).collect();
    let field = HeaderValue::try_from(items.join(", ")).ok().filter(|_| !items.is_empty());
    let by_address = list.iter().any(|limit| limit.by.contains(&config::RateKey::Address));
    RateLimits { list, field, by_address }
}

pub(super) fn state(c: &mut Compiler<'_>, state: &config::State) -> State {
    const KEYS_MIN: u32 = 1000;
    if state.keys < KEYS_MIN || state.keys > KEYS_MAX {
        let cure = format!("write {KEYS_MIN} to {KEYS_MAX}; a key takes about 33 bytes");
        c.fault(trail(&[&"state", &"keys"]), &state.keys.to_string(), "no number of callers to count", cure);
    }
    let timeout = at_least(c, &["state", "timeout"], state.timeout, 1);
    if timeout > TIMEOUT_MAX {
        c.fault(trail(&[&"state", &"timeout"]), &state.timeout.to_string(), "requests would wait too long", "write 1s or less");
    }
    const PREFIX_BYTES_MAX: usize = 64;
    let plain = |c: char| c.is_ascii_graphic();
    if state.prefix.is_empty() || state.prefix.len() > PREFIX_BYTES_MAX || !state.prefix.chars().all(plain) {
        c.fault(trail(&[&"state", &"prefix"]), &state.prefix, "no prefix", "write 1 to 64 printable characters, as in wicketgate:");
    }
    let url = address(c, state);
    let ca_pem = state.redis_ca_file.as_ref().and_then(|path| c.file(trail(&[&"state", &"redis_ca_file"]), path));
    if state.redis_ca_file.is_some() && state.redis.is_none() && state.redis_file.is_none() {
        c.absence(trail(&[&"state", &"redis_ca_file"]), "", "authorities for no server", "add redis: with its rediss:// address");
    }
    let redis = url.and_then(|url| redis(c, url, ca_pem, state, timeout));
    State { keys: state.keys as usize, redis }
}

fn address(c: &mut Compiler<'_>, state: &config::State) -> Option<Secret> {
    match (&state.redis, &state.redis_file) {
        (None, None) => None,
        (Some(url), None) => Some(url.clone()),
        (None, Some(path)) => {
            let at = trail(&[&"state", &"redis_file"]);
            c.secret_file(at, path, "put the address alone into it").map(|address| Secret::new(address.expose().trim()))
        }
        (Some(_), Some(_)) => {
            c.fault(trail(&[&"state"]), "", "two addresses of Redis", "give one of redis and redis_file");
            None
        }
    }
}

/// The address itself is never shown: it may hold a password.
fn redis(c: &mut Compiler<'_>, url: Secret, ca_pem: Option<Vec<u8>>, state: &config::State, timeout: Duration) -> Option<Redis> {
    let key = if state.redis.is_some() { "redis" } else { "redis_file" };
    let at = trail(&[&"state", &key]);
    let parsed = Url::parse(url.expose()).ok().filter(|parsed| {
        let database = parsed.path().trim_start_matches('/');
        let good_path = database.is_empty() || database.parse::<u16>().is_ok();
        ["redis", "rediss"].contains(&parsed.scheme()) && parsed.host().is_some() && good_path && parsed.query().is_none()
    });
    let Some(parsed) = parsed.filter(|parsed| parsed.fragment().is_none()) else {
        c.fault(at, "", "no address of a Redis", "write it as in redis://:password@redis.internal:6379/0, or rediss:// for TLS");
        return None;
    };
    if ca_pem.is_some() && parsed.scheme() != "rediss" {
        c.fault(at, "", "authorities for a server without TLS", "write rediss://, or take redis_ca_file out");
        return None;
    }
    let shown = format!("{}://{}:{}", parsed.scheme(), parsed.host_str().unwrap_or_default(), parsed.port().unwrap_or(6379));
    Some(Redis { url, shown, ca_pem, prefix: state.prefix.clone(), timeout })
}
