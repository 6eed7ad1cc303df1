//! The rules of an issuer's key cache, as a pure state machine: it takes the time and says what to do.

use std::time::{Duration, Instant};

/// How keys are kept, from `keys:` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRules {
    pub refresh: Duration,
    pub cooldown: Duration,
    pub max_stale: Duration,
}

/// How the last attempts to fetch went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt {
    pub last_success: Option<Instant>,
    /// Failures since the last success.
    pub failures: u32,
    last_forced: Option<Instant>,
}

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

impl Attempt {
    pub fn succeeded(&mut self, now: Instant) {
        self.last_success = Some(now);
        self.failures = 0;
    }

    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// When to fetch next in the background, counted from the last attempt. `jitter` is in `-1.0..=1.0` and moves the
    /// time by a tenth, so that many gates do not ask one issuer at once.
    pub fn wait(&self, rules: &CacheRules, jitter: f64) -> Duration {
        let base = match self.failures {
            0 => rules.refresh,
            failures => BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(BACKOFF_MAX).min(rules.refresh),
        };
        base.mul_f64(1.0 + 0.1 * jitter.clamp(-1.0, 1.0))
    }

    /// How long until an unknown key id may cause a fetch.
    pub fn until_force(&self, now: Instant, rules: &CacheRules) -> Duration {
        self.last_forced.map_or(Duration::ZERO, |last| rules.cooldown.saturating_sub(now.duration_since(last)))
    }

    /// Whether an unknown key id may cause a fetch now. Says yes at most once in a cooldown.
    pub fn may_force(&mut self, now: Instant, rules: &CacheRules) -> bool {
        let rested = self.until_force(now, rules).is_zero();
        if rested {
            self.last_forced = Some(now);
        }
        rested
    }

    /// Whether the last good keys still count.
    pub fn is_usable(&self, now: Instant, rules: &CacheRules) -> bool {
        self.last_success.is_some_and(|last| now.duration_since(last) <= rules.max_stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: CacheRules =
        CacheRules { refresh: Duration::from_secs(300), cooldown: Duration::from_secs(10), max_stale: Duration::from_secs(3600) };

    #[test]
    fn failures_back_off_and_a_success_ends_it() {
        let mut attempt = Attempt::default();
        assert_eq!(attempt.wait(&RULES, 0.0), RULES.refresh);
        let mut waits = Vec::new();
        for _ in 0..8 {
            attempt.failed();
            waits.push(attempt.wait(&RULES, 0.0).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        attempt.succeeded(Instant::now());
        assert_eq!(attempt.wait(&RULES, 0.0), RULES.refresh);
    }

    #[test]
    fn jitter_moves_a_wait_by_a_tenth_at_most() {
        let attempt = Attempt::default();
        assert_eq!(attempt.wait(&RULES, 1.0), Duration::from_secs(330));
        assert_eq!(attempt.wait(&RULES, -9.0), Duration::from_secs(270));
    }

    #[test]
    fn unknown_keys_force_one_fetch_in_a_cooldown() {
        let mut attempt = Attempt::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!([0, 1, 9, 10, 11, 20].map(|seconds| attempt.may_force(at(seconds), &RULES)), [true, false, false, true, false, true]);
    }

    #[test]
    fn old_keys_count_until_they_are_too_stale() {
        let mut attempt = Attempt::default();
        let start = Instant::now();
        assert!(!attempt.is_usable(start, &RULES));
        attempt.succeeded(start);
        attempt.failed();
        assert!(attempt.is_usable(start + RULES.max_stale, &RULES));
        assert!(!attempt.is_usable(start + RULES.max_stale + Duration::from_secs(1), &RULES));
    }
}
