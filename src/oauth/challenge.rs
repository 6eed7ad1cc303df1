//! The `WWW-Authenticate` challenge of a refusal (RFC 6750 §3, RFC 9728 §5.1).

use http::HeaderValue;

use crate::access::{Denial, Refusal};
use crate::policy::{Policy, Requirement, ScopeRule, Service, StepUp};

/// The challenge that goes with a refusal, if one does. Nothing in it comes from the request.
pub fn challenge(policy: &Policy, refusal: &Refusal) -> Option<HeaderValue> {
    let row = refusal.denial.row();
    if !row.challenge {
        return None;
    }
    let mut parameters = Vec::with_capacity(4);
    if let Some(error) = row.oauth_error {
        parameters.push(format!("error=\"{error}\""));
        parameters.push(format!("error_description=\"{}\"", row.title));
    }
    if let Some(service) = refusal.service {
        parameters.push(format!("resource_metadata=\"{}\"", policy.services[service].metadata_url));
    }
    let scopes = scopes_to_request(policy, refusal);
    if !scopes.is_empty() && !matches!(refusal.denial, Denial::TokenRepeated) {
        parameters.push(format!("scope=\"{}\"", scopes.join(" ")));
    }
    parameters.extend(step_up(policy, refusal));
    HeaderValue::try_from(format!("Bearer {}", parameters.join(", "))).ok()
}

/// How the user must sign in, where that is what is missing (RFC 9470 §3).
fn step_up(policy: &Policy, refusal: &Refusal) -> Vec<String> {
    let (Some(service), Some(route)) = (refusal.service, refusal.route) else { return Vec::new() };
    let Requirement::Token(rules) = &policy.services[service].routes[route].requirement else { return Vec::new() };
    if !matches!(refusal.denial, Denial::SignInInsufficient { .. }) {
        return Vec::new();
    }
    let StepUp { acr_values, max_age_seconds } = &rules.step_up;
    let acr_values = (!acr_values.is_empty()).then(|| format!("acr_values=\"{}\"", acr_values.join(" ")));
    acr_values.into_iter().chain(max_age_seconds.map(|seconds| format!("max_age=\"{seconds}\""))).collect()
}

/// The scopes that the route names, and whether one of them is enough.
pub fn required_scopes<'p>(policy: &'p Policy, refusal: &Refusal) -> (bool, &'p [String]) {
    let (Some(service), Some(route)) = (refusal.service, refusal.route) else { return (false, &[]) };
    match &policy.services[service].routes[route].requirement {
        Requirement::Public => (false, &[]),
        Requirement::Token(rules) => (matches!(rules.scopes, ScopeRule::Any(_)), rules.scopes.named()),
    }
}

/// What a client should ask for to get through: all that the route needs. When the token is good and only a scope or a newer
/// sign-in is missing, also what the token already has of this service, so that a client that asks for exactly this loses nothing.
pub fn scopes_to_request<'p>(policy: &'p Policy, refusal: &Refusal) -> Vec<&'p str> {
    let (Some(service), Some(route)) = (refusal.service, refusal.route) else { return Vec::new() };
    let service: &Service = &policy.services[service];
    let mut scopes: Vec<&str> = match &service.routes[route].requirement {
        Requirement::Public => Vec::new(),
        Requirement::Token(rules) => rules.scopes.to_request().iter().map(String::as_str).collect(),
    };
    if let (Denial::ScopeMissing { .. } | Denial::SignInInsufficient { .. }, Some(identity)) = (&refusal.denial, &refusal.identity) {
        let granted = &identity.claims().scopes;
        let kept = service.scopes.iter().map(String::as_str).filter(|scope| granted.contains(scope));
        for scope in kept {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
    }
    scopes.retain(|scope| *scope != "offline_access");
    scopes
}
