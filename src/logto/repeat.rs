//! When a call is repeated: how long to wait, and when to give up. Pure; the jitter and the time are arguments.

use std::time::{Duration, Instant};

use super::error::LogtoError;

/// Attempts of one call, the first among them.
pub const ATTEMPTS_MAX: u32 = 5;

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The longest `Retry-After` that is waited for; a longer one is the caller's to wait for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);

/// How an attempt failed.
#[derive(Debug, Clone)]
pub struct Failure {
    pub error: LogtoError,
    pub repeat: Repeat,
}

/// What a failure says about doing it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It would fail the same way.
    Never,
    /// It did not happen: nothing was sent, or Logto said that it did nothing.
    Safe { after: Option<Duration> },
    /// It may have happened: only what does no harm twice may be repeated, everything else after a look.
    MayHaveHappened { after: Option<Duration> },
}

/// The attempts of one call.
#[derive(Debug)]
pub struct Attempts {
    made: u32,
    deadline: Instant,
}

impl Attempts {
    pub fn until(deadline: Instant) -> Self {
        Self { made: 0, deadline }
    }

    /// What is left of the call's time.
    pub fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    /// How long to wait before the next attempt, or the error when there is none. `jitter` is between 0 and 1.
    pub fn next(&mut self, failure: Failure, now: Instant, jitter: f64) -> Result<Duration, LogtoError> {
        self.made += 1;
        let after = match failure.repeat {
            Repeat::Never => return Err(failure.error),
            Repeat::Safe { after } | Repeat::MayHaveHappened { after } => after,
        };
        let doubled = BACKOFF_FIRST.saturating_mul(1 << (self.made - 1).min(16)).min(BACKOFF_MAX);
        let wait = match after {
            Some(after) if after > RETRY_AFTER_MAX => return Err(failure.error),
            // Never sooner than asked, and not all clients at once.
            Some(after) => after + BACKOFF_FIRST.mul_f64(jitter),
            None => doubled.mul_f64(0.5 + jitter / 2.0),
        };
        match self.made < ATTEMPTS_MAX && wait < self.left(now) {
            true => Ok(wait),
            false => Err(failure.error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(repeat: Repeat) -> Failure {
        Failure { error: LogtoError::Unreachable(String::new()), repeat }
    }

    #[test]
    fn waits_double_within_their_limit_and_end() {
        let now = Instant::now();
        let mut attempts = Attempts::until(now + Duration::from_secs(60));
        let waits: Vec<_> = (0..6).map(|_| attempts.next(failure(Repeat::Safe { after: None }), now, 1.0).ok()).collect();
        let milliseconds = |wait: &Option<Duration>| wait.map(|wait| wait.as_millis());
        assert_eq!(waits.iter().map(milliseconds).collect::<Vec<_>>(), [Some(200), Some(400), Some(800), Some(1600), None, None]);
    }

    #[test]
    fn retry_after_is_obeyed_up_to_its_limit() {
        let now = Instant::now();
        let next = |seconds| {
            let mut attempts = Attempts::until(now + Duration::from_secs(60));
            let after = Some(Duration::from_secs(seconds));
            attempts.next(failure(Repeat::Safe { after }), now, 0.0).ok()
        };
        assert_eq!(next(3), Some(Duration::from_secs(3)));
        assert_eq!(next(20), Some(Duration::from_secs(20)));
        assert_eq!(next(21), None);
    }

    #[test]
    fn no_wait_goes_beyond_the_deadline() {
        let now = Instant::now();
        let mut attempts = Attempts::until(now + Duration::from_secs(2));
        let after = Some(Duration::from_secs(3));
        assert!(attempts.next(failure(Repeat::Safe { after }), now, 0.0).is_err());
        assert!(Attempts::until(now).next(failure(Repeat::Safe { after: None }), now, 0.0).is_err());
        assert!(Attempts::until(now + Duration::from_secs(9)).next(failure(Repeat::Never), now, 0.0).is_err());
    }
}
