//! The endpoints of a service with all that is known of them, and the one place where one of them is chosen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::{Breaker, BreakerState, Pass};
use super::budget::RetryBudget;
use super::ejection::{Ejection, room};
use super::health::{Checks, Health};
use super::pick::{self, Seat};
use crate::policy::{Balance, Balancing};

#[derive(Clone)]
struct Known<E> {
    endpoint: E,
    /// The hash of its name.
    id: u64,
    checks: Checks,
    ejection: Ejection,
    /// Since when it is (again) one of them, if it was not from the start.
    since: Option<Instant>,
}

/// An endpoint that was chosen.
#[derive(Debug, Clone)]
pub struct Choice<E> {
    pub endpoint: E,
    /// By which it is told from the others, also when they change.
    pub id: u64,
    /// Whether it was tried before, by this request.
    pub again: bool,
}

/// What changed for an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    pub what: Turn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Ejected(Duration),
    Healthy,
    Unhealthy,
}

/// How an endpoint stands, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub name: String,
    pub weight: f64,
    pub in_flight: usize,
    /// `None` where nobody asks.
    pub health: Option<Health>,
    /// For how long it is still left alone.
    pub ejected: Option<Duration>,
    /// The part of its weight that it gets on its way back; 1 once it is there.
    pub share: f64,
}

/// The endpoints of one service.
#[derive(Clone)]
pub struct Roster<E> {
    balancing: Arc<Balancing>,
    known: Vec<Known<E>>,
    /// What each is owed by turns.
    owed: Vec<f64>,
    chance: u64,
    budget: RetryBudget,
    breaker: Option<Breaker>,
}

/// The least part of its weight that an endpoint gets that comes back: none would be no way back.
const SHARE_MIN: f64 = 0.1;

impl<E: Member + Clone> Roster<E> {
    /// `chance` is a number that nobody knows before.
    pub fn new(balancing: Arc<Balancing>, endpoints: impl IntoIterator<Item = E>, chance: u64, now: Instant) -> Self {
        let breaker = balancing.circuit_breaker.as_ref().map(|rules| Breaker::new(rules, now));
        let mut roster = Self { balancing, known: Vec::new(), owed: Vec::new(), chance, budget: RetryBudget::new(now), breaker };
        roster.adopt_endpoints(endpoints, now);
        roster
    }

    pub fn balancing(&self) -> &Arc<Balancing> {
        &self.balancing
    }

    pub fn has_several(&self) -> bool {
        self.known.len() > 1
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &E> {
        self.known.iter().map(|known| &known.endpoint)
    }

    /// Takes over other settings. What is known stays; a breaker with other settings begins anew, closed.
    pub fn adopt_balancing(&mut self, balancing: Arc<Balancing>, now: Instant) {
        if balancing.circuit_breaker != self.balancing.circuit_breaker {
            self.breaker = balancing.circuit_breaker.as_ref().map(|rules| Breaker::new(rules, now));
        }
        let asks = |balancing: &Balancing| balancing.health_check.as_ref().map(|check| check.question.clone());
        if asks(&balancing) != asks(&self.balancing) {
            self.known.iter_mut().for_each(|known| known.checks = Checks::default());
        }
        self.balancing = balancing;
    }

    /// Takes over other endpoints. What is known of those that stay, stays; those that come begin with a small share.
    pub fn adopt_endpoints(&mut self, endpoints: impl IntoIterator<Item = E>, now: Instant) {
        let from_the_start = self.known.is_empty();
        let mut old = std::mem::take(&mut self.known);
        let owed = std::mem::take(&mut self.owed);
        let ids: Vec<u64> = old.iter().map(|known| known.id).collect();
        for endpoint in endpoints {
            let id = pick::hash(endpoint.name().as_bytes());
            let stays = old.iter().position(|known| known.id == id);
            self.owed.push(ids.iter().position(|known| *known == id).map_or(0.0, |at| owed[at]));
            self.known.push(match stays.map(|at| old.swap_remove(at)) {
                Some(known) => Known { endpoint, ..known },
                None => {
                    let since = Some(now).filter(|_| !from_the_start);
                    Known { endpoint, id, checks: Checks::default(), ejection: Ejection::default(), since }
                }
            });
        }
    }

    /// Begins a request: counts it, and asks the breaker. An error says when it is worth coming again. Tells a change of the
    /// breaker.
    pub fn begin(&mut self, now: Instant) -> (Result<Option<Pass>, Duration>, Option<BreakerState>) {
        let before = self.breaker();
        let pass = match (&mut self.breaker, &self.balancing.circuit_breaker) {
            (Some(breaker), Some(rules)) => breaker.admit(rules, now).map(Some),
            _ => Ok(None),
        };
        if pass.is_ok() {
            self.budget.earn(now);
        }
        (pass, self.breaker().filter(|state| Some(*state) != before))
    }

    /// Ends a request; `failed` is `None` when its end says nothing of the service. Tells a change of the breaker.
    pub fn end(&mut self, pass: Pass, failed: Option<bool>, now: Instant) -> Option<BreakerState> {
        let (Some(breaker), Some(rules)) = (&mut self.breaker, &self.balancing.circuit_breaker) else { return None };
        let before = breaker.state();
        breaker.note(rules, pass, failed, now);
        Some(breaker.state()).filter(|state| *state != before)
    }

    pub fn breaker(&self) -> Option<BreakerState> {
        self.breaker.as_ref().map(Breaker::state)
    }

    /// Whether one more try may be made.
    pub fn may_retry(&mut self, now: Instant) -> bool {
        self.budget.spend(&self.balancing.retries, now)
    }

    /// Chooses for a request: `key` is the hash of what it is chosen by, if that is there; `tried` are those that it was at.
    ///
    /// The best come first: those that are well, then those that nobody has asked yet, then those that were tried. When none
    /// is left, all are: a check or a count that takes out every endpoint is more likely wrong than right, and a request that
    /// fails is no worse than one that is refused.
    pub fn choose(&mut self, key: Option<u64>, tried: &[u64], now: Instant) -> Option<Choice<E>> {
        let only = self.known.len() == 1;
        let index = if only { 0 } else { self.choose_seat(key, tried, now)? };
        let known = self.known.get(index)?;
        Some(Choice { endpoint: known.endpoint.clone(), id: known.id, again: tried.contains(&known.id) })
    }

    fn choose_seat(&mut self, key: Option<u64>, tried: &[u64], now: Instant) -> Option<usize> {
        let rank = |known: &Known<E>| match (self.level(known, now), tried.contains(&known.id)) {
            (Level::Out, tried) => 4 + u8::from(tried),
            (level, tried) => level as u8 + 2 * u8::from(tried),
        };
        let best = self.known.iter().map(rank).min()?;
        let nobody_is_well = best >= 4;
        let mut seats = Vec::with_capacity(self.known.len());
        for (index, known) in self.known.iter().enumerate().filter(|(_, known)| rank(known) == best) {
            let share = if nobody_is_well { 1.0 } else { self.share(known, now) };
            let weight = known.endpoint.weight() * share;
            seats.push(Seat { index, weight, in_flight: known.endpoint.in_flight(), seed: known.id });
        }
        match (&self.balancing.balance, key) {
            (Balance::HashHeader(_) | Balance::HashClaim(_), Some(key)) => pick::by_key(&seats, key),
            (Balance::LeastRequests, _) => pick::least_requests(&seats, &mut || pick::random(&mut self.chance)),
            (Balance::RoundRobin | Balance::HashHeader(_) | Balance::HashClaim(_), _) => pick::in_turn(&seats, &mut self.owed),
        }
    }

    /// Whether there is one that is well and was not tried.
    pub fn has_another(&self, tried: &[u64], now: Instant) -> bool {
        self.known.iter().any(|known| !tried.contains(&known.id) && self.level(known, now) != Level::Out)
    }

    /// Takes what became of a try: `failed` as the rules of ejection have it.
    pub fn note(&mut self, id: u64, failed: bool, now: Instant) -> Option<Change> {
        // The common case, for which nothing else is looked at.
        if !failed {
            if let Some(known) = self.known.iter_mut().find(|known| known.id == id) {
                known.ejection.succeed();
            }
            return None;
        }
        let rules = &self.balancing.ejection;
        let out = self.known.iter().filter(|known| known.ejection.is_out(now)).count();
        let others = self.known.iter().any(|known| known.id != id && self.level(known, now) != Level::Out);
        let has_room = others && out < room(rules, self.known.len());
        let known = self.known.iter_mut().find(|known| known.id == id)?;
        let time = known.ejection.fail(rules, now, has_room)?;
        Some(Change { name: known.endpoint.name().to_owned(), what: Turn::Ejected(time) })
    }

    /// Takes the result of a check.
    pub fn checked(&mut self, id: u64, good: bool, now: Instant) -> Option<Change> {
        let rules = self.balancing.health_check.as_ref()?;
        let at = self.known.iter().position(|known| known.id == id)?;
        let known = &mut self.known[at];
        let before = known.checks.health();
        if !known.checks.note(good, rules.healthy, rules.unhealthy) {
            return None;
        }
        if good && before == Health::Unhealthy {
            known.since = Some(now);
            self.owed[at] = 0.0;
        }
        let what = if good { Turn::Healthy } else { Turn::Unhealthy };
        Some(Change { name: known.endpoint.name().to_owned(), what })
    }

    /// How all of them stand.
    pub fn standings(&self, now: Instant) -> Vec<Standing> {
        let asks = self.balancing.health_check.is_some();
        let standing = |known: &Known<E>| Standing {
            name: known.endpoint.name().to_owned(),
            weight: known.endpoint.weight(),
            in_flight: known.endpoint.in_flight(),
            health: asks.then(|| known.checks.health()),
            ejected: known.ejection.until().and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero()),
            share: self.share(known, now),
        };
        self.known.iter().map(standing).collect()
    }

    fn level(&self, known: &Known<E>, now: Instant) -> Level {
        if known.ejection.is_out(now) {
            return Level::Out;
        }
        match (&self.balancing.health_check, known.checks.health()) {
            (None, _) | (Some(_), Health::Healthy) => Level::Well,
            (Some(_), Health::Unchecked) => Level::Unchecked,
            (Some(_), Health::Unhealthy) => Level::Out,
        }
    }

    /// The part of its weight that an endpoint gets: it grows over `slow_start` from when it came, or came back.
    fn share(&self, known: &Known<E>, now: Instant) -> f64 {
        let slow_start = self.balancing.slow_start;
        match known.since.max(known.ejection.returned(now)) {
            Some(since) if now.saturating_duration_since(since) < slow_start => {
                (now.saturating_duration_since(since).as_secs_f64() / slow_start.as_secs_f64()).max(SHARE_MIN)
            }
            Some(_) | None => 1.0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Well,
    Unchecked,
    Out,
}

/// What choosing must know of an endpoint itself.
pub trait Member {
    /// Its name: what is known of it stays as long as this is the same.
    fn name(&self) -> &str;
    /// What it is to get beside the others; above 0.
    fn weight(&self) -> f64;
    /// Requests that it has at the moment.
    fn in_flight(&self) -> usize;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::policy::{Ejection as EjectionRules, HealthCheck, Question, Retries};

    #[derive(Debug, Clone, PartialEq)]
    struct Named(&'static str, u32);

    impl Member for Named {
        fn name(&self) -> &str {
            self.0
        }
        fn weight(&self) -> f64 {
            f64::from(self.1)
        }
        fn in_flight(&self) -> usize {
            0
        }
    }

    const A: Named = Named("a", 1);
    const B: Named = Named("b", 1);
    const C: Named = Named("c", 1);

    fn balancing() -> Balancing {
        Balancing {
            balance: Balance::RoundRobin,
            slow_start: Duration::ZERO,
            health_check: None,
            ejection: EjectionRules {
                failures: 3,
                time: Duration::from_secs(10),
                time_max: Duration::from_secs(60),
                max_ejected: 50,
                statuses: Vec::new(),
            },
            retries: Retries {
                attempts: 3,
                on: Vec::new(),
                budget: 20,
                budget_floor: 10,
                replay_bytes: 0,
                per_try_timeout: None,
                backoff: Duration::ZERO,
            },
            circuit_breaker: None,
        }
    }

    fn checked() -> Balancing {
        let question = Question::Grpc { service: String::new() };
        let second = Duration::from_secs(1);
        let check = HealthCheck { question, interval: second, timeout: second, healthy: 2, unhealthy: 2, host: None };
        Balancing { health_check: Some(check), ..balancing() }
    }

    fn roster(balancing: Balancing, endpoints: &[Named], now: Instant) -> Roster<Named> {
        Roster::new(Arc::new(balancing), endpoints.iter().cloned(), 1, now)
    }

    /// How often each is chosen.
    fn chosen(roster: &mut Roster<Named>, rounds: usize, now: Instant) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&str, usize)> = roster.endpoints().map(|named| (named.0, 0)).collect();
        for _ in 0..rounds {
            let choice = roster.choose(None, &[], now).unwrap();
            counts.iter_mut().find(|(name, _)| *name == choice.endpoint.0).unwrap().1 += 1;
        }
        counts
    }

    fn eject(roster: &mut Roster<Named>, name: &str, now: Instant) -> Option<Change> {
        (0..3).filter_map(|_| roster.note(pick::hash(name.as_bytes()), true, now)).next()
    }

    fn check(roster: &mut Roster<Named>, name: &str, good: bool, times: usize, now: Instant) {
        for _ in 0..times {
            roster.checked(pick::hash(name.as_bytes()), good, now);
        }
    }

    #[test]
    fn an_ejected_endpoint_is_left_alone_and_comes_back() {
        let now = clock::instant_now();
        let mut roster = roster(balancing(), &[A, B], now);
        let change = eject(&mut roster, "a", now);
        assert_eq!(change, Some(Change { name: "a".to_owned(), what: Turn::Ejected(Duration::from_secs(10)) }));
        assert_eq!(chosen(&mut roster, 10, now), [("a", 0), ("b", 10)]);
        assert_eq!(roster.standings(now)[0].ejected, Some(Duration::from_secs(10)));
        assert_eq!(chosen(&mut roster, 10, now + Duration::from_secs(10)), [("a", 5), ("b", 5)]);
    }

    #[test]
    fn never_more_are_ejected_than_the_share_and_a_single_one_never_is() {
        let now = clock::instant_now();
        let mut three = roster(balancing(), &[A, B, C], now);
        assert!(eject(&mut three, "a", now).is_some() && eject(&mut three, "b", now).is_none());
        assert_eq!(chosen(&mut three, 10, now), [("a", 0), ("b", 5), ("c", 5)]);
        let everyone = EjectionRules { max_ejected: 100, ..balancing().ejection };
        let mut one = roster(Balancing { ejection: everyone.clone(), ..balancing() }, &[A], now);
        assert!(eject(&mut one, "a", now).is_none());
        assert!(one.standings(now)[0].ejected.is_none());
        // Nor is the last one that the checks left.
        let mut two = roster(Balancing { ejection: everyone, ..checked() }, &[A, B], now);
        check(&mut two, "a", true, 1, now);
        check(&mut two, "b", false, 1, now);
        assert!(eject(&mut two, "a", now).is_none());
    }

    #[test]
    fn checks_take_out_and_bring_back() {
        let now = clock::instant_now();
        let mut roster = roster(checked(), &[A, B], now);
        assert_eq!(chosen(&mut roster, 10, now), [("a", 5), ("b", 5)], "nobody was asked yet");
        check(&mut roster, "a", true, 1, now);
        assert_eq!(chosen(&mut roster, 10, now), [("a", 10), ("b", 0)], "the one that is known to be well");
        check(&mut roster, "b", true, 1, now);
        assert_eq!(chosen(&mut roster, 10, now), [("a", 5), ("b", 5)]);
        check(&mut roster, "b", false, 2, now);
        assert_eq!(chosen(&mut roster, 10, now), [("a", 10), ("b", 0)]);
        check(&mut roster, "b", true, 2, now);
        assert_eq!(chosen(&mut roster, 10, now), [("a", 5), ("b", 5)]);
    }

    #[test]
    fn when_none_is_well_all_are_asked() {
        let now = clock::instant_now();
        let mut roster = roster(checked(), &[A, B, C], now);
        for name in ["a", "b", "c"] {
            check(&mut roster, name, false, 2, now);
        }
        assert_eq!(chosen(&mut roster, 9, now), [("a", 3), ("b", 3), ("c", 3)]);
        check(&mut roster, "c", true, 2, now);
        assert_eq!(chosen(&mut roster, 9, now), [("a", 0), ("b", 0), ("c", 9)]);
    }

    #[test]
    fn another_try_goes_to_another_endpoint_if_one_is_well() {
        let now = clock::instant_now();
        let id = |name: &str| pick::hash(name.as_bytes());
        let mut roster = roster(checked(), &[A, B, C], now);
        check(&mut roster, "a", true, 1, now);
        check(&mut roster, "b", true, 1, now);
        check(&mut roster, "c", false, 1, now);
        for _ in 0..10 {
            let choice = roster.choose(None, &[id("a")], now).unwrap();
            assert_eq!((choice.endpoint, choice.again), (B, false));
            let choice = roster.choose(None, &[id("a"), id("b")], now).unwrap();
            assert!(choice.again && choice.endpoint != C, "one that was tried before one that is known to be bad");
        }
        let mut one = super::tests::roster(balancing(), &[A], now);
        assert!(one.choose(None, &[id("a")], now).unwrap().again);
    }

    #[test]
    fn an_endpoint_that_comes_back_gets_its_share_slowly() {
        let now = clock::instant_now();
        let slow = |balancing: Balancing| Balancing { slow_start: Duration::from_secs(10), ..balancing };
        // Ejected for ten seconds, then on its way back.
        let mut ejected = roster(slow(balancing()), &[A, B], now);
        assert_eq!(chosen(&mut ejected, 100, now), [("a", 50), ("b", 50)], "at the start all have all");
        eject(&mut ejected, "a", now);
        // The same by checks.
        let mut unwell = roster(slow(checked()), &[A, B], now);
        check(&mut unwell, "b", true, 1, now);
        check(&mut unwell, "a", false, 1, now);
        check(&mut unwell, "a", true, 2, now + Duration::from_secs(10));
        // And one that is new.
        let mut joined = roster(slow(balancing()), &[B], now);
        joined.adopt_endpoints([A, B], now + Duration::from_secs(10));
        for roster in [&mut ejected, &mut unwell, &mut joined] {
            for (seconds, expected) in [(10, 9..=10), (12, 16..=17), (15, 33..=34), (18, 44..=45), (20, 49..=51), (30, 49..=51)] {
                let counts = chosen(roster, 100, now + Duration::from_secs(seconds));
                assert!(expected.contains(&counts[0].1), "{seconds} s: {counts:?}");
            }
        }
    }

    #[test]
    fn what_is_known_of_an_endpoint_stays_when_others_come_or_go() {
        let now = clock::instant_now();
        let mut roster = roster(checked(), &[A, B], now);
        check(&mut roster, "a", true, 1, now);
        eject(&mut roster, "a", now);
        check(&mut roster, "b", false, 1, now);
        let before = roster.standings(now);
        roster.adopt_endpoints([C, Named("b", 7), A], now);
        let after = roster.standings(now);
        assert_eq!((after[2].health, after[2].ejected), (before[0].health, before[0].ejected));
        assert_eq!((after[1].health, after[1].weight), (Some(Health::Unhealthy), 7.0));
        assert_eq!(after[0].health, Some(Health::Unchecked));
        // Other settings than those of the check change nothing of what it found; another check begins anew.
        let other = Balancing { balance: Balance::LeastRequests, ..checked() };
        roster.adopt_balancing(Arc::new(other), now);
        assert_eq!(roster.standings(now)[1].health, Some(Health::Unhealthy));
        let mut other = checked();
        other.health_check.as_mut().unwrap().question = Question::Grpc { service: "other".to_owned() };
        roster.adopt_balancing(Arc::new(other), now);
        assert_eq!(roster.standings(now)[1].health, Some(Health::Unchecked));
        assert!(roster.standings(now)[2].ejected.is_some());
    }

    #[test]
    fn a_key_stays_where_it_is_unless_its_endpoint_is_out() {
        let now = clock::instant_now();
        let mut by_header = balancing();
        by_header.balance = Balance::HashHeader(http::HeaderName::from_static("x-session"));
        let mut roster = roster(by_header, &[A, B, C], now);
        let key = Some(pick::hash(b"alice"));
        let home = roster.choose(key, &[], now).unwrap().endpoint;
        for _ in 0..10 {
            assert_eq!(roster.choose(key, &[], now).unwrap().endpoint, home);
        }
        eject(&mut roster, home.0, now);
        let refuge = roster.choose(key, &[], now).unwrap().endpoint;
        assert!(refuge != home && roster.choose(key, &[], now).unwrap().endpoint == refuge);
        assert_eq!(roster.choose(key, &[], now + Duration::from_secs(10)).unwrap().endpoint, home);
        // Without a key: in turn.
        assert_eq!(chosen(&mut roster, 9, now + Duration::from_secs(10)), [("a", 3), ("b", 3), ("c", 3)]);
    }
}
