//! How old a connection may become and how many requests it may carry, so that clients come back through the load balancer.
//! It ends in good order: the last answer says so, or GOAWAY, and no request is lost.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use crate::clock;
use crate::observe::Limit;
use crate::policy::Policy;

/// The lifetime of one connection.
#[derive(Debug)]
pub struct Lifetime {
    requests_max: usize,
    ends: Option<Instant>,
    requests: AtomicUsize,
    used_up: Notify,
}

impl Lifetime {
    /// That of a connection which begins now; `None` where it may live for ever.
    pub fn begin(policy: &Policy) -> Option<Arc<Self>> {
        let (requests, age) = (policy.limits.connection_requests, policy.timeouts.connection_age);
        if requests.is_none() && age.is_none() {
            return None;
        }
        let ends = age.and_then(|age| clock::instant_now().checked_add(give_or_take(age, RandomState::new().hash_one(0u8))));
        let requests_max = requests.unwrap_or(usize::MAX);
        Some(Arc::new(Self { requests_max, ends, requests: AtomicUsize::new(0), used_up: Notify::new() }))
    }

    /// Counts a request. The limit that makes it the last one, if one does.
    pub fn carries(&self, now: Instant) -> Option<Limit> {
        let carried = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if carried >= self.requests_max {
            self.used_up.notify_one();
            return Some(Limit::ConnectionRequests);
        }
        self.ends.filter(|ends| now >= *ends).map(|_| Limit::ConnectionAge)
    }

    /// Ends with the lifetime, and says by which limit.
    pub async fn over(&self) -> Limit {
        let aged = async {
            match self.ends {
                Some(ends) => sleep_until(ends.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.used_up.notified() => Limit::ConnectionRequests,
            () = aged => Limit::ConnectionAge,
        }
    }
}

/// Up to a tenth more or less, so that connections which began together do not end together.
fn give_or_take(age: Duration, random: u64) -> Duration {
    let thousandths = 900 + (random % 201) as u32;
    age.checked_mul(thousandths).map_or(age, |much| much / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        let ages: Vec<Duration> = (0..1000).map(|random| give_or_take(Duration::from_secs(100), random)).collect();
        assert_eq!(ages.iter().min(), Some(&Duration::from_secs(90)));
        assert_eq!(ages.iter().max(), Some(&Duration::from_secs(110)));
        assert_eq!(give_or_take(Duration::MAX, 0), Duration::MAX);
    }

    #[test]
    fn the_last_request_is_the_one_that_reaches_a_limit() {
        let now = clock::instant_now();
        let ends = Some(now + Duration::from_secs(1));
        let lifetime = Lifetime { requests_max: 3, ends, requests: AtomicUsize::new(0), used_up: Notify::new() };
        assert_eq!(lifetime.carries(now), None);
        assert_eq!(lifetime.carries(now + Duration::from_secs(1)), Some(Limit::ConnectionAge));
        assert_eq!(lifetime.carries(now), Some(Limit::ConnectionRequests));
    }
}
