//! Limits that are counted in this process.

use std::fmt;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

use super::Standing;
use super::caller::Caller;
use super::table::Table;
use crate::clock;
use crate::policy::{Policy, RateLimit};

/// The steady clock, as the time since it was first looked at.
#[derive(Debug, Clone)]
pub struct Steady(Instant);

impl Default for Steady {
    fn default() -> Self {
        Self(clock::instant_now())
    }
}

impl Clock for Steady {
    type Instant = Nanos;
    fn now(&self) -> Nanos {
        // Never 0, which is an empty place in the table.
        Nanos::from(clock::instant_now().duration_since(self.0) + Duration::from_secs(1))
    }
}

/// The table as the limiter of one limit sees it: in times since that limiter was made.
struct View<C> {
    table: Arc<Table>,
    clock: C,
    made: u64,
}

impl<C: Clock<Instant = Nanos>> StateStore for View<C> {
    type Key = u64;
    fn measure_and_replace<T, F, E>(&self, key: &u64, next: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let now = || self.clock.now().as_u64();
        self.table.update(*key, now, |until| {
            let (answer, until) = next(until.map(|until| until.saturating_sub(self.made).into()))?;
            Ok((answer, until.as_u64().saturating_add(self.made)))
        })
    }
}

type Limiter<C> = RateLimiter<u64, View<C>, C, StateInformationMiddleware>;

/// The counters of this process, and the limits that use them.
pub struct Local<C: Clock<Instant = Nanos>> {
    table: Arc<Table>,
    keys: usize,
    secret: RandomState,
    clock: C,
    limiters: HashMap<String, Limiter<C>>,
}

impl<C: Clock<Instant = Nanos>> fmt::Debug for Local<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("limits", &self.limiters.len()).finish_non_exhaustive()
    }
}

impl<C: Clock<Instant = Nanos> + Clone> Local<C> {
    pub fn new(policy: &Policy, clock: C) -> Self {
        let table = Arc::new(Table::new(0, 0));
        Self { table, keys: 0, secret: RandomState::new(), clock, limiters: HashMap::default() }.with(policy)
    }

    /// The same counters for another policy. A counter belongs to a limit by its id, so that those of a limit that
    /// stays the same go on, and those of one that is gone run out by themselves.
    pub fn with(&self, policy: &Policy) -> Self {
        let routes = policy.services.iter().flat_map(|service| &service.routes);
        let limits: Vec<&Arc<RateLimit>> = routes.flat_map(|route| &route.rate_limits.list).collect();
        // Without limits there is nothing to hold room for.
        let keys = if limits.is_empty() { self.keys } else { policy.state.keys };
        let table = if keys == self.keys { self.table.clone() } else { Arc::new(Table::new(keys, self.table.evicted())) };
        let limiters = limits.into_iter().filter_map(|limit| Some((limit.id.clone(), self.limiter(&table, limit)?))).collect();
        Self { table, keys, secret: self.secret.clone(), clock: self.clock.clone(), limiters }
    }

    /// `None` for numbers that no compiled limit has.
    fn limiter(&self, table: &Arc<Table>, limit: &RateLimit) -> Option<Limiter<C>> {
        let quota = Quota::with_period(limit.every())?.allow_burst(limit.burst.try_into().ok()?);
        let view = View { table: table.clone(), clock: self.clock.clone(), made: self.clock.now().as_u64() };
        Some(Limiter::new(quota, view, self.clock.clone()))
    }

    /// Counts a request with each limit. When one that is enforced refuses it, it costs nothing in the others.
    pub fn check(&self, limits: &[&Arc<RateLimit>], caller: &Caller<'_>, enforced: &dyn Fn(&RateLimit) -> bool) -> Vec<Standing> {
        let mut standings = Vec::with_capacity(limits.len());
        let mut refused = false;
        for limit in limits {
            // A limit that a reload has just taken out counts no more.
            let Some(limiter) = self.limiters.get(&limit.id) else { continue };
            let standing = match limiter.check_key(&self.key(limit, caller)) {
                Ok(state) => Standing { limit: (*limit).clone(), over: false, left: state.remaining_burst_capacity(), wait: limit.every() },
                Err(until) => {
                    refused |= enforced(limit);
                    Standing { limit: (*limit).clone(), over: true, left: 0, wait: until.wait_time_from(self.clock.now()) }
                }
            };
            standings.push(standing);
        }
        if refused {
            for standing in standings.iter_mut().filter(|standing| !standing.over) {
                let every = u64::try_from(standing.limit.every().as_nanos()).unwrap_or(u64::MAX);
                self.table.give_back(self.key(&standing.limit, caller), every);
                standing.left += 1;
            }
        }
        standings
    }

    fn key(&self, limit: &RateLimit, caller: &Caller<'_>) -> u64 {
        caller.key(limit, &self.secret)
    }

    /// How long what a caller asked for still takes.
    pub fn debt(&self, limit: &RateLimit, caller: &Caller<'_>) -> Duration {
        let now = self.clock.now().as_u64();
        Duration::from_nanos(self.table.read(self.key(limit, caller)).saturating_sub(now))
    }

    /// Takes over what the shared counters say, to go on from there when they are away.
    pub fn raise(&self, limit: &RateLimit, caller: &Caller<'_>, debt: Duration) {
        let now = self.clock.now().as_u64();
        let until = now.saturating_add(u64::try_from(debt.as_nanos()).unwrap_or(u64::MAX));
        let raised = |known: Option<u64>| Ok::<_, ()>(((), known.unwrap_or(0).max(until)));
        let _ = self.table.update(self.key(limit, caller), || now, raised);
    }

    pub fn keys(&self) -> usize {
        self.table.len(self.clock.now().as_u64())
    }

    pub fn evicted(&self) -> u64 {
        self.table.evicted()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::config::Document;
    use crate::policy::{Mode, compile};

    fn policy(limits: &str) -> Policy {
        let text = format!(
            "services:\n  - {{ name: s, resource: 'https://a.example', upstream: 'http://127.0.0.1:1', routes: {{ /x: {{ access: public, rate_limit: {limits} }} }} }}"
        );
        let document = Document::read(&format!("issuer: https://i.example\n{text}\n"), &|_| None);
        compile(document.config.as_ref().unwrap(), String::new(), &|_| Err(String::new())).unwrap()
    }

    struct Bench {
        clock: FakeRelativeClock,
        policy: Policy,
        local: Local<FakeRelativeClock>,
    }

    fn bench(limits: &str) -> Bench {
        let (clock, policy) = (FakeRelativeClock::default(), policy(limits));
        clock.advance(Duration::from_secs(1000));
        let local = Local::new(&policy, clock.clone());
        Bench { clock, policy, local }
    }

    impl Bench {
        /// For each limit `None` when it lets the caller in, else the milliseconds to wait; and what is left.
        fn ask(&self, address: &str) -> Vec<(Option<u128>, u32)> {
            let caller = Caller { claims: None, address: Some(address.parse().unwrap()) };
            let limits: Vec<&Arc<RateLimit>> = self.policy.services[0].routes[0].rate_limits.list.iter().collect();
            let standings = self.local.check(&limits, &caller, &|limit| limit.mode == Mode::Enforce);
            standings.iter().map(|standing| (standing.over.then_some(standing.wait.as_millis()), standing.left)).collect()
        }

        fn after(&self, milliseconds: u64) -> &Self {
            self.clock.advance(Duration::from_millis(milliseconds));
            self
        }

        fn reload(&mut self, limits: &str) {
            self.policy = policy(limits);
            self.local = self.local.with(&self.policy);
        }
    }

    const A: &str = "192.0.2.1";
    const B: &str = "192.0.2.2";

    #[test]
    fn a_burst_is_let_in_and_earned_again_one_by_one() {
        let bench = bench("{ by: address, requests: 60, per: 1m, burst: 3 }");
        assert_eq!([bench.ask(A), bench.ask(A), bench.ask(A)].concat(), [(None, 2), (None, 1), (None, 0)]);
        assert_eq!(bench.ask(A), [(Some(1000), 0)]);
        assert_eq!(bench.after(400).ask(A), [(Some(600), 0)]);
        assert_eq!(bench.ask(B), [(None, 2)], "another caller has a burst of its own");
        assert_eq!(bench.after(599).ask(A), [(Some(1), 0)]);
        assert_eq!(bench.after(1).ask(A), [(None, 0)]);
        assert_eq!(bench.after(60_000).ask(A), [(None, 2)], "more than a burst is never saved up");
    }

    #[test]
    fn a_request_that_one_limit_refuses_costs_nothing_in_another() {
        let bench = bench("[60 per 1m by address, { by: address, requests: 2, per: 1s }]");
        assert_eq!(bench.ask(A), [(None, 59), (None, 1)]);
        assert_eq!(bench.ask(A), [(None, 58), (None, 0)]);
        for _ in 0..100 {
            assert_eq!(bench.ask(A), [(None, 58), (Some(500), 0)]);
        }
        assert_eq!(bench.after(500).ask(A), [(None, 57), (None, 0)]);
    }

    #[test]
    fn a_limit_that_only_reports_costs_the_others_their_share() {
        let bench = bench("[60 per 1m by address, { by: address, requests: 1, per: 1s, mode: report }]");
        assert_eq!(bench.ask(A), [(None, 59), (None, 0)]);
        assert_eq!(bench.ask(A), [(None, 58), (Some(1000), 0)]);
        assert_eq!(bench.ask(A), [(None, 57), (Some(1000), 0)]);
    }

    #[test]
    fn counters_go_on_over_a_reload_when_their_limit_stays() {
        let (two, other) = ("2 per 1m by address", "3 per 1m by address");
        let mut bench = bench(two);
        assert_eq!([bench.ask(A), bench.ask(A), bench.ask(A)].concat(), [(None, 1), (None, 0), (Some(30_000), 0)]);
        bench.after(10_000).ask(A);
        bench.reload(&format!("[{two}, 100 per 1h by address]"));
        assert_eq!(bench.ask(A)[0], (Some(20_000), 0));
        bench.reload("{ by: address, requests: 2, per: 1m, mode: report }");
        assert_eq!(bench.ask(A)[0], (Some(20_000), 0), "enforcing or reporting is no other limit");
        bench.reload(other);
        assert_eq!(bench.ask(A), [(None, 2)], "other numbers are another limit");
        bench.reload(two);
        assert_eq!(bench.ask(A)[0], (Some(20_000), 0), "and the old one has not been forgotten");
    }

    #[test]
    fn what_the_shared_counters_said_counts_when_they_are_away() {
        let bench = bench("2 per 1m by address");
        let caller = Caller { claims: None, address: Some(A.parse().unwrap()) };
        let limit = bench.policy.services[0].routes[0].rate_limits.list[0].clone();
        bench.local.raise(&limit, &caller, Duration::from_secs(45));
        assert_eq!(bench.local.debt(&limit, &caller), Duration::from_secs(45));
        assert_eq!(bench.ask(A), [(Some(15_000), 0)]);
        bench.local.raise(&limit, &caller, Duration::from_secs(1));
        assert_eq!(bench.after(15_000).local.debt(&limit, &caller), Duration::from_secs(30), "the larger debt wins");
    }
}
