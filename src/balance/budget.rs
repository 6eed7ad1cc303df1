//! How many requests may be tried again: a share of those of the last seconds, so that retries never multiply an outage.

use std::time::{Duration, Instant};

use crate::policy::Retries;

/// Looked back on, in slots of a second.
const SLOTS: usize = 10;
const SLOT: Duration = Duration::from_secs(1);

/// Counters of the last seconds, the oldest of which go as time goes on.
#[derive(Debug, Clone)]
pub struct Window<const PARTS: usize> {
    begun: Instant,
    /// The number of the newest slot since then.
    newest: u64,
    slots: Vec<[u32; PARTS]>,
}

impl<const PARTS: usize> Window<PARTS> {
    pub fn new(slots: usize, now: Instant) -> Self {
        Self { begun: now, newest: 0, slots: vec![[0; PARTS]; slots.max(1)] }
    }

    /// The counters of this very second.
    pub fn now(&mut self, now: Instant) -> &mut [u32; PARTS] {
        let number = (now.saturating_duration_since(self.begun).as_millis() / SLOT.as_millis()) as u64;
        let length = self.slots.len() as u64;
        // A clock that two threads read goes back a little; the newest slot takes what is late.
        for gone in (self.newest + 1..=number).take(self.slots.len()) {
            self.slots[(gone % length) as usize] = [0; PARTS];
        }
        self.newest = self.newest.max(number);
        let at = (self.newest % length) as usize;
        &mut self.slots[at]
    }

    /// What was counted in all of it.
    pub fn sum(&mut self, now: Instant) -> [u64; PARTS] {
        self.now(now);
        let mut sum = [0; PARTS];
        for slot in &self.slots {
            for (total, part) in sum.iter_mut().zip(slot) {
                *total += u64::from(*part);
            }
        }
        sum
    }

    pub fn clear(&mut self) {
        self.slots.fill([0; PARTS]);
    }
}

const REQUESTS: usize = 0;
const RETRIES: usize = 1;

/// What is left to be tried again.
#[derive(Debug, Clone)]
pub struct RetryBudget(Window<2>);

impl RetryBudget {
    pub fn new(now: Instant) -> Self {
        Self(Window::new(SLOTS, now))
    }

    /// Counts a request, which earns a share of a retry.
    pub fn earn(&mut self, now: Instant) {
        let requests = &mut self.0.now(now)[REQUESTS];
        *requests = requests.saturating_add(1);
    }

    /// Takes one retry, if there is one.
    pub fn spend(&mut self, rules: &Retries, now: Instant) -> bool {
        let [requests, retries] = self.0.sum(now);
        let allowed = (requests * u64::from(rules.budget) / 100).max(u64::from(rules.budget_floor));
        let has = retries < allowed;
        if has {
            self.0.now(now)[RETRIES] += 1;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    fn rules(budget: u32, budget_floor: u32) -> Retries {
        Retries { attempts: 3, on: Vec::new(), budget, budget_floor, replay_bytes: 0, per_try_timeout: None, backoff: Duration::ZERO }
    }

    fn spent(budget: &mut RetryBudget, rules: &Retries, now: Instant) -> usize {
        std::iter::from_fn(|| budget.spend(rules, now).then_some(())).take(100_000).count()
    }

    #[test]
    fn a_share_of_the_requests_or_the_floor_whichever_is_more() {
        for (requests, percent, floor, expected) in [
            (0, 20, 30, 30),
            (100, 20, 30, 30),
            (150, 20, 30, 30),
            (1000, 20, 30, 200),
            (1000, 0, 0, 0),
            (1000, 100, 0, 1000),
            (0, 20, 0, 0),
        ] {
            let now = clock::instant_now();
            let mut budget = RetryBudget::new(now);
            (0..requests).for_each(|_| budget.earn(now));
            assert_eq!(spent(&mut budget, &rules(percent, floor), now), expected, "{percent} % of {requests}, floor {floor}");
        }
    }

    #[test]
    fn what_was_earned_and_spent_long_ago_is_forgotten() {
        let start = clock::instant_now();
        let mut budget = RetryBudget::new(start);
        (0..1000).for_each(|_| budget.earn(start));
        assert_eq!(spent(&mut budget, &rules(20, 10), start), 200);
        assert_eq!(spent(&mut budget, &rules(20, 10), start + SLOT * 9), 0, "still within the window");
        assert_eq!(spent(&mut budget, &rules(20, 10), start + SLOT * 10), 10, "the floor alone");
        assert_eq!(spent(&mut budget, &rules(20, 10), start + SLOT * 10_000), 10);
    }

    #[test]
    fn a_clock_that_is_read_late_takes_nothing_away() {
        let start = clock::instant_now();
        let mut budget = RetryBudget::new(start);
        budget.earn(start + SLOT * 5);
        (0..99).for_each(|_| budget.earn(start + SLOT * 4));
        assert_eq!(spent(&mut budget, &rules(50, 0), start + SLOT * 5), 50);
    }

    proptest! {
        /// Whenever something is tried again, the retries of the last seconds are no more than the share of the requests, or
        /// than the floor.
        #[test]
        fn retries_never_multiply_an_outage(steps in prop::collection::vec((0u64..2500, 0usize..50), 1..60), percent in 0u32..=100, floor in 0u32..40) {
            let rules = rules(percent, floor);
            let mut now = clock::instant_now();
            let mut budget = RetryBudget::new(now);
            let (mut requests, mut retries): (Vec<Instant>, Vec<Instant>) = (Vec::new(), Vec::new());
            for (wait_ms, count) in steps {
                now += Duration::from_millis(wait_ms);
                for _ in 0..count {
                    requests.push(now);
                    budget.earn(now);
                    // Everything fails, and everybody wants two more tries.
                    for _ in 0..2 {
                        if !budget.spend(&rules, now) {
                            continue;
                        }
                        retries.push(now);
                        let within = |times: &[Instant], slots: usize| {
                            times.iter().rev().take_while(|at| now.duration_since(**at) < SLOT * slots as u32).count()
                        };
                        let earned = within(&requests, SLOTS + 1) * percent as usize / 100;
                        prop_assert!(within(&retries, SLOTS - 1) <= earned.max(floor as usize));
                    }
                }
            }
        }
    }
}
