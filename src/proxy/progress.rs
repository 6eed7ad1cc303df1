//! Step 11. How far a request's body has come: what the wait for an answer must know.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::failure::Failure;
use super::request_body::BodyError;

/// How far a request's body has come: what the wait for an answer must know.
#[derive(Debug, Default)]
pub struct BodyProgress {
    /// Whether its client may be silent for as long as it wants: that of a gRPC call, whose messages come when there are any.
    unhurried: bool,
    frames: AtomicU64,
    looks: AtomicU64,
    finished: AtomicBool,
    answered: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl BodyProgress {
    pub fn of(unhurried: bool) -> Self {
        Self { unhurried, ..Self::default() }
    }

    /// What differs from the look before as long as the wait for an answer has not begun: while the body moves, and while an
    /// unhurried one is open.
    pub fn frames(&self) -> u64 {
        let open = self.unhurried && !self.is_finished();
        let looks = if open { self.looks.fetch_add(1, Ordering::Relaxed) + 1 } else { self.looks.load(Ordering::Relaxed) };
        self.moved() + looks
    }

    /// How many frames have come.
    pub fn moved(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    pub fn is_unhurried(&self) -> bool {
        self.unhurried
    }

    pub fn note_frame(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    pub fn note_finished(&self, finished: bool) {
        self.finished.store(finished, Ordering::Relaxed);
    }

    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }

    /// The service has begun to answer: what follows of the body is a conversation, and whoever has nothing to say is not slow.
    pub fn note_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    pub fn failure(&self) -> Option<Failure> {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why it broke off.
    pub fn fail(&self, failure: Failure) -> BodyError {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        BodyError(failure)
    }
}
