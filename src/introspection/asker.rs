//! Asks under one set of settings: answers are kept for a while, one question about a token is shared by all who wait
//! for it, and there are limits to how many are asked.

use std::sync::Arc;
use std::time::Instant;

use quick_cache::sync::Cache;
use tokio::time::timeout_at;

use super::ask::{Caller, Trouble};
use crate::access::{Digest, Introspected, Remembered, Said};
use crate::asking::{Budgets, Flight, Flights, Place, Rest};
use crate::clock::{self, UnixSeconds};
use crate::observe::IntrospectionMetrics;
use crate::policy::Introspection;

/// Answers about tokens that do not count. A flood of made-up tokens fills these places and no others.
const NEGATIVE_COUNT_MAX: usize = 4096;

/// An answer, and when it was asked for.
#[derive(Clone)]
struct Kept {
    introspected: Arc<Introspected>,
    asked: Instant,
}

impl Kept {
    /// Whether it still counts: never beyond the token's own end (RFC 7662 §4).
    fn is_fresh(&self, settings: &Introspection, now: Instant, unix_now: UnixSeconds) -> bool {
        let age_max = if self.introspected.is_good() { settings.max_age } else { settings.negative_max_age };
        let ended = self.introspected.expires_at().is_some_and(|end| unix_now >= end);
        now.duration_since(self.asked) < age_max && !ended
    }
}

pub struct Asker {
    settings: Arc<Introspection>,
    caller: Caller,
    good: Option<Cache<Digest, Kept>>,
    bad: Cache<Digest, Kept>,
    flights: Flights<Digest, Said>,
    /// Tokens that were active before are known: whoever invents tokens cannot keep them out.
    budgets: Budgets,
    rest: Rest,
    metrics: IntrospectionMetrics,
}

impl Asker {
    pub fn new(settings: Arc<Introspection>, metrics: IntrospectionMetrics) -> Result<Self, String> {
        Ok(Self {
            caller: Caller::new(&settings)?,
            good: (settings.remembered > 0).then(|| Cache::new(settings.remembered)),
            bad: Cache::new(NEGATIVE_COUNT_MAX),
            flights: Flights::default(),
            budgets: Budgets::new(settings.in_flight, settings.per_second),
            rest: Rest::default(),
            metrics,
            settings,
        })
    }

    /// What is said about a token: what is kept of it, what is being asked, or the answer to a new question.
    pub async fn ask(self: &Arc<Self>, token: &str) -> Said {
        let digest = Remembered::digest(token);
        let (said, lookup) = match self.look(&digest) {
            Ok(said) => (said, "hit"),
            Err(_) => match self.join_or_begin(digest, token) {
                Ok((mut flight, lookup)) => {
                    let said = match flight.wait_for(Option::is_some).await {
                        Ok(said) => said.clone().unwrap_or(Said::Busy),
                        Err(_) => Said::Unavailable("the question broke off"),
                    };
                    (said, lookup)
                }
                Err(said) => {
                    let lookup = if matches!(said, Said::Answer { .. }) { "hit" } else { "refused" };
                    (said, lookup)
                }
            },
        };
        self.metrics.lookups.with_label_values(&[lookup]).inc();
        said
    }

    /// What is kept of a token, or whether it was active before.
    fn look(&self, digest: &Digest) -> Result<Said, bool> {
        let (now, unix_now) = (clock::instant_now(), clock::unix_now());
        let good = self.good.as_ref().and_then(|good| good.get(digest));
        let acquainted = good.is_some();
        let fresh = |kept: &Kept| kept.is_fresh(&self.settings, now, unix_now);
        match good.filter(fresh).or_else(|| self.bad.get(digest).filter(fresh)) {
            Some(kept) => Ok(Said::Answer { introspected: kept.introspected, remembered: true }),
            None => Err(acquainted),
        }
    }

    /// The question that is under way for this token, or a new one; or what there is to say without one.
    fn join_or_begin(self: &Arc<Self>, digest: Digest, token: &str) -> Result<(Flight<Said>, &'static str), Said> {
        let admit = || {
            // A flight that landed since was kept before it left the list.
            let acquainted = match self.look(&digest) {
                Ok(said) => return Err(said),
                Err(acquainted) => acquainted,
            };
            match self.rest.reason() {
                Some(why) => Err(Said::Unavailable(why)),
                None => self.budgets.take(acquainted).ok_or(Said::Busy),
            }
        };
        let (asker, token) = (self.clone(), token.to_owned());
        let (flight, joined) =
            self.flights.join_or_begin(&digest, admit, |place| async move { asker.fly(digest, &token, &place).await })?;
        Ok((flight, if joined { "shared" } else { "miss" }))
    }

    async fn fly(&self, digest: Digest, token: &str, place: &Place) -> Said {
        let deadline = clock::instant_now() + self.settings.timeout;
        let Ok(Some(_turn)) = timeout_at(deadline.into(), place.turn()).await else { return Said::Busy };
        let asked = clock::instant_now();
        let answer = timeout_at(deadline.into(), self.caller.ask(&self.settings, token)).await.unwrap_or(Err(Trouble::Slow));
        let label: &[&str] = &[];
        self.metrics.seconds.with_label_values(label).observe(clock::instant_now().duration_since(asked).as_secs_f64());
        match answer {
            Ok(introspected) => self.keep(digest, Kept { introspected: Arc::new(introspected), asked }),
            Err(trouble) => self.note(&trouble),
        }
    }

    fn keep(&self, digest: Digest, kept: Kept) -> Said {
        let introspected = kept.introspected.clone();
        let label = match (introspected.is_good(), introspected.is_inactive()) {
            (true, _) => "active",
            (false, true) => "inactive",
            (false, false) => "unacceptable",
        };
        self.metrics.results.with_label_values(&[label]).inc();
        match (&self.good, introspected.is_good()) {
            (Some(good), true) => {
                good.insert(digest, kept);
                self.bad.remove(&digest);
            }
            (None, true) => {}
            (good, false) => {
                if let Some(good) = good {
                    good.remove(&digest);
                }
                self.bad.insert(digest, kept);
            }
        }
        Said::Answer { introspected, remembered: false }
    }

    fn note(&self, trouble: &Trouble) -> Said {
        let why = trouble.why();
        self.metrics.results.with_label_values(&[trouble.label()]).inc();
        if trouble.is_general() {
            self.rest.begin(why);
        }
        if self.rest.is_worth_telling() {
            let (issuer, client_id) = (&self.settings.issuer, &self.settings.client_id);
            match trouble {
                Trouble::Credentials(_) => {
                    tracing::error!(target: "wicketgate::introspection", issuer, client_id, detail = trouble.detail(), "the issuer refuses the gate's own credentials: check client_id and client_secret")
                }
                Trouble::Away(_) | Trouble::Nonsense(_) | Trouble::Slow => {
                    tracing::warn!(target: "wicketgate::introspection", issuer, reason = why, detail = trouble.detail(), "opaque tokens cannot be asked about")
                }
            }
        }
        Said::Unavailable(why)
    }
}
