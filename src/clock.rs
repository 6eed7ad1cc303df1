//! The only place that asks the machine for the time.
//!
//! Everything that decides takes the time as an argument, so that each outcome can be one line of a table test.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Whole seconds since 1970-01-01 UTC, the unit of `exp`, `nbf` and `iat` (NumericDate, RFC 7519 §2).
pub type UnixSeconds = i64;

/// The wall clock, for comparing with the dates in a token.
pub fn unix_now() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The wall clock, for saying when something happened.
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}

/// The steady clock, for measuring and for deadlines.
pub fn instant_now() -> Instant {
    Instant::now()
}
