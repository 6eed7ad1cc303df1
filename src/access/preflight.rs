//! A question that a browser asks before a page of another origin may send its request (Fetch §3.3.2): answered without a
//! token, which browsers leave out here, for the route that the request itself would lead to.

use super::{Denial, Head, Refusal, Verdict, https};
use crate::policy::{CheckedPath, Found, Policy, Target, origin, preflight};

/// The verdict on a preflight, where the route that it asks about says which pages may call. Anything else is decided as
/// any other request.
pub(super) fn decide(policy: &Policy, index: usize, path: &CheckedPath<'_>, head: &Head<'_>) -> Option<Result<Verdict, Box<Refusal>>> {
    let method = preflight(head.method, head.headers)?;
    let service = &policy.services[index];
    let Found::Target(&Target::Route(route), _) = service.tree.find(path, &method) else { return None };
    let cors = service.routes[route].cors.as_ref()?;
    // A browser follows no redirect here, so that the page's token is not sent in the clear at all.
    if let Err(refusal) = https::check(policy, (index, route), head) {
        return Some(Err(refusal));
    }
    if origin(head.headers).is_some_and(|origin| cors.allows(origin)) {
        return Some(Ok(Verdict::Preflight { service: index, route }));
    }
    let refusal = Refusal { denial: Denial::OriginRefused, service: Some(index), route: Some(route), identity: None };
    Some(Err(Box::new(refusal)))
}
