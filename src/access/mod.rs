//! The decision: one pure function from a snapshot, a request's head and the time to a permit or a refusal.
//!
//! No socket, no file, no clock. What is remembered between requests is a verified signature and nothing else; the
//! rules of a route are asked anew for every request.

mod authenticate;
mod authorize;
mod bearer;
mod certificate;
mod claims;
mod consent;
mod denial;
mod denial_examples;
mod https;
mod introspected;
mod json;
mod jwt;
mod preflight;
mod remembered;
mod revoked;
mod snapshot;
mod subprotocol;

use http::{HeaderMap, Method};

pub use authenticate::Identity;
pub use authorize::Permit;
use authorize::{Circumstances, Place};
pub use certificate::ClientCertificate;
pub use claims::Claims;
pub use consent::{App, ConsentSaid, ConsentTold, Consents, Held, Known, Question, Word};
pub use denial::{Denial, Row};
pub use denial_examples::KINDS;
pub use https::at_https;
pub use introspected::{Introspected, Said};
pub use jwt::is_opaque;
pub use remembered::{Digest, Remembered};
pub use revoked::{Full, Revocation, Revoked, RevokedBy, Revokes};
pub use snapshot::Snapshot;
pub use subprotocol::{MARK, Offer};

use crate::clock::UnixSeconds;
use crate::policy::{CheckedPath, Found, Mode, OwnEndpoint, Parameters, Policy, Rules, Target};

/// What deciding looks at of a request.
#[derive(Debug, Clone, Copy)]
pub struct Head<'r> {
    pub method: &'r Method,
    /// The host in lower case, without a port.
    pub host: &'r str,
    /// The path as it was sent, without its query.
    pub path: &'r str,
    pub query: Option<&'r str>,
    pub headers: &'r HeaderMap,
    /// Whether it asks for a WebSocket.
    pub websocket: bool,
    /// Whether the client sent it without TLS.
    pub plain: bool,
    /// What the client showed over TLS, verified.
    pub certificate: Option<&'r ClientCertificate>,
}

/// What a request is allowed.
#[derive(Debug)]
pub enum Verdict {
    /// Forward it with this permit.
    Forward(Permit),
    /// Answer with the protected-resource metadata of this service; whether it was asked for with a closing slash.
    Metadata { service: usize, slash: bool },
    /// Tell a browser which pages may call this route.
    Preflight { service: usize, route: usize },
    /// Take Logto's word, if it is Logto's.
    Webhook,
    /// Answer at one of the gate's own endpoints; the app that the path names, where it names one.
    Own { endpoint: OwnEndpoint, client: Option<String> },
}

/// A refusal, and what was known of the request by then.
#[derive(Debug)]
pub struct Refusal {
    pub denial: Denial,
    pub service: Option<usize>,
    pub route: Option<usize>,
    pub identity: Option<Identity>,
}

impl Refusal {
    fn early(denial: Denial, service: Option<usize>) -> Box<Self> {
        Box::new(Self { denial, service, route: None, identity: None })
    }
}

/// Decides on a request. An opaque token of which nothing is known is refused; who can, asks about it (see
/// [`unasked_token`]) and decides once more with what was said.
pub fn decide(snapshot: &Snapshot, head: &Head<'_>, now: UnixSeconds) -> Result<Verdict, Box<Refusal>> {
    decide_on(snapshot, head, None, &ConsentTold::default(), now)
}

/// Decides on a request whose opaque token the issuer was asked about.
pub fn decide_with(snapshot: &Snapshot, head: &Head<'_>, said: &Said, now: UnixSeconds) -> Result<Verdict, Box<Refusal>> {
    decide_on(snapshot, head, Some(said), &ConsentTold::default(), now)
}

/// Decides on a request about whose user Logto was asked, and the issuer about its opaque token if it has one.
pub fn decide_told(
    snapshot: &Snapshot,
    head: &Head<'_>,
    said: Option<&Said>,
    told: &ConsentTold,
    now: UnixSeconds,
) -> Result<Verdict, Box<Refusal>> {
    decide_on(snapshot, head, said, told, now)
}

/// The service, and what Logto must be asked before this verdict can be another.
pub fn unasked_consent(verdict: &Result<Verdict, Box<Refusal>>) -> Option<(usize, Question)> {
    let (denial, service, identity) = match verdict {
        Err(refusal) => (&refusal.denial, refusal.service?, refusal.identity.as_ref()?),
        Ok(Verdict::Forward(permit)) => (permit.reported()?, permit.service(), permit.identity()?),
        Ok(Verdict::Metadata { .. } | Verdict::Preflight { .. } | Verdict::Webhook | Verdict::Own { .. }) => return None,
    };
    question(denial, identity).map(|question| (service, question))
}

/// What a refusal waits for, if it is the answer to a question.
pub fn question(denial: &Denial, identity: &Identity) -> Option<Question> {
    let claims = identity.claims();
    let client = Box::from(claims.client_id.as_deref()?);
    let subject = if *denial == consent::UNASKED_GRANTS { Some(claims.subject.as_str().into()) } else { None };
    (subject.is_some() || *denial == consent::UNASKED_APP).then_some(Question { subject, client })
}

/// The service and the route to which a request leads, as far as there are any, for what is refused before it is decided on.
/// The gate's own endpoints are nobody's service.
pub fn leads_to(policy: &Policy, head: &Head<'_>) -> (Option<usize>, Option<usize>) {
    let Ok(path) = CheckedPath::new(head.path) else { return (None, None) };
    let Some(index) = policy.service(head.host, &path).flatten().filter(|index| !policy.services[*index].own) else { return (None, None) };
    // A page must learn why its own request was refused, and so must the question before it.
    let method = crate::policy::preflight(head.method, head.headers);
    match policy.services[index].tree.find(&path, method.as_ref().unwrap_or(head.method)) {
        Found::Target(&Target::Route(route), _) => (Some(index), Some(route)),
        Found::Target(..) | Found::OtherMethods(_) | Found::Nothing => (Some(index), None),
    }
}

/// The verdict on a browser's question before a page's request, where the gate answers it: it needs no token.
pub fn answered_preflight(policy: &Policy, head: &Head<'_>) -> Option<Result<Verdict, Box<Refusal>>> {
    let path = CheckedPath::new(head.path).ok()?;
    preflight::decide(policy, policy.service(head.host, &path).flatten()?, &path, head)
}

/// Whether the token of an open stream still counts on the route that it was opened on: its dates, whether it was
/// revoked, and its user's consent. What it says of itself cannot change.
pub fn still(
    snapshot: &Snapshot,
    service: usize,
    route: usize,
    identity: &Identity,
    told: &ConsentTold,
    now: UnixSeconds,
) -> Result<Option<Question>, Denial> {
    let claims = identity.claims();
    claims.check_dates(now, snapshot.policy.leeway)?;
    snapshot.revoked.check(claims, now)?;
    match authorize::rules(&snapshot.policy.services[service].routes[route].requirement) {
        Some(rules) => authorize::consent(&Circumstances { snapshot, told, certificate: None, now }, service, rules, identity),
        None => Ok(None),
    }
}

/// The service and the token that the issuer must be asked about before this verdict can be another.
pub fn unasked_token<'h>(verdict: &Result<Verdict, Box<Refusal>>, head: &Head<'h>) -> Option<(usize, &'h str)> {
    let (denial, service) = match verdict {
        Err(refusal) => (&refusal.denial, refusal.service?),
        Ok(Verdict::Forward(permit)) => (permit.reported()?, permit.service()),
        Ok(Verdict::Metadata { .. } | Verdict::Preflight { .. } | Verdict::Webhook | Verdict::Own { .. }) => return None,
    };
    // A route that takes no token from there has refused already.
    let token = || bearer::token(head, true).ok();
    if *denial == authenticate::UNASKED { Some((service, token()?)) } else { None }
}

fn decide_on(
    snapshot: &Snapshot,
    head: &Head<'_>,
    said: Option<&Said>,
    told: &ConsentTold,
    now: UnixSeconds,
) -> Result<Verdict, Box<Refusal>> {
    let policy = &*snapshot.policy;
    let path = CheckedPath::new(head.path).map_err(|fault| Refusal::early(Denial::PathAmbiguous(fault), None))?;
    let index = match policy.service(head.host, &path) {
        None => return Err(Refusal::early(Denial::HostUnknown, None)),
        Some(None) => return Err(Refusal::early(Denial::RouteUnknown, None)),
        Some(Some(index)) => index,
    };
    let service = &policy.services[index];
    if let Some(verdict) = preflight::decide(policy, index, &path, head) {
        return verdict;
    }
    let (target, parameters) = match service.tree.find(&path, head.method) {
        Found::Target(target, parameters) => (*target, parameters),
        Found::OtherMethods(leaf) => return Err(Refusal::early(Denial::MethodUnknown { allow: leaf.allow() }, Some(index))),
        Found::Nothing => return Err(Refusal::early(Denial::RouteUnknown, Some(index))),
    };
    let place = match target {
        Target::Webhook => return Ok(Verdict::Webhook),
        Target::Metadata { service, slash } => return Ok(Verdict::Metadata { service, slash }),
        Target::Own(endpoint) => {
            return Ok(Verdict::Own { endpoint, client: parameters.first().map(|client| (*client).to_owned()) });
        }
        Target::Route(route) => Place { service: index, route },
    };
    // Before its token is looked at, and on a route that only reports, too: what was sent in the clear goes no further.
    https::check(policy, (place.service, place.route), head)?;
    let route = &service.routes[place.route];
    let (denial, identity) = match decide_on_route(snapshot, head, (said, told), place, &parameters, now) {
        Ok(permit) => return Ok(Verdict::Forward(permit)),
        Err(refused) => refused,
    };
    match route.mode {
        Mode::Report => Ok(Verdict::Forward(authorize::report(policy, place, identity, head.certificate, denial))),
        Mode::Enforce => Err(Box::new(Refusal { denial, service: Some(place.service), route: Some(place.route), identity })),
    }
}

/// A permit for a route, or why there is none and whose token it was, as far as that is known.
fn decide_on_route(
    snapshot: &Snapshot,
    head: &Head<'_>,
    (said, told): (Option<&Said>, &ConsentTold),
    place: Place,
    parameters: &Parameters<'_>,
    now: UnixSeconds,
) -> Result<Permit, (Denial, Option<Identity>)> {
    let policy = &*snapshot.policy;
    let service = &policy.services[place.service];
    let route = &service.routes[place.route];
    let nobody = |denial| (denial, None);
    let certificate = certificate::check(route.client_certificate.as_ref(), head.certificate);
    let Some(rules) = authorize::rules(&route.requirement) else {
        certificate.map_err(nobody)?;
        return authorize::admit(policy, place, head.certificate).map_err(nobody);
    };
    if route.mode == Mode::Enforce {
        // It costs nothing, and nobody learns about his token what it would not help him to know.
        certificate.clone().map_err(nobody)?;
    }
    let token = bearer::token(head, route.websocket_token);
    let identity = token.and_then(|token| authenticate::authenticate(snapshot, service, token, said, head.certificate, now));
    let identity = identity.map_err(nobody)?;
    let circumstances = Circumstances { snapshot, told, certificate: head.certificate, now };
    let permitted = certificate.and_then(|()| permit(&circumstances, place, rules, parameters, &identity));
    permitted.map_err(|denial| (denial, Some(identity)))
}

/// A permit for an identity whose token was not revoked and that satisfies the route's rules.
fn permit(
    circumstances: &Circumstances<'_>,
    place: Place,
    rules: &Rules,
    parameters: &Parameters<'_>,
    identity: &Identity,
) -> Result<Permit, Denial> {
    circumstances.snapshot.revoked.check(identity.claims(), circumstances.now)?;
    authorize::authorize(circumstances, place, rules, parameters, identity)
}
