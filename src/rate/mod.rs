//! How often a caller may ask: limits over verified identities and addresses, in this process or shared.
//!
//! A limit is a leaky bucket (GCRA): one number a caller, the time until which what was asked for takes. A request that
//! one limit refuses costs nothing in any other. While the shared state is away each instance counts by itself; what
//! it counted goes into the shared counters when they are back, the larger debt winning.

mod address;
mod caller;
mod fields;
mod local;
mod shared;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

pub use address::{client_address, subscriber};
pub use caller::Caller;
pub use fields::{POLICY_FIELD, STANDING_FIELD, standing_field};
use local::{Local, Steady};

use crate::policy::{Mode, Policy, RateLimit, RateLimits};
use crate::state::Shared;

/// How one limit stands after a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub limit: Arc<RateLimit>,
    /// Whether the request was one too many.
    pub over: bool,
    /// Requests that could follow at once.
    pub left: u32,
    /// Until one more may come: exact when there is none left, else the time in which one is earned.
    pub wait: Duration,
}

impl Standing {
    /// Whole seconds, rounded up: who comes then is not too early.
    pub fn wait_seconds(&self) -> u64 {
        self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0)
    }
}

/// Where counters are, for one policy.
#[derive(Debug)]
struct Counters {
    local: Local<Steady>,
    shared: Option<Arc<Shared>>,
}

/// All rate limits of the policy in force, and their counters.
#[derive(Debug)]
pub struct Rates {
    counters: ArcSwap<Counters>,
    fallbacks: AtomicU64,
}

impl Rates {
    pub fn new(policy: &Policy, shared: Option<Arc<Shared>>) -> Self {
        let local = Local::new(policy, Steady::default());
        Self { counters: ArcSwap::from_pointee(Counters { local, shared }), fallbacks: AtomicU64::new(0) }
    }

    /// Takes over a new policy. Counters of limits that stay the same go on.
    pub fn adopt(&self, policy: &Policy, shared: Option<Arc<Shared>>) {
        let local = self.counters.load().local.with(policy);
        self.counters.store(Arc::new(Counters { local, shared }));
    }

    /// Counts a request with every limit that it meets, unless one that is enforced refuses it.
    pub async fn check(&self, limits: &RateLimits, caller: &Caller<'_>, mode: Mode) -> Vec<Standing> {
        let counters = self.counters.load_full();
        // A route that only reports is tried out whole, its limits too.
        let enforced = |limit: &RateLimit| mode == Mode::Enforce && limit.mode == Mode::Enforce;
        let limits: Vec<&Arc<RateLimit>> = limits.list.iter().filter(|limit| caller.is_counted_by(limit)).collect();
        if limits.is_empty() {
            return Vec::new();
        }
        if let Some(shared) = &counters.shared {
            match shared::check(shared, &counters.local, &limits, caller, &enforced).await {
                Ok(standings) => return standings,
                Err(_) => self.fallbacks.fetch_add(1, Ordering::Relaxed),
            };
        }
        counters.local.check(&limits, caller, &enforced)
    }

    /// Requests that were counted here because the shared state was away.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// Callers that are counted at the moment.
    pub fn keys(&self) -> usize {
        self.counters.load().local.keys()
    }

    /// Counters that made room for others while they still counted.
    pub fn evicted(&self) -> u64 {
        self.counters.load().local.evicted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_are_never_too_early() {
        let (id, name) = ("id".to_owned(), "name".to_owned());
        let (requests, per, burst) = (1, Duration::from_secs(1), 1);
        let limit = Arc::new(RateLimit { id, name, route: None, by: Vec::new(), requests, per, burst, mode: Mode::Enforce });
        for (wait, seconds) in [(0, 0), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2), (59_999_999_999, 60)] {
            let standing = Standing { limit: limit.clone(), over: true, left: 0, wait: Duration::from_nanos(wait) };
            assert_eq!(standing.wait_seconds(), seconds, "{wait}");
        }
    }
}
