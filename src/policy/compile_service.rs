//! Compiles a service: its place, its audiences, its upstream, its routes and its identity headers.

use std::sync::Arc;

use http::HeaderName;
use http::uri::Authority;
use url::Url;

use super::claims::{ClaimPath, ClaimRule, ClaimValue};
use super::compile::{Compiler, METADATA_PREFIX, at_least, trail};
use super::compile_introspection;
use super::compile_issuer::{self, Issuers};
use super::compile_listen;
use super::compile_rate;
use super::compile_registration::own_prefixes;
use super::compile_tls;
use super::compile_upstream;
use super::path::CheckedPath;
use super::route_key::RouteKey;
use super::scope::{ScopeRule, is_scope_token};
use super::{IdentityHeader, Managed, RateLimit, Requirement, Route, Rules, Service, StepUp, Target, Tree, Upstream};
use crate::config::{self, Access, Config, RedirectToHttps, Trail};

/// Who is calling; an operator's `headers:` replaces them.
const IDENTITY_HEADERS: [(&str, &str); 5] = [
    ("X-Auth-Subject", "sub"),
    ("X-Auth-Client-Id", "client_id"),
    ("X-Auth-Scopes", "scope"),
    ("X-Auth-Organization-Id", "organization_id"),
    ("X-Auth-Issuer", "iss"),
];

pub fn all(c: &mut Compiler<'_>, config: &Config, issuers: &mut Issuers, everyones: &[usize]) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for (i, service) in config.services.iter().enumerate() {
        let at = |step: &str| trail(&[&"services", &i, &step]);
        if services.iter().any(|known| *known.name == *service.name) {
            c.fault(at("name"), &service.name, "two services of one name", "give each its own, metrics are kept by it");
        }
        let mut compiled = one(c, config, service, &at);
        compiled.issuers = match &service.issuer {
            None => everyones.to_vec(),
            Some(own) => own
                .0
                .iter()
                .enumerate()
                .filter_map(|(j, issuer)| compile_issuer::add(c, issuers, issuer, trail(&[&"services", &i, &"issuer", &j])))
                .collect(),
        };
        if compiled.issuers.is_empty() && config.issuer.is_none() && service.issuer.is_none() {
            c.absence(at("name"), &service.name, "no issuer for this service", "add issuer: at the top or here; it has no default");
        }
        compiled.introspection = service
            .introspection
            .as_ref()
            .and_then(|written| compile_introspection::introspection(c, written, &issuers.list, &compiled, at("introspection")));
        services.push(compiled);
    }
    services
}

fn one(c: &mut Compiler<'_>, config: &Config, service: &config::Service, at: &dyn Fn(&str) -> Trail) -> Service {
    name(c, &service.name, at("name"));
    hosts(c, &service.hosts, at);
    let prefix = prefix(c, config, &service.path, at("path"));
    let audiences = published_first(audiences(c, &service.resource.0, at), service.public_url.as_deref());
    let metadata_url = metadata_url(c, service, &audiences, at);
    let upstream = compile_upstream::compile(c, config, &service.upstream, &at("upstream"));
    let identity = identity(c, service, at);
    let certificate_headers = compile_tls::headers(c, config, service, &identity, &at("client_certificate_headers"));
    let mut compiled = Service {
        name: service.name.as_str().into(),
        audiences,
        metadata_url,
        upstream,
        issuers: Vec::new(),
        introspection: None,
        consent: None,
        routes: Vec::new(),
        tree: Tree::default(),
        identity: identity.into(),
        certificate_headers,
        forward_authorization: service.forward_authorization,
        rate_limits: service_limits(c, service, at("rate_limit")),
        rewriting: Arc::default(),
        cors: None,
        scopes: Vec::new(),
        own: false,
        prefix,
    };
    if service.routes.0.is_empty() {
        c.absence(at("routes"), "", "no route, so that everything would be refused", "name at least one, as in GET /healthz: public");
    }
    let body_bytes = service.body_bytes.unwrap_or(config.limits.body_bytes).0;
    let to_https = redirect_to_https(c, config, service.redirect_to_https, at("redirect_to_https"));
    for (text, written) in &service.routes.0 {
        let mut place = at("routes");
        place.push(text.clone());
        route(c, config, &mut compiled, (text, written), (body_bytes, to_https), place);
    }
    compiled.scopes = scopes(&compiled.routes);
    compiled
}

fn service_limits(c: &mut Compiler<'_>, service: &config::Service, at: Trail) -> Vec<Arc<RateLimit>> {
    let written = service.rate_limit.as_ref().map_or(&[][..], |limits| &limits.0);
    compile_rate::limits(c, written, &service.name, None, &at)
}

impl Service {
    /// The gate's own endpoints of one host.
    pub(super) fn own(prefix: &str, tree: Tree<Target>) -> Self {
        Self {
            name: "wicketgate".into(),
            prefix: prefix.to_owned(),
            audiences: Vec::new(),
            metadata_url: String::new(),
            upstream: Upstream::nowhere(),
            issuers: Vec::new(),
            introspection: None,
            consent: None,
            routes: Vec::new(),
            tree,
            identity: Arc::new([]),
            certificate_headers: Arc::new([]),
            forward_authorization: false,
            rate_limits: Vec::new(),
            rewriting: Arc::default(),
            cors: None,
            scopes: Vec::new(),
            own: true,
        }
    }
}

fn name(c: &mut Compiler<'_>, text: &str, at: Trail) {
    const NAME_CHARS_MAX: usize = 63;
    let proper = !text.is_empty() && text.len() <= NAME_CHARS_MAX && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !proper {
        c.fault(at, text, "no name for a service", "write letters, digits, '-', '_' and '.', 63 at most");
    }
}

fn hosts(c: &mut Compiler<'_>, hosts: &[String], at: &dyn Fn(&str) -> Trail) {
    for (i, host) in hosts.iter().enumerate() {
        let authority = host.parse::<Authority>().ok().filter(|authority| authority.port().is_none() && authority.host() == host);
        if authority.is_none() || host.contains(['*', '@']) {
            let mut place = at("hosts");
            place.push(i.to_string());
            c.fault(place, host, "no host name", "write the name alone, as in api.example.com, without scheme, port or *");
        }
    }
}

fn prefix(c: &mut Compiler<'_>, config: &Config, path: &str, at: Trail) -> String {
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    let good = CheckedPath::new(path).is_ok() && path.starts_with('/') && !path.contains(['%', '{', '*']);
    if !good {
        c.fault(at, path, "no path prefix", "write whole segments, as in /mcp");
    } else if own_prefixes(config).iter().any(|own| is_below(trimmed, own)) {
        c.fault(at, path, "the gate's own endpoints stand there", "choose another prefix");
    }
    trimmed.to_owned()
}

pub(super) fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn audiences(c: &mut Compiler<'_>, texts: &[String], at: &dyn Fn(&str) -> Trail) -> Vec<String> {
    for (i, text) in texts.iter().enumerate() {
        let absolute = Url::parse(text).is_ok() && !text.contains('#') && !text.chars().any(|c| c.is_whitespace() || c == '"' || c == '\\');
        if !absolute {
            let mut place = at("resource");
            place.push(i.to_string());
            c.fault(place, text, "no resource indicator", "write an absolute URI without a fragment (RFC 8707 §2), exactly as in Logto");
        }
    }
    texts.to_vec()
}

/// The first is the one that is published: that which is also the address that clients use, if one is (RFC 9728 §3.3 has
/// them compare the two).
fn published_first(mut audiences: Vec<String>, public_url: Option<&str>) -> Vec<String> {
    if let Some(same) = audiences.iter().position(|audience| Some(audience.as_str()) == public_url) {
        audiences[..=same].rotate_right(1);
    }
    audiences
}

/// Host, well-known prefix, then the path of the resource (RFC 9728 §3.1). Built from the configuration alone.
fn metadata_url(c: &mut Compiler<'_>, service: &config::Service, audiences: &[String], at: &dyn Fn(&str) -> Trail) -> String {
    let (text, place) = match &service.public_url {
        Some(text) => (text.as_str(), at("public_url")),
        None => (audiences.first().map_or("", String::as_str), at("resource")),
    };
    let web = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    match web {
        Some(url) if url.query().is_none() && url.fragment().is_none() => {
            if service.public_url.as_deref().is_some_and(|public| !audiences.iter().any(|audience| audience == public)) {
                c.warnings.push(format!(
                    "{}: no resource is {text}, so that a client which compares the two (RFC 9728 §3.3) takes the metadata for another's; give the API resource in Logto this indicator where that can be",
                    service.name
                ));
            }
            format!("{}{METADATA_PREFIX}{}", url.origin().ascii_serialization(), url.path().trim_end_matches('/'))
        }
        _ if service.public_url.is_some() => {
            c.fault(place, text, "no web address", "write https, host and path, where clients reach this service");
            String::new()
        }
        // What is no URI at all is reported as such.
        _ if Url::parse(text).is_err() => String::new(),
        _ => {
            let cure = "add public_url: with the address where clients reach this service";
            c.fault(place, text, "not a web address, so that clients could not find the metadata document", cure);
            String::new()
        }
    }
}

fn identity(c: &mut Compiler<'_>, service: &config::Service, at: &dyn Fn(&str) -> Trail) -> Vec<IdentityHeader> {
    let written: Vec<(String, String)> = match &service.headers {
        Some(headers) => headers.0.clone(),
        None => IDENTITY_HEADERS.map(|(name, claim)| (name.to_owned(), claim.to_owned())).to_vec(),
    };
    let mut identity: Vec<IdentityHeader> = Vec::new();
    for (name, claim) in written {
        let mut place = at("headers");
        place.push(name.clone());
        let header = HeaderName::from_bytes(name.as_bytes()).ok().filter(Managed::may_carry_identity);
        let Some(header) = header.filter(|_| !name.contains('_')) else {
            c.fault(place, &name, "no name for an identity header", "write letters, digits and '-', as in X-Auth-Subject");
            continue;
        };
        let Some(claim) = ClaimPath::parse(&claim) else {
            c.fault(place, &claim, "no claim", "write its name, with dots for nested ones, as in address.country");
            continue;
        };
        if identity.iter().any(|known| known.name == header) {
            c.fault(place, &name, "two spellings of one header", "keep one");
            continue;
        }
        identity.push(IdentityHeader { name: header, claim });
    }
    identity
}

fn route(
    c: &mut Compiler<'_>,
    config: &Config,
    service: &mut Service,
    (text, written): (&str, &config::Route),
    (body_bytes, to_https): (u64, Option<u16>),
    at: Trail,
) {
    let key = match RouteKey::parse(text) {
        Ok(key) => key,
        Err(message) => return c.fault_message(at, text, &message),
    };
    if !key.is_below(&service.prefix) {
        let cure = format!("begin it with {} or move it to another service", service.prefix);
        return c.fault(at, text, "this route lies outside the path of its service", cure);
    }
    if own_prefixes(config).iter().any(|own| key.is_below(own)) {
        return c.fault(at, text, "this route would shadow the gate's own endpoint", "take it out: the gate answers there");
    }
    let requirement = requirement(c, written, &key, &at);
    let client_certificate = written.client_certificate.as_ref().map(|rule| compile_tls::rule(c, config, rule, &at));
    let timeout = match written.timeout {
        Some(span) => {
            let mut steps: Vec<&str> = at.iter().map(String::as_str).collect();
            steps.push("timeout");
            at_least(c, &steps, span, 1)
        }
        None => service.upstream.timeouts.response,
    };
    let name: Arc<str> = Arc::from(text);
    let place: Trail = at.iter().cloned().chain(["rate_limit".to_owned()]).collect();
    let own = compile_rate::limits(c, &written.rate_limit, &service.name, Some(&name), &place);
    let rate_limits = compile_rate::of_route(c, own, &service.rate_limits, &requirement, &place);
    let index = service.routes.len();
    match service.tree.insert(&key, Target::Route(index)) {
        Ok(()) => {
            let (mode, streams, websocket_token, audit) = (written.mode, written.streams, written.websocket_token, written.audit);
            let body_bytes = written.body_bytes.map_or(body_bytes, |size| size.0);
            let (rewriting, cors) = (service.rewriting.clone(), None);
            let place = at.iter().cloned().chain(["redirect_to_https".to_owned()]).collect();
            let own = redirect_to_https(c, config, written.redirect_to_https, place);
            let redirect_to_https = if written.redirect_to_https.is_some() { own } else { to_https };
            service.routes.push(Route {
                key: name,
                requirement,
                client_certificate,
                timeout,
                mode,
                streams,
                websocket_token,
                rate_limits,
                body_bytes,
                audit,
                redirect_to_https,
                rewriting,
                cors,
            });
        }
        Err(Target::Route(other)) => {
            let reason = format!("either this or '{}' could win", service.routes[*other].key);
            c.fault(at, text, reason, "give them different paths or methods");
        }
        Err(Target::Metadata { .. } | Target::Webhook | Target::Own(_)) => {}
    }
}

/// The port to which plain requests are sent. Where no request can come in any other way, nothing would ever be served.
fn redirect_to_https(c: &mut Compiler<'_>, config: &Config, written: Option<RedirectToHttps>, at: Trail) -> Option<u16> {
    let port = written?.port()?;
    let tells = config.listen.0.iter().any(|listener| listener.0.proxy_protocol);
    let serves_tls = config.listen.0.iter().any(|listener| compile_listen::has_tls(config, &listener.0));
    if !serves_tls && config.trusted_proxies.is_empty() && !tells {
        let cure = "add tls: at the top, or name in trusted_proxies who takes TLS off and says so in X-Forwarded-Proto";
        c.fault(at, "", "every request would be sent away, also from https", cure);
    }
    Some(port)
}

fn requirement(c: &mut Compiler<'_>, written: &config::Route, key: &RouteKey, at: &Trail) -> Requirement {
    let scopes = match &written.access {
        Access::Public => return Requirement::Public,
        Access::Authenticated => ScopeRule::None,
        Access::All(scopes) => ScopeRule::All(scopes.clone()),
        Access::Any(scopes) => ScopeRule::Any(scopes.clone()),
    };
    for scope in scopes.named() {
        if !is_scope_token(scope) {
            let cure = "write one word; for several scopes write { all: [...] } or { any: [...] }";
            c.fault(at.clone(), scope, "no scope", cure);
        }
    }
    for (i, client) in written.clients.iter().enumerate().filter(|(_, client)| client.trim().is_empty()) {
        let place = at.iter().cloned().chain(["clients".to_owned(), i.to_string()]).collect();
        c.fault(place, client, "no client_id", "write the app's id");
    }
    let claims = written.claims.iter().filter_map(|(name, values)| claim_rule(c, name, &values.0, key, at)).collect();
    Requirement::Token(Rules { scopes, claims, clients: written.clients.clone(), step_up: step_up(c, written, at) })
}

fn step_up(c: &mut Compiler<'_>, written: &config::Route, at: &Trail) -> StepUp {
    let below = |step: &str| at.iter().cloned().chain([step.to_owned()]).collect::<Trail>();
    // They stand in the challenge, separated by spaces (RFC 9470 §3).
    for acr in written.acr_values.iter().filter(|acr| !is_scope_token(acr)) {
        c.fault(below("acr_values"), acr, "no authentication context", "write one word without quotes, as the issuer puts it into acr");
    }
    if let Some(max_age) = written.max_age.filter(|age| age.0.subsec_millis() != 0) {
        c.fault(below("max_age"), &max_age.to_string(), "no age of a sign-in", "write whole seconds, as in 5m");
    }
    StepUp { acr_values: written.acr_values.clone(), max_age_seconds: written.max_age.map(|age| age.0.as_secs()) }
}

fn claim_rule(c: &mut Compiler<'_>, name: &str, values: &[String], key: &RouteKey, at: &Trail) -> Option<ClaimRule> {
    let place: Trail = at.iter().cloned().chain(["claims".to_owned(), name.to_owned()]).collect();
    let Some(claim) = ClaimPath::parse(name) else {
        c.fault(place, name, "no claim", "write its name, with dots for nested ones");
        return None;
    };
    let mut allowed = Vec::new();
    for value in values {
        let parameter = value.strip_prefix('{').and_then(|value| value.strip_suffix('}'));
        match parameter.map(|wanted| key.parameters().position(|name| name == wanted)) {
            None if value == "*" => allowed.push(ClaimValue::Present),
            None => allowed.push(ClaimValue::Literal(value.clone())),
            Some(Some(position)) => allowed.push(ClaimValue::Parameter(position)),
            Some(None) => {
                c.fault(place.clone(), value, "the route key has no such parameter", "name one of its {parameters} or a literal");
                return None;
            }
        }
    }
    Some(ClaimRule { claim, allowed })
}

/// Every scope that some route names, for `scopes_supported`. `offline_access` is between a client and the issuer and
/// is never advertised by a resource.
fn scopes(routes: &[Route]) -> Vec<String> {
    let mut scopes = Vec::new();
    for route in routes {
        let Requirement::Token(rules) = &route.requirement else { continue };
        for scope in rules.scopes.named() {
            if scope != "offline_access" && !scopes.contains(scope) {
                scopes.push(scope.clone());
            }
        }
    }
    scopes
}
