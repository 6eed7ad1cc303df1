//! Leaving an endpoint alone that fails: for a while, for longer each time, and never so many that the rest is too few.

use std::time::{Duration, Instant};

use crate::policy::Ejection as Rules;

/// What the requests of an endpoint say of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ejection {
    /// Failures in a row.
    failures: u32,
    /// Until when it is out, or was out last, and for how long.
    last: Option<(Instant, Duration)>,
}

/// How many of so many endpoints may be out at a time. All of them never are: there would be nobody left to prove well.
pub fn room(rules: &Rules, endpoints: usize) -> usize {
    (endpoints * rules.max_ejected as usize / 100).min(endpoints.saturating_sub(1))
}

impl Ejection {
    pub fn is_out(&self, now: Instant) -> bool {
        self.last.is_some_and(|(until, _)| now < until)
    }

    /// When it came back, if it was out and is not any more.
    pub fn returned(&self, now: Instant) -> Option<Instant> {
        self.last.map(|(until, _)| until).filter(|until| *until <= now)
    }

    pub fn until(&self) -> Option<Instant> {
        self.last.map(|(until, _)| until)
    }

    pub fn succeed(&mut self) {
        self.failures = 0;
    }

    /// Takes a failure, and says for how long it is out from now on, if it is. Where there is no room, it stays until there is.
    pub fn fail(&mut self, rules: &Rules, now: Instant, has_room: bool) -> Option<Duration> {
        // What was on its way when it was taken out says nothing new.
        if self.is_out(now) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < rules.failures || !has_room {
            return None;
        }
        self.failures = 0;
        let time = match self.last {
            // It stayed for twice as long as it was out: what was wrong then is over.
            Some((until, time)) if now.duration_since(until) < 2 * time => (2 * time).min(rules.time_max),
            Some(_) | None => rules.time.min(rules.time_max),
        };
        self.last = Some((now + time, time));
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const RULES: Rules =
        Rules { failures: 3, time: Duration::from_secs(10), time_max: Duration::from_secs(60), max_ejected: 50, statuses: Vec::new() };

    fn fails(ejection: &mut Ejection, now: Instant) -> Option<u64> {
        (0..3).filter_map(|_| ejection.fail(&RULES, now, true)).map(|time| time.as_secs()).next()
    }

    #[test]
    fn failures_in_a_row_take_it_out_for_longer_each_time() {
        let (mut ejection, mut now) = (Ejection::default(), clock::instant_now());
        for expected in [10, 20, 40, 60, 60] {
            assert_eq!(fails(&mut ejection, now), Some(expected));
            assert!(ejection.is_out(now) && ejection.returned(now).is_none());
            now += Duration::from_secs(expected);
            assert!(!ejection.is_out(now), "it is over on the second");
            assert_eq!(ejection.returned(now), Some(now));
        }
        now += Duration::from_secs(120);
        assert_eq!(fails(&mut ejection, now), Some(10), "what was wrong then is over");
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let (mut ejection, now) = (Ejection::default(), clock::instant_now());
        for _ in 0..100 {
            assert_eq!(ejection.fail(&RULES, now, true), None);
            assert_eq!(ejection.fail(&RULES, now, true), None);
            ejection.succeed();
        }
        assert!(!ejection.is_out(now));
    }

    #[test]
    fn requests_that_were_on_their_way_make_it_no_longer() {
        let (mut ejection, now) = (Ejection::default(), clock::instant_now());
        assert_eq!(fails(&mut ejection, now), Some(10));
        assert_eq!(fails(&mut ejection, now), None);
        assert_eq!(ejection.until(), Some(now + RULES.time));
    }

    #[test]
    fn without_room_it_stays_and_goes_with_the_next_failure_once_there_is() {
        let (mut ejection, now) = (Ejection::default(), clock::instant_now());
        for _ in 0..5 {
            assert_eq!(ejection.fail(&RULES, now, false), None);
        }
        assert!(ejection.fail(&RULES, now, true).is_some());
    }

    #[test]
    fn never_more_than_the_share_and_never_the_last_one() {
        for (percent, endpoints, expected) in [
            (50, 1, 0),
            (50, 2, 1),
            (50, 3, 1),
            (50, 4, 2),
            (10, 9, 0),
            (10, 10, 1),
            (100, 1, 0),
            (100, 2, 1),
            (100, 5, 4),
            (0, 9, 0),
            (50, 0, 0),
        ] {
            let rules = Rules { max_ejected: percent, ..RULES };
            assert_eq!(room(&rules, endpoints), expected, "{percent} % of {endpoints}");
        }
    }
}
