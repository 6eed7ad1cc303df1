//! Step 8. What an identity may do here: the rules of the route, and the headers that tell the upstream who it is.
//!
//! **Invariant:** this file is the only maker of a [`Permit`], and forwarding takes one by value.
//!
//! ```compile_fail,E0451
//! let forged = wicketgate::access::Permit { service: 0, route: 0, identity: None, headers: None, certificate: Vec::new(), reported: None, ask_soon: None };
//! ```

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::authenticate::Identity;
use super::certificate::{self, ClientCertificate};
use super::consent::{Check, ConsentTold, Question};
use super::denial::Denial;
use super::remembered::Prepared;
use super::snapshot::Snapshot;
use crate::clock::UnixSeconds;
use crate::policy::{ClaimRule, IdentityHeader, Parameters, Policy, Requirement, Rules, Service};

/// Proof that a request may be forwarded, and with which identity.
#[derive(Debug)]
pub struct Permit {
    service: usize,
    route: usize,
    identity: Option<Identity>,
    headers: Option<Arc<Prepared>>,
    /// What the upstream is told of the client's certificate.
    certificate: Vec<(HeaderName, HeaderValue)>,
    reported: Option<Denial>,
    ask_soon: Option<Question>,
}

impl Permit {
    /// Index into the policy's services.
    pub fn service(&self) -> usize {
        self.service
    }

    /// Index into the service's routes.
    pub fn route(&self) -> usize {
        self.route
    }

    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The headers that tell the upstream of the identity and of the client's certificate.
    pub fn headers(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.headers.iter().flat_map(|prepared| &prepared.headers).chain(&self.certificate)
    }

    /// Why the request would have been refused, on a route in report mode.
    pub fn reported(&self) -> Option<&Denial> {
        self.reported.as_ref()
    }

    /// What Logto is worth being asked again before what is known is too old; nobody has to wait for it.
    pub fn ask_soon(&self) -> Option<&Question> {
        self.ask_soon.as_ref()
    }
}

/// Where a request goes, found by the route table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub service: usize,
    pub route: usize,
}

/// A permit for a public route: no identity, whoever calls.
pub(super) fn admit(policy: &Policy, place: Place, shown: Option<&ClientCertificate>) -> Result<Permit, Denial> {
    let certificate = certificate_headers(policy, place, shown)?;
    Ok(Permit { service: place.service, route: place.route, identity: None, headers: None, certificate, reported: None, ask_soon: None })
}

fn certificate_headers(policy: &Policy, place: Place, shown: Option<&ClientCertificate>) -> Result<Vec<(HeaderName, HeaderValue)>, Denial> {
    certificate::headers(&policy.services[place.service].certificate_headers, shown, policy.limits.identity_header_bytes)
}

/// A permit for a route in report mode although the rules say no. An identity that was verified is passed on.
pub(super) fn report(
    policy: &Policy,
    place: Place,
    identity: Option<Identity>,
    shown: Option<&ClientCertificate>,
    denial: Denial,
) -> Permit {
    let service = &policy.services[place.service];
    let headers = identity.as_ref().and_then(|identity| identity_headers(policy, service, identity).ok());
    let certificate = certificate_headers(policy, place, shown).unwrap_or_default();
    Permit { service: place.service, route: place.route, identity, headers, certificate, reported: Some(denial), ask_soon: None }
}

/// What is known beside the token, and the time.
pub(super) struct Circumstances<'c> {
    pub snapshot: &'c Snapshot,
    pub told: &'c ConsentTold,
    pub certificate: Option<&'c ClientCertificate>,
    pub now: UnixSeconds,
}

/// A permit if the identity satisfies the route's rules and, where it is asked for, its user's consent stands.
pub(super) fn authorize(
    circumstances: &Circumstances<'_>,
    place: Place,
    rules: &Rules,
    parameters: &Parameters<'_>,
    identity: &Identity,
) -> Result<Permit, Denial> {
    let claims = identity.claims();
    if !rules.scopes.allows(&claims.scopes) {
        let missing = rules.scopes.named().iter().filter(|scope| !claims.scopes.contains(scope)).cloned().collect();
        return Err(Denial::ScopeMissing { missing });
    }
    let fails = |rule: &&ClaimRule| !rule.allows(&claims.all, parameters);
    if let Some(rule) = rules.claims.iter().find(fails) {
        return Err(Denial::ClaimMismatch { claim: rule.claim.to_string() });
    }
    if !rules.clients.is_empty() {
        let known = claims.client_id.as_ref().is_some_and(|client| rules.clients.contains(client));
        if !known {
            return Err(Denial::ClientRefused);
        }
    }
    let policy = &circumstances.snapshot.policy;
    // Last: nobody is sent to sign in for what would be refused afterwards.
    if let Some(claim) = rules.step_up.lacks(&claims.all, circumstances.now, policy.leeway) {
        return Err(Denial::SignInInsufficient { claim });
    }
    let headers = Some(identity_headers(policy, &policy.services[place.service], identity)?);
    let certificate = certificate_headers(policy, place, circumstances.certificate)?;
    let ask_soon = consent(circumstances, place.service, rules, identity)?;
    Ok(Permit {
        service: place.service,
        route: place.route,
        identity: Some(identity.clone()),
        headers,
        certificate,
        reported: None,
        ask_soon,
    })
}

/// Whether the user's consent stands, where that is asked for; and what is worth asking again soon.
pub(super) fn consent(
    circumstances: &Circumstances<'_>,
    index: usize,
    rules: &Rules,
    identity: &Identity,
) -> Result<Option<Question>, Denial> {
    let &Circumstances { snapshot, told, now, .. } = circumstances;
    let service = &snapshot.policy.services[index];
    let Some(settings) = &service.consent else { return Ok(None) };
    let consents = snapshot.consents.get(index).and_then(Option::as_deref);
    Check { settings, consents, told, service, scopes: &rules.scopes, claims: identity.claims(), now }.decide()
}

fn identity_headers(policy: &Policy, service: &Service, identity: &Identity) -> Result<Arc<Prepared>, Denial> {
    let make = || make_headers(&service.identity, identity, policy.limits.identity_header_bytes);
    identity.verified().headers(&service.identity, make)
}

fn make_headers(list: &[IdentityHeader], identity: &Identity, bytes_max: usize) -> Result<Vec<(HeaderName, HeaderValue)>, Denial> {
    let claims = identity.claims();
    let mut headers = Vec::with_capacity(list.len());
    for header in list {
        let text = match header.claim.is_scope() {
            true => Some(claims.scopes.joined()).filter(|scopes| !scopes.is_empty()),
            false => header.claim.find(&claims.all).and_then(header_text),
        };
        let Some(text) = text else { continue };
        let refused = || Denial::IdentityTooLong { header: header.name.to_string() };
        if text.len() > bytes_max {
            return Err(refused());
        }
        headers.push((header.name.clone(), HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).map_err(|_| refused())?));
    }
    Ok(headers)
}

/// A claim as the value of a header. Text as it is; a list with commas; anything else as JSON. Bytes outside printable
/// ASCII, and the percent sign itself, are percent-encoded as UTF-8, so that two claims never become one value.
fn header_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(encode(text, false)),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| match item {
                    Value::String(text) => encode(text, true),
                    other => encode(&other.to_string(), true),
                })
                .collect();
            Some(items.join(","))
        }
        Value::Object(_) => Some(encode(&value.to_string(), false)),
    }
}

pub(super) fn encode(text: &str, in_list: bool) -> String {
    let edge = text.starts_with(' ') || text.ends_with(' ');
    let plain = |byte: u8| matches!(byte, 0x20..=0x7e) && byte != b'%' && !(in_list && byte == b',') && !(edge && byte == b' ');
    if text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match plain(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// What a route asks of a token, if anything.
pub(super) fn rules(requirement: &Requirement) -> Option<&Rules> {
    match requirement {
        Requirement::Public => None,
        Requirement::Token(rules) => Some(rules),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_becomes_one_header_value_and_no_other() {
        let table = [
            (json!("user-123"), Some("user-123")),
            (json!("a b"), Some("a b")),
            (json!(" a"), Some("%20a")),
            (json!("Zoë"), Some("Zo%C3%AB")),
            (json!("100%"), Some("100%25")),
            (json!("a\r\nX-Admin: 1"), Some("a%0D%0AX-Admin: 1")),
            (json!("a\u{0}"), Some("a%00")),
            (json!(["a", "b,c", 5]), Some("a,b%2Cc,5")),
            (json!(true), Some("true")),
            (json!({ "k": "é" }), Some("{\"k\":\"%C3%A9\"}")),
            (json!(null), None),
        ];
        for (claim, header) in table {
            assert_eq!(header_text(&claim).as_deref(), header, "{claim}");
        }
    }
}
