//! The circuit breaker of a service: while most of its requests fail, none is sent but a few that try whether it is well.

use std::time::{Duration, Instant};

use super::budget::Window;
use crate::policy::CircuitBreaker as Rules;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests are sent.
    Closed,
    /// Requests are refused.
    Open,
    /// A few are sent, the others refused.
    HalfOpen,
}

impl BreakerState {
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What a request that is let through is to the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// One of many, let through in the closed state of this round.
    Free(u64),
    /// One of the few that decide, of this round.
    Probe(u64),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { running: u32, good: u32 },
}

#[derive(Debug, Clone)]
pub struct Breaker {
    state: State,
    /// Of requests and failures.
    window: Window<2>,
    /// Counts changes of state, so that what was let through before says nothing of now.
    round: u64,
}

const REQUESTS: usize = 0;
const FAILURES: usize = 1;

impl Breaker {
    pub fn new(rules: &Rules, now: Instant) -> Self {
        Self { state: State::Closed, window: Window::new(rules.window.as_secs() as usize, now), round: 0 }
    }

    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a request may be sent; if not, when it is worth asking again.
    pub fn admit(&mut self, rules: &Rules, now: Instant) -> Result<Pass, Duration> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(until - now);
            }
            self.turn(State::HalfOpen { running: 0, good: 0 });
        }
        match &mut self.state {
            State::Closed => Ok(Pass::Free(self.round)),
            State::HalfOpen { running, good } if *running + *good < rules.probes => {
                *running += 1;
                Ok(Pass::Probe(self.round))
            }
            State::HalfOpen { .. } | State::Open { .. } => Err(rules.open),
        }
    }

    /// Takes what became of a request that was let through; `None` when that says nothing of the service.
    pub fn note(&mut self, rules: &Rules, pass: Pass, failed: Option<bool>, now: Instant) {
        match (&mut self.state, pass) {
            (State::Closed, Pass::Free(round)) if round == self.round => {
                let Some(failed) = failed else { return };
                let slot = self.window.now(now);
                slot[REQUESTS] = slot[REQUESTS].saturating_add(1);
                if !failed {
                    return;
                }
                slot[FAILURES] = slot[FAILURES].saturating_add(1);
                let [requests, failures] = self.window.sum(now);
                if requests >= u64::from(rules.requests) && failures * 100 >= requests * u64::from(rules.failures) {
                    self.turn(State::Open { until: now + rules.open });
                }
            }
            (State::HalfOpen { running, good }, Pass::Probe(round)) if round == self.round => {
                *running = running.saturating_sub(1);
                match failed {
                    None => {}
                    Some(true) => self.turn(State::Open { until: now + rules.open }),
                    Some(false) => {
                        *good += 1;
                        if *good >= rules.probes {
                            self.window.clear();
                            self.turn(State::Closed);
                        }
                    }
                }
            }
            (State::Closed | State::Open { .. } | State::HalfOpen { .. }, Pass::Free(_) | Pass::Probe(_)) => {}
        }
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.round += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const RULES: Rules = Rules {
        failures: 50,
        requests: 10,
        window: Duration::from_secs(10),
        open: Duration::from_secs(5),
        probes: 2,
        statuses: Vec::new(),
    };

    fn run(breaker: &mut Breaker, results: &[bool], now: Instant) {
        for failed in results {
            if let Ok(pass) = breaker.admit(&RULES, now) {
                breaker.note(&RULES, pass, Some(*failed), now);
            }
        }
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(&RULES, now);
        run(&mut breaker, &[true; 10], now);
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn it_opens_by_the_share_of_failures_and_not_before_there_are_enough_requests() {
        let now = clock::instant_now();
        for (bad, good, expected) in [
            (9, 0, BreakerState::Closed),
            (10, 0, BreakerState::Open),
            (5, 5, BreakerState::Open),
            (4, 6, BreakerState::Closed),
            (49, 51, BreakerState::Closed),
            (50, 50, BreakerState::Open),
        ] {
            let mut breaker = Breaker::new(&RULES, now);
            run(&mut breaker, &vec![false; good], now);
            run(&mut breaker, &vec![true; bad], now);
            assert_eq!(breaker.state(), expected, "{bad} of {}", bad + good);
        }
    }

    #[test]
    fn what_failed_long_ago_counts_no_more() {
        let now = clock::instant_now();
        let mut breaker = Breaker::new(&RULES, now);
        run(&mut breaker, &[true; 9], now);
        run(&mut breaker, &[true; 9], now + Duration::from_secs(10));
        assert_eq!(breaker.state(), BreakerState::Closed);
        run(&mut breaker, &[true], now + Duration::from_secs(11));
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn open_it_refuses_and_says_for_how_long() {
        let now = clock::instant_now();
        let mut breaker = opened(now);
        assert_eq!(breaker.admit(&RULES, now + Duration::from_secs(2)), Err(Duration::from_secs(3)));
    }

    #[test]
    fn half_open_it_lets_a_few_through_and_closes_when_all_are_good() {
        let now = clock::instant_now();
        let mut breaker = opened(now);
        let later = now + RULES.open;
        let probes: Vec<Pass> = (0..5).filter_map(|_| breaker.admit(&RULES, later).ok()).collect();
        assert_eq!((probes.len(), breaker.state()), (2, BreakerState::HalfOpen));
        breaker.note(&RULES, probes[0], Some(false), later);
        assert!(breaker.admit(&RULES, later).is_err(), "one good, one on its way");
        breaker.note(&RULES, probes[1], Some(false), later);
        assert_eq!(breaker.state(), BreakerState::Closed);
        run(&mut breaker, &[true; 9], later);
        assert_eq!(breaker.state(), BreakerState::Closed, "what was before is forgotten");
    }

    #[test]
    fn one_bad_probe_opens_it_again() {
        let now = clock::instant_now();
        let mut breaker = opened(now);
        let later = now + RULES.open;
        let probes: Vec<Pass> = (0..2).filter_map(|_| breaker.admit(&RULES, later).ok()).collect();
        breaker.note(&RULES, probes[0], Some(true), later);
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.note(&RULES, probes[1], Some(false), later);
        assert_eq!((breaker.state(), breaker.admit(&RULES, later)), (BreakerState::Open, Err(RULES.open)));
    }

    #[test]
    fn a_probe_whose_client_left_gives_its_place_back() {
        let now = clock::instant_now();
        let mut breaker = opened(now);
        let later = now + RULES.open;
        for _ in 0..10 {
            let pass = breaker.admit(&RULES, later).unwrap();
            breaker.note(&RULES, pass, None, later);
        }
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn requests_of_before_say_nothing_of_now() {
        let now = clock::instant_now();
        let mut breaker = Breaker::new(&RULES, now);
        let old: Vec<Pass> = (0..20).filter_map(|_| breaker.admit(&RULES, now).ok()).collect();
        run(&mut breaker, &[true; 10], now);
        let later = now + RULES.open;
        let probe = breaker.admit(&RULES, later).unwrap();
        for pass in &old {
            breaker.note(&RULES, *pass, Some(false), later);
        }
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.note(&RULES, probe, Some(false), later);
        let probe = breaker.admit(&RULES, later).unwrap();
        breaker.note(&RULES, probe, Some(false), later);
        for pass in &old {
            breaker.note(&RULES, *pass, Some(true), later);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
