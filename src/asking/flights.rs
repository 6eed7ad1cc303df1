//! Questions under way: whoever wants the same answer waits for the one that is being asked.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::budget::Place;

/// A question under way; the answer comes when it has landed.
pub type Flight<A> = watch::Receiver<Option<A>>;

pub struct Flights<Q, A>(Arc<Mutex<HashMap<Q, Flight<A>>>>);

impl<Q, A> Default for Flights<Q, A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<Q: Clone + Eq + Hash + Send + 'static, A: Clone + Send + Sync + 'static> Flights<Q, A> {
    /// The question that is under way and `true`, or else a new one. Before a new one `admit` looks once more, while no
    /// question can begin or land: what it finds is returned instead.
    pub fn join_or_begin<E, F>(
        &self,
        question: &Q,
        admit: impl FnOnce() -> Result<Place, E>,
        fly: impl FnOnce(Place) -> F,
    ) -> Result<(Flight<A>, bool), E>
    where
        F: Future<Output = A> + Send + 'static,
    {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(question) {
            return Ok((flight.clone(), true));
        }
        let work = fly(admit()?);
        let (publish, flight) = watch::channel(None);
        flights.insert(question.clone(), flight.clone());
        let landing = Landing { flights: self.0.clone(), question: question.clone() };
        // A task of its own: it goes on for the others when who began it has left.
        tokio::spawn(async move {
            let answer = work.await;
            drop(landing);
            publish.send_replace(Some(answer));
        });
        Ok((flight, false))
    }
}

/// Takes a question out of the list of those under way, however it ends.
struct Landing<Q: Eq + Hash, A> {
    flights: Arc<Mutex<HashMap<Q, Flight<A>>>>,
    question: Q,
}

impl<Q: Eq + Hash, A> Drop for Landing<Q, A> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.question);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use tokio::sync::oneshot;

    use super::super::Budgets;
    use super::*;

    #[tokio::test]
    async fn all_who_ask_the_same_wait_for_one_question_and_the_next_is_a_new_one() {
        let budgets = Budgets::new(1, NonZeroU32::new(100).unwrap());
        let flights = Flights::<&str, u32>::default();
        let begin = |answer: oneshot::Receiver<u32>| {
            flights.join_or_begin(&"why", || budgets.take(false).ok_or(()), |_place| async move { answer.await.unwrap() })
        };
        let (tell, answer) = oneshot::channel();
        let (mut first, joined) = begin(answer).unwrap();
        assert!(!joined);
        let (mut second, joined) = begin(oneshot::channel().1).unwrap();
        assert!(joined);
        tell.send(42).unwrap();
        assert_eq!(*first.wait_for(Option::is_some).await.unwrap(), Some(42));
        assert_eq!(*second.wait_for(Option::is_some).await.unwrap(), Some(42));
        let (_tell, answer) = oneshot::channel();
        assert!(!begin(answer).unwrap().1);
    }

    #[tokio::test]
    async fn a_question_that_panics_does_not_stand_in_the_way_of_the_next() {
        let budgets = Budgets::new(1, NonZeroU32::new(100).unwrap());
        let flights = Flights::<&str, u32>::default();
        let admit = || budgets.take(false).ok_or(());
        let (mut broken, _) = flights.join_or_begin(&"why", admit, |_place| async { panic!("on purpose") }).unwrap();
        assert!(broken.wait_for(Option::is_some).await.is_err());
        let (mut next, joined) = flights.join_or_begin(&"why", || budgets.take(false).ok_or(()), |_place| async { 1 }).unwrap();
        assert!(!joined);
        assert_eq!(*next.wait_for(Option::is_some).await.unwrap(), Some(1));
    }
}
