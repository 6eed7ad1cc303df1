//! A rest after trouble that any question would meet, and how often trouble is told of.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

const REST: Duration = Duration::from_secs(1);
/// Troubles are told once in so long, however many there are.
const TOLD_EVERY: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Rest {
    until: Mutex<Option<(Instant, &'static str)>>,
    told: Mutex<Option<Instant>>,
}

impl Rest {
    /// From now on nothing is asked for a while.
    pub fn begin(&self, why: &'static str) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some((clock::instant_now() + REST, why));
    }

    /// Why nothing is asked now.
    pub fn reason(&self) -> Option<&'static str> {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|(until, _)| clock::instant_now() < *until).map(|(_, why)| why)
    }

    /// Whether a trouble is to be told of; it then counts as told.
    pub fn is_worth_telling(&self) -> bool {
        let now = clock::instant_now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let worth = told.is_none_or(|last| now.duration_since(last) >= TOLD_EVERY);
        if worth {
            *told = Some(now);
        }
        worth
    }
}
