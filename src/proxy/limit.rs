//! How often a permitted caller may ask: between the decision and the upstream, which never sees a request too many.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Response};

use super::gate::Gate;
use crate::access::{Denial, Permit, Refusal, Snapshot};
use crate::observe::{Outcome, Record};
use crate::policy::{Mode, RateLimits};
use crate::rate::{Caller, POLICY_FIELD, STANDING_FIELD, Standing, client_address, standing_field};

/// What came of a request's limits.
#[derive(Default)]
pub struct Limited {
    pub refusal: Option<Refusal>,
    pub fields: Fields,
}

/// What the answer says of them, whatever the answer.
#[derive(Default)]
pub struct Fields {
    policy: Option<HeaderValue>,
    standing: Option<HeaderValue>,
}

impl Fields {
    /// Adds them to what the service says of limits of its own: both fields are lists.
    pub fn on<B>(self, mut response: Response<B>) -> Response<B> {
        for (name, value) in [(POLICY_FIELD, self.policy), (STANDING_FIELD, self.standing)] {
            if let Some(value) = value {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

/// Counts a permitted request. One that is too many becomes a refusal or, where the route or the limit only reports, a
/// line in the record.
pub async fn limit(
    gate: &Gate,
    snapshot: &Snapshot,
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    permit: &Permit,
    record: &mut Record,
) -> Limited {
    let service = &snapshot.policy.services[permit.service()];
    let route = &service.routes[permit.route()];
    if route.rate_limits.list.is_empty() {
        return Limited::default();
    }
    let address = match route.rate_limits.by_address {
        true => client_address(peer, headers, &snapshot.policy.trusted_proxies),
        false => None,
    };
    let caller = Caller { claims: permit.identity().map(|identity| identity.claims()), address };
    let standings = gate.rates.check(&route.rate_limits, &caller, route.mode).await;
    let over: Vec<&Standing> = standings.iter().filter(|standing| standing.over).collect();
    let enforced = |standing: &Standing| route.mode == Mode::Enforce && standing.limit.mode == Mode::Enforce;
    for standing in &over {
        gate.observer.metrics.rates.count_over(&service.name, standing, enforced(standing));
    }
    let fields = fields(&route.rate_limits, &standings);
    let Some(denial) = denial(over.iter().copied().filter(|standing| enforced(standing))) else {
        if let Some(reported) = denial(over.into_iter()).filter(|_| permit.reported().is_none()) {
            record.outcome = Outcome::Reported;
            record.reason = Some(reported.row().code);
            record.detail = reported.detail();
        }
        return Limited { refusal: None, fields };
    };
    let identity = permit.identity().cloned();
    let refusal = Refusal { denial, service: Some(permit.service()), route: Some(permit.route()), identity };
    Limited { refusal: Some(refusal), fields }
}

/// The refusal of limits that are overdrawn, if there is one: whoever comes back when the last of them lets it in is
/// early for none.
fn denial<'s>(over: impl Iterator<Item = &'s Standing>) -> Option<Denial> {
    let over: Vec<&Standing> = over.collect();
    let wait_seconds = over.iter().map(|standing| standing.wait_seconds()).max()?;
    let limits = over.iter().map(|standing| standing.limit.name.clone()).collect();
    Some(Denial::RateLimited { limits, wait_seconds: wait_seconds.max(1) })
}

fn fields(limits: &RateLimits, standings: &[Standing]) -> Fields {
    let standing = standing_field(standings);
    // A limit that did not count this caller is not one that it should read of.
    let policy = limits.field.clone().filter(|_| standing.is_some());
    Fields { policy, standing }
}
