//! What callers read of their limits: the fields of draft-ietf-httpapi-ratelimit-headers-11.

use std::fmt::Write;

use http::{HeaderName, HeaderValue};

use super::Standing;
use crate::policy::Mode;

/// Which limits there are: `"route-client-1m";q=60;w=60`.
pub const POLICY_FIELD: HeaderName = HeaderName::from_static("ratelimit-policy");
/// How they stand: `"route-client-1m";r=59;t=1`.
pub const STANDING_FIELD: HeaderName = HeaderName::from_static("ratelimit");

/// How the limits stand that are enforced: `r` requests are left for the next `t` seconds. The field is not for limits
/// that are only tried out: nobody has to keep them.
pub fn standing_field(standings: &[Standing]) -> Option<HeaderValue> {
    let mut text = String::with_capacity(48);
    for standing in standings.iter().filter(|standing| standing.limit.mode == Mode::Enforce) {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}\"{}\";r={};t={}", standing.limit.name, standing.left, standing.wait_seconds());
    }
    HeaderValue::try_from(text).ok().filter(|field| !field.is_empty())
}
