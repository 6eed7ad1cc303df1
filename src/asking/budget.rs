//! How many questions may be asked: so many a second, so many at a time, and a bounded number that waits for its turn.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions that may wait for their turn, beside those under way. A second's worth of them is a burst after a start.
const WAITING_MAX: usize = 256;

/// One for whoever is new, and one for what was asked about before: a rush of strangers does not lock out who is known.
pub struct Budgets {
    strangers: Budget,
    acquainted: Budget,
}

impl Budgets {
    pub fn new(in_flight: usize, per_second: NonZeroU32) -> Self {
        let budget = || Budget::new(in_flight, per_second);
        Self { strangers: budget(), acquainted: budget() }
    }

    /// A place for one question, or `None` when there are too many.
    pub fn take(&self, acquainted: bool) -> Option<Place> {
        let budget = if acquainted { &self.acquainted } else { &self.strangers };
        budget.take()
    }
}

struct Budget {
    rate: DefaultDirectRateLimiter,
    /// Those under way and those that wait.
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// A question that may be asked once it is its turn.
pub struct Place {
    running: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
}

impl Budget {
    fn new(in_flight: usize, per_second: NonZeroU32) -> Self {
        Self {
            rate: RateLimiter::direct(Quota::per_second(per_second)),
            places: Arc::new(Semaphore::new(in_flight + WAITING_MAX)),
            running: Arc::new(Semaphore::new(in_flight)),
        }
    }

    fn take(&self) -> Option<Place> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        self.rate.check().ok()?;
        Some(Place { running: self.running.clone(), _place: place })
    }
}

impl Place {
    /// Waits for its turn, which lasts as long as what is returned.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.running.clone().acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn too_many_questions_are_refused_and_those_at_a_time_are_counted() {
        let budget = Budget::new(1, NonZeroU32::new(3).unwrap());
        let places: Vec<Place> = std::iter::from_fn(|| budget.take()).collect();
        assert_eq!(places.len(), 3, "three a second");
        let turn = places[0].turn().await;
        assert!(budget.running.try_acquire().is_err(), "one at a time");
        drop(turn);
        assert!(places[1].turn().await.is_some());

        let wide = Budget::new(2, NonZeroU32::new(10_000).unwrap());
        let places: Vec<Place> = std::iter::from_fn(|| wide.take()).take(1000).collect();
        assert_eq!(places.len(), 2 + WAITING_MAX, "no queue without end");
        drop(places);
        assert!(wide.take().is_some());
    }
}
