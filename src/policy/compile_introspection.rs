//! Compiles how a service asks about opaque tokens: whose they are, where to ask, and with which credentials.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use url::Url;

use super::compile::{Compiler, at_least};
use super::compile_issuer::is_loopback;
use super::{EndpointSource, Introspection, Issuer, KeySource, Requirement, Service};
use crate::config::{self, AudienceCheck, Secret, Span, Trail};

/// What limits and the audit trail read of a token, whatever the rules and headers name.
const READ_BY_THE_GATE: [&str; 2] = ["organization_id", "act"];

/// Claims of an answer by RFC 7662 §2.2, beside `active`.
const STANDARD_CLAIMS: [&str; 11] = ["scope", "client_id", "username", "token_type", "exp", "iat", "nbf", "sub", "aud", "iss", "jti"];

/// For so long a revoked token may still pass.
const MAX_AGE_MAX: Span = Span::seconds(300);
/// For so long a good token may be refused that was asked about too early.
const NEGATIVE_MAX_AGE_MAX: Span = Span::seconds(60);

/// Compiles it for a service whose issuers, routes and headers are compiled. `None` when it is at fault.
pub fn introspection(
    c: &mut Compiler<'_>,
    written: &config::Introspection,
    issuers: &[Issuer],
    service: &Service,
    at: Trail,
) -> Option<Arc<Introspection>> {
    let below = |step: &str| at.iter().cloned().chain(std::iter::once(step.to_owned())).collect::<Trail>();
    let before = c.faults.len();
    if written.client_id.trim().is_empty() {
        c.fault(below("client_id"), &written.client_id, "an empty id", "write the id of the gate's own app at the issuer");
    }
    let secret = secret(c, written, &at);
    limits(c, written, &below);
    let issuer = issuer(c, written, issuers, service, &at);
    let endpoint = issuer.and_then(|issuer| endpoint(c, written, issuer, &at));
    let (issuer, endpoint, secret) = (issuer?, endpoint?, secret?);
    if written.audience == AudienceCheck::IfPresent {
        c.warnings.push(format!(
            "{}: an opaque token of which the issuer does not say for whom it is counts here as well; with Logto that is every one, of any app and any user, so that clients: and scopes alone tell them apart",
            service.name
        ));
    }
    (c.faults.len() == before).then(|| {
        Arc::new(Introspection {
            issuer: issuer.url.clone(),
            endpoint,
            allow_http: issuer.allow_http,
            client_id: written.client_id.clone(),
            client_secret: secret,
            auth: written.auth,
            audience_required: written.audience == AudienceCheck::Required,
            max_age: written.max_age.0,
            negative_max_age: written.negative_max_age.0,
            timeout: written.timeout.0,
            remembered: written.remembered as usize,
            in_flight: written.in_flight as usize,
            per_second: NonZeroU32::new(written.per_second).unwrap_or(NonZeroU32::MIN),
            claims: kept_claims(service),
            stamp: OnceLock::new(),
        })
    })
}

fn secret(c: &mut Compiler<'_>, written: &config::Introspection, at: &Trail) -> Option<Secret> {
    let file_at = || at.iter().cloned().chain(["client_secret_file".to_owned()]).collect::<Trail>();
    let secret = match (&written.client_secret, &written.client_secret_file) {
        (Some(secret), None) => secret.clone(),
        (None, Some(path)) => c.secret_file(file_at(), path, "put the secret alone into it")?,
        _ => {
            c.fault(at.clone(), "", "no secret, or two", "give exactly one of client_secret and client_secret_file");
            return None;
        }
    };
    if secret.expose().is_empty() {
        c.fault(at.clone(), "", "an empty secret", "put the app's secret there; issuers tell a public app nothing about tokens");
    }
    Some(secret)
}

fn limits(c: &mut Compiler<'_>, written: &config::Introspection, below: &dyn Fn(&str) -> Trail) {
    let mut at_most = |key: &str, found: Span, most: Span, reason: &str| {
        if found > most {
            c.fault(below(key), &found.to_string(), reason, format!("write {most} or less"));
        }
    };
    at_most("max_age", written.max_age, MAX_AGE_MAX, "a revoked token would pass for so long");
    at_most(
        "negative_max_age",
        written.negative_max_age,
        NEGATIVE_MAX_AGE_MAX,
        "a token that came a moment too early would be refused for so long",
    );
    let timeout_at = below("timeout");
    at_least(c, &timeout_at.iter().map(String::as_str).collect::<Vec<_>>(), written.timeout, 100);
    for (key, count) in [("in_flight", written.in_flight), ("per_second", written.per_second)] {
        if count == 0 {
            c.fault(below(key), "0", "too small to ask anything", "write 1 or more, or take introspection: out");
        }
    }
}

/// The issuer that is asked. An opaque token does not say whose it is, and is shown to nobody else.
fn issuer<'i>(
    c: &mut Compiler<'_>,
    written: &config::Introspection,
    issuers: &'i [Issuer],
    service: &Service,
    at: &Trail,
) -> Option<&'i Issuer> {
    let mut own = service.issuers.iter().map(|issuer| &issuers[*issuer]);
    match &written.issuer {
        Some(url) => {
            let found = own.find(|issuer| issuer.url == *url);
            if found.is_none() {
                let place = at.iter().cloned().chain(["issuer".to_owned()]).collect();
                c.fault(place, url, "no issuer of this service", "write the url of one of its issuers");
            }
            found
        }
        None => match (own.next(), own.next()) {
            (only, None) => only,
            _ => {
                let reason = "several issuers, and an opaque token does not say whose it is";
                c.fault(at.clone(), "", reason, "name one of them with issuer:");
                None
            }
        },
    }
}

fn endpoint(c: &mut Compiler<'_>, written: &config::Introspection, issuer: &Issuer, at: &Trail) -> Option<EndpointSource> {
    let Some(text) = &written.endpoint else {
        return match &issuer.source {
            KeySource::Discovery(urls) => Some(EndpointSource::Discovery(urls.clone())),
            KeySource::JwksUri(_) | KeySource::File(_) => {
                let reason = "nowhere to ask: this issuer's metadata is not read";
                c.fault(at.clone(), "", reason, "add endpoint: with the address of its introspection endpoint");
                None
            }
        };
    };
    let place = at.iter().cloned().chain(["endpoint".to_owned()]).collect();
    let Some(url) = Url::parse(text).ok().filter(|url| url.has_host() && matches!(url.scheme(), "https" | "http")) else {
        c.fault(place, text, "no URL", "write it as in https://my-tenant.logto.app/oidc/token/introspection");
        return None;
    };
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        // Not shown: it may hold the secret.
        c.fault(
            place,
            "",
            "a query, fragment or user name in the URL",
            "write scheme, host and path alone; credentials have keys of their own",
        );
        return None;
    }
    if url.scheme() == "http" && !issuer.allow_http && !is_loopback(&url) {
        let reason = "http to another host, where anyone on the way can read tokens and the secret";
        c.fault(place, text, reason, "write https, or set allow_http: true at the issuer");
        return None;
    }
    Some(EndpointSource::Given(text.clone()))
}

/// What is kept of an answer: an issuer may put anything else into it.
fn kept_claims(service: &Service) -> Vec<String> {
    let mut names: Vec<String> = STANDARD_CLAIMS.into_iter().chain(READ_BY_THE_GATE).map(str::to_owned).collect();
    names.extend(service.identity.iter().flat_map(|header| header.claim.top_names()));
    for route in &service.routes {
        if let Requirement::Token(rules) = &route.requirement {
            names.extend(rules.claims.iter().flat_map(|rule| rule.claim.top_names()));
            if !rules.step_up.is_empty() {
                names.extend(["acr".to_owned(), "auth_time".to_owned()]);
            }
        }
    }
    names.sort();
    names.dedup();
    names
}
