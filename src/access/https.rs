//! Whether a request may come without TLS to where it goes, and where it is sent if not.

use super::{Denial, Head, Refusal};
use crate::policy::Policy;

const HTTPS_PORT: u16 = 443;

/// Refuses a plain request where its route is served over https alone. Nobody is led to a host that is not the service's own.
pub(super) fn check(policy: &Policy, (service, route): (usize, usize), head: &Head<'_>) -> Result<(), Box<Refusal>> {
    let Some(port) = policy.services[service].routes[route].redirect_to_https.filter(|_| head.plain) else { return Ok(()) };
    // A service has every host under which it was found in the table of hosts.
    let ours = policy.hosts.contains_key(head.host) || policy.services[service].is_published_at(head.host);
    let denial = match ours {
        true => {
            let query = head.query.map_or_else(String::new, |query| format!("?{query}"));
            Denial::HttpsRequired { location: at_https(head.host, port, &format!("{}{query}", head.path)) }
        }
        false => Denial::HostUnknown,
    };
    Err(Box::new(Refusal { denial, service: Some(service), route: Some(route), identity: None }))
}

/// The same target under https.
pub fn at_https(host: &str, port: u16, target: &str) -> String {
    match port {
        HTTPS_PORT => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    }
}
