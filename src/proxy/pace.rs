//! How fast a client sends or takes, while it is what is waited for: a client that moves a little now and then is as slow as
//! one that moves nothing.

use std::time::{Duration, Instant};

/// The least that a client has to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastRate {
    pub bytes_per_second: u64,
    /// Over how much time in which the client was waited for it is asked.
    pub window: Duration,
}

/// What moved in the current window. Time in which somebody else was waited for is no part of it, so that a service which
/// thinks for long, or a stream on which nothing happens, is held against no client.
#[derive(Debug, Default)]
pub struct Pace {
    bytes: u64,
    waited: Duration,
    since: Option<Instant>,
}

impl Pace {
    /// From now on the client is waited for.
    pub fn waits(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The client moved these bytes. Whether it has been too slow over a whole window.
    pub fn moved(&mut self, bytes: usize, now: Instant, least: LeastRate) -> bool {
        self.bytes += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        if self.waited < least.window {
            return false;
        }
        let wanted = self.waited.as_millis() * u128::from(least.bytes_per_second) / 1000;
        let too_slow = u128::from(self.bytes) < wanted;
        *self = Self::default();
        too_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    const LEAST: LeastRate = LeastRate { bytes_per_second: 100, window: Duration::from_secs(10) };

    /// Each step: how long the service is waited for, how long the client, and what it moves then.
    fn too_slow_at(steps: impl IntoIterator<Item = (u64, u64, usize)>) -> Option<usize> {
        let (mut pace, mut now) = (Pace::default(), clock::instant_now());
        for (i, (service_ms, client_ms, bytes)) in steps.into_iter().enumerate() {
            now += Duration::from_millis(service_ms);
            pace.waits(now);
            now += Duration::from_millis(client_ms);
            if pace.moved(bytes, now, LEAST) {
                return Some(i);
            }
        }
        None
    }

    #[test]
    fn a_client_that_drips_is_too_slow_after_one_window() {
        assert_eq!(too_slow_at((0..100).map(|_| (0, 1000, 99))), Some(9));
        assert_eq!(too_slow_at((0..100).map(|_| (0, 1000, 100))), None);
    }

    #[test]
    fn a_good_start_does_not_pay_for_a_drip() {
        let steps = std::iter::once((0, 1000, 1 << 30)).chain((0..100).map(|_| (0, 1000, 1)));
        assert_eq!(too_slow_at(steps), Some(19));
    }

    #[test]
    fn time_in_which_the_service_is_silent_is_no_clients() {
        assert_eq!(too_slow_at((0..100).map(|_| (60_000, 1, 1))), None);
    }

    proptest! {
        #[test]
        fn whoever_keeps_the_rate_in_each_second_is_never_too_slow(steps in proptest::collection::vec((0u64..5000, 1u64..1000), 1..500)) {
            prop_assert_eq!(too_slow_at(steps.into_iter().map(|(service, client)| (service, client, (client as usize).div_ceil(10)))), None);
        }

        #[test]
        fn whoever_stays_below_it_is_found_within_two_windows(steps in proptest::collection::vec(500u64..1000, 40..60)) {
            let found = too_slow_at(steps.into_iter().map(|client| (0, client, (client as usize / 10).saturating_sub(10))));
            prop_assert!(found.is_some_and(|at| at <= 40));
        }
    }
}
