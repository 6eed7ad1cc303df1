//! How a service has Logto asked whether a user's consent still stands, compiled.

use std::num::NonZeroU32;
use std::time::Duration;

use super::LogtoAccess;

/// Settings under which answers about consent are asked for, kept, and believed. Ages are in whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Consent {
    pub access: LogtoAccess,
    pub max_age: i64,
    pub negative_max_age: i64,
    /// How old what is known may be while Logto cannot be asked; `None` refuses at once.
    pub max_stale: Option<i64>,
    pub timeout: Duration,
    pub remembered: usize,
    pub in_flight: usize,
    pub per_second: NonZeroU32,
}

/// An answer in use is asked for anew this long before it is too old, at most: a tenth of its life.
const LEAD_MAX_SECONDS: i64 = 5;

impl Consent {
    /// From which age on an answer is worth asking for again, before anybody has to wait for it.
    pub fn refresh_age(&self) -> i64 {
        self.max_age - (self.max_age / 10).clamp(1, LEAD_MAX_SECONDS)
    }
}
