//! How many requests are in flight: each takes a place before anything is decided on it, waits for one in a bounded queue,
//! or is refused while refusing is cheap. Streams that may last for hours have places of their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::failure::Failure;
use crate::observe::{Limit, Metrics};
use crate::policy::Policy;

/// The places of requests and of streams.
pub struct Admission {
    requests: Room,
    tunnels: Room,
    waiting: AtomicUsize,
}

/// A request's or a stream's place, given back when it is dropped.
pub struct Place {
    permit: Option<OwnedSemaphorePermit>,
    /// Places that a smaller room still takes away.
    owed: Arc<AtomicUsize>,
    /// The gauge that counts it, if it is a stream's.
    counted: Option<prometheus::IntGauge>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(gauge) = &self.counted {
            gauge.dec();
        }
        let pays = self.owed.load(Ordering::Acquire) > 0
            && self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| owed.checked_sub(1)).is_ok();
        if let Some(permit) = self.permit.take().filter(|_| pays) {
            permit.forget();
        }
    }
}

impl Admission {
    pub fn new(policy: &Policy) -> Self {
        let limits = &policy.limits;
        Self { requests: Room::new(limits.requests), tunnels: Room::new(limits.tunnels), waiting: AtomicUsize::new(0) }
    }

    /// Takes over the sizes of a new policy. Places that are taken stay taken.
    pub fn adopt(&self, policy: &Policy) {
        self.requests.resize(policy.limits.requests);
        self.tunnels.resize(policy.limits.tunnels);
    }

    /// A place for a request, in the order in which they came. Whoever leaves meanwhile leaves the queue.
    pub async fn enter(&self, policy: &Policy, metrics: &Metrics) -> Result<Place, (Failure, &'static str)> {
        if let Some(place) = self.requests.try_enter() {
            return Ok(place);
        }
        let Some(_waiting) = Waiting::begin(&self.waiting, policy.limits.request_queue, &metrics.limits.requests_queued) else {
            metrics.limits.count(Limit::Requests);
            return Err((Failure::Overloaded, "no place, and none in the queue"));
        };
        match timeout(policy.timeouts.queue, self.requests.enter()).await {
            Ok(Some(place)) => Ok(place),
            Ok(None) | Err(_) => {
                metrics.limits.count(Limit::QueueTime);
                Err((Failure::Overloaded, "no place in time"))
            }
        }
    }

    /// A place for a stream, if there is one.
    pub fn enter_tunnel(&self, metrics: &Metrics) -> Option<Place> {
        let Some(mut place) = self.tunnels.try_enter() else {
            metrics.limits.count(Limit::Tunnels);
            return None;
        };
        metrics.limits.tunnels_open.inc();
        place.counted = Some(metrics.limits.tunnels_open.clone());
        Some(place)
    }
}

/// One that waits, counted for as long as it does.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    gauge: &'a prometheus::IntGauge,
}

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, most: usize, gauge: &'a prometheus::IntGauge) -> Option<Self> {
        let more = |waiting: usize| Some(waiting + 1).filter(|waiting| *waiting <= most);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        gauge.inc();
        Some(Self { count, gauge })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

/// As many places as the policy says at the moment.
struct Room {
    places: Arc<Semaphore>,
    wanted: Mutex<usize>,
    owed: Arc<AtomicUsize>,
}

impl Room {
    fn new(size: usize) -> Self {
        let size = size.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(size)), wanted: Mutex::new(size), owed: Arc::default() }
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        Place { permit: Some(permit), owed: self.owed.clone(), counted: None }
    }

    fn try_enter(&self) -> Option<Place> {
        self.places.clone().try_acquire_owned().ok().map(|permit| self.place(permit))
    }

    /// Whoever comes first is first.
    async fn enter(&self) -> Option<Place> {
        self.places.clone().acquire_owned().await.ok().map(|permit| self.place(permit))
    }

    /// Makes room, or takes places away: those that are taken go when they are given back.
    fn resize(&self, size: usize) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let size = size.min(Semaphore::MAX_PERMITS);
        let there = *wanted + self.owed.swap(0, Ordering::AcqRel);
        match size.checked_sub(there) {
            Some(more) => self.places.add_permits(more),
            None => {
                let less = there - size;
                self.owed.store(less - self.places.forget_permits(less), Ordering::Release);
            }
        }
        *wanted = size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn free(room: &Room) -> usize {
        room.places.available_permits()
    }

    #[test]
    fn a_room_that_shrinks_takes_places_away_as_they_are_given_back() {
        let room = Room::new(4);
        let mut held: Vec<_> = (0..3).map(|_| room.try_enter().unwrap()).collect();
        room.resize(1);
        assert_eq!(free(&room), 0);
        held.pop();
        held.pop();
        assert!(room.try_enter().is_none(), "one is still held");
        held.pop();
        assert_eq!(free(&room), 1);
        room.resize(3);
        assert_eq!(free(&room), 3);
    }

    #[test]
    fn a_room_that_grows_again_owes_nothing() {
        let room = Room::new(4);
        let held: Vec<_> = (0..4).map(|_| room.try_enter().unwrap()).collect();
        room.resize(2);
        room.resize(6);
        assert_eq!(free(&room), 2);
        drop(held);
        assert_eq!(free(&room), 6);
    }

    #[tokio::test]
    async fn who_waits_longest_is_let_in_first_and_who_left_is_not_waited_for() {
        let room = Arc::new(Room::new(1));
        let held = room.try_enter().unwrap();
        let mut first = Box::pin(room.enter());
        let mut gone = Box::pin(room.enter());
        let mut last = Box::pin(room.enter());
        for wait in [&mut first, &mut gone, &mut last] {
            assert!(wait.now_or_never().is_none());
        }
        drop(gone);
        drop(held);
        assert!(room.try_enter().is_none(), "nobody passes those who wait");
        let place = first.await;
        assert!((&mut last).now_or_never().is_none());
        drop(place);
        assert!(last.await.is_some());
    }
}
