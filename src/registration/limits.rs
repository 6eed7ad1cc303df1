//! How often apps may be registered and changed: by one address in an hour, and by everybody in a minute.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};

use crate::oauth::registration::Refusal;
use crate::rate::subscriber;

/// Addresses that are remembered. When more come than the limit forgets in time, strangers wait.
const ADDRESSES_MAX: usize = 10_000;

/// The counts of registrations, or of changes.
pub struct Limits {
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    everybody: DefaultDirectRateLimiter,
    per_address_per_hour: NonZeroU32,
    per_minute: NonZeroU32,
    clock: DefaultClock,
}

impl Limits {
    /// So many `times` these.
    pub fn new(per_address_per_hour: NonZeroU32, per_minute: NonZeroU32, times: u32) -> Self {
        let multiplied = |count: NonZeroU32| count.saturating_mul(NonZeroU32::new(times).unwrap_or(NonZeroU32::MIN));
        Self {
            addresses: RateLimiter::keyed(Quota::per_hour(multiplied(per_address_per_hour))),
            everybody: RateLimiter::direct(Quota::per_minute(multiplied(per_minute))),
            per_address_per_hour,
            per_minute,
            clock: DefaultClock::default(),
        }
    }

    pub fn fits(&self, per_address_per_hour: NonZeroU32, per_minute: NonZeroU32) -> bool {
        (self.per_address_per_hour, self.per_minute) == (per_address_per_hour, per_minute)
    }

    /// Counts one. One address that comes too often takes nothing of what is everybody's.
    pub fn take(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        // On a Unix socket everybody is one.
        let key = subscriber(address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.retain_recent();
            if self.addresses.len() >= ADDRESSES_MAX {
                return Err(Refusal::TooMany { seconds: 60 });
            }
        }
        self.addresses.check_key(&key).map_err(|until| self.refusal(&until))?;
        self.everybody.check().map_err(|until| self.refusal(&until))
    }

    fn refusal(&self, until: &NotUntil<<DefaultClock as Clock>::Instant>) -> Refusal {
        let wait = until.wait_time_from(self.clock.now());
        Refusal::TooMany { seconds: u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: u32) -> NonZeroU32 {
        NonZeroU32::new(text).unwrap()
    }

    #[test]
    fn one_address_that_comes_too_often_leaves_room_for_others() {
        let limits = Limits::new(count(2), count(4), 1);
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for _ in 0..2 {
            assert_eq!(limits.take(address("192.0.2.1")), Ok(()));
        }
        for _ in 0..10 {
            assert!(matches!(limits.take(address("192.0.2.1")), Err(Refusal::TooMany { seconds: 1.. })));
        }
        assert_eq!(limits.take(address("192.0.2.2")), Ok(()));
        // A /64 is one address, however many there are in it.
        assert_eq!(limits.take(address("2001:db8::1")), Ok(()));
        assert!(limits.take(address("192.0.2.3")).is_err(), "four of everybody's four are gone");
        assert_eq!(subscriber("2001:db8::1:2:3:4".parse().unwrap()), subscriber("2001:db8::9".parse().unwrap()));
        assert_eq!(subscriber("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
