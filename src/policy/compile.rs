//! From what the operator wrote to what it means. All faults are found, not the first one alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;

use super::compile_audit;
use super::compile_issuer::{self, Issuers};
use super::compile_limits;
use super::compile_rewrite;
use super::route_key::{Methods, RouteKey, Segment};
use super::{Managed, Mode, Policy, Requirement, ScopeRule, Service, Site, Target, Tree};
use super::{
    Registration, compile_consent, compile_logto, compile_rate, compile_registration, compile_service, compile_upgrade, compile_webhook,
};
use super::{compile_listen, compile_tls};
use crate::config::{self, Config, Fault, Secret, Span, Trail};

/// Reads a file that the document names; an argument, so that compiling stays free of the machine.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<Vec<u8>, String>;

/// The path below which protected-resource metadata stands (RFC 9728 §3.1).
pub const METADATA_PREFIX: &str = "/.well-known/oauth-protected-resource";

const LEEWAY_SECONDS_MAX: i64 = 300;

/// Where faults are collected, with the files that may be read.
pub(super) struct Compiler<'a> {
    pub faults: Vec<Fault>,
    pub warnings: Vec<String>,
    pub files: Files<'a>,
}

impl Compiler<'_> {
    pub fn fault(&mut self, trail: Trail, text: &str, reason: impl Into<String>, cure: impl Into<String>) {
        self.faults.push(Fault::new(trail, reason, cure).with_text(text));
    }

    /// Notes that something is missing.
    pub fn absence(&mut self, trail: Trail, text: &str, reason: &str, cure: &str) {
        self.faults.push(Fault { absence: true, ..Fault::new(trail, reason, cure).with_text(text) });
    }

    /// Notes a `reason; cure` message.
    pub fn fault_message(&mut self, trail: Trail, text: &str, message: &str) {
        let (reason, cure) = message.split_once("; ").unwrap_or((message, "see config.example.yaml"));
        self.fault(trail, text, reason, cure);
    }

    pub fn file(&mut self, trail: Trail, path: &str) -> Option<Vec<u8>> {
        match (self.files)(path) {
            Ok(bytes) => Some(bytes),
            Err(reason) => {
                self.fault(trail, path, reason, "name a file that this process may read");
                None
            }
        }
    }

    /// What stands alone in a file, without the end of its line.
    pub fn secret_file(&mut self, trail: Trail, path: &str, cure: &str) -> Option<Secret> {
        let bytes = self.file(trail.clone(), path)?;
        let text = String::from_utf8(bytes).map_err(|_| self.fault(trail, path, "the file is not text", cure)).ok()?;
        Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
    }
}

pub(super) fn trail(steps: &[&dyn std::fmt::Display]) -> Trail {
    steps.iter().map(ToString::to_string).collect()
}

/// Compiles a document. `hash` names its content and that of its files.
pub fn compile(config: &Config, hash: String, files: Files<'_>) -> Result<Policy, Vec<Fault>> {
    let mut compiler = Compiler { faults: Vec::new(), warnings: Vec::new(), files };
    let c = &mut compiler;
    let mut issuers = Issuers::default();
    let everyones: Vec<usize> = config
        .issuer
        .iter()
        .flat_map(|issuers| issuers.0.iter().enumerate())
        .filter_map(|(i, issuer)| compile_issuer::add(c, &mut issuers, issuer, trail(&[&"issuer", &i])))
        .collect();
    if config.services.is_empty() {
        c.absence(trail(&[&"services"]), "", "no service", "name at least one: name, resource, upstream, routes");
    }
    let mut services = compile_service::all(c, config, &mut issuers, &everyones);
    let logto = compile_logto::compile(c, config, &services, &issuers.list);
    compile_consent::compile(c, config, &mut services, &issuers.list, logto.as_ref().map(|logto| &logto.access));
    let registration = compile_registration::compile(c, config, &services, &issuers.list, logto.as_ref());
    let (hosts, other_hosts) = sites(c, config, &mut services, registration.as_deref());
    let identity = services.iter().flat_map(|service| service.identity.iter()).map(|header| &header.name);
    let managed =
        Managed::new(identity.chain(services.iter().flat_map(|service| service.certificate_headers.iter()).map(|header| &header.name)));
    compile_rewrite::compile(c, config, &mut services, &managed);
    let (listeners, admin) = compile_listen::addresses(c, config);
    let policy = Policy {
        hash,
        listeners,
        admin,
        issuers: issuers.list,
        hosts,
        other_hosts,
        tls: config.tls.as_ref().and_then(|tls| compile_tls::tls(c, tls)),
        trusted_proxies: trusted_proxies(c, &config.trusted_proxies),
        managed,
        limits: compile_limits::limits(c, &config.limits, config.listen.0.len()),
        timeouts: compile_limits::timeouts(c, &config.timeouts),
        keys: keys(c, &config.keys),
        leeway: leeway(c, config.tokens.leeway),
        remembered_tokens: config.tokens.remembered as usize,
        log: config.log.clone(),
        audit: compile_audit::compile(c, config),
        shutdown_delay: config.shutdown.delay.0,
        shutdown_deadline: config.shutdown.deadline.0,
        upgrade: compile_upgrade::compile(c, config),
        reload_interval: at_least(c, &["reload", "interval"], config.reload.interval, 100),
        logto,
        revocations: compile_webhook::revocations(c, &config.revocations),
        state: compile_rate::state(c, &config.state),
        registration,
        warnings: Vec::new(),
        services,
    };
    warn(c, &policy);
    match compiler.faults.is_empty() {
        true => Ok(Policy { warnings: compiler.warnings, ..policy }),
        false => Err(compiler.faults),
    }
}

/// Which services answer for which host, and the gate's own endpoints beside them.
fn sites(
    c: &mut Compiler<'_>,
    config: &Config,
    services: &mut Vec<Service>,
    registration: Option<&Registration>,
) -> (HashMap<String, Site>, Site) {
    let operators = services.len();
    let named: BTreeSet<String> = config.services.iter().flat_map(|service| &service.hosts).map(|host| host.to_ascii_lowercase()).collect();
    let mut hosts = HashMap::new();
    for host in &named {
        let mut members = Vec::new();
        for (i, service) in config.services.iter().enumerate().take(operators) {
            if service.hosts.is_empty() || service.hosts.iter().any(|name| name.eq_ignore_ascii_case(host)) {
                members.push(i);
            }
        }
        hosts.insert(host.clone(), site(c, config, services, &members, registration));
    }
    let everywhere: Vec<usize> = (0..operators).filter(|i| config.services[*i].hosts.is_empty()).collect();
    let other_hosts = match everywhere.is_empty() {
        true => Site::default(),
        false => site(c, config, services, &everywhere, registration),
    };
    (hosts, other_hosts)
}

fn site(
    c: &mut Compiler<'_>,
    config: &Config,
    services: &mut Vec<Service>,
    members: &[usize],
    registration: Option<&Registration>,
) -> Site {
    let mut prefixes: Vec<(String, usize)> = Vec::new();
    for &i in members {
        let prefix = &services[i].prefix;
        match prefixes.iter().find(|(taken, _)| taken == prefix) {
            Some((_, other)) => {
                let reason = format!("service '{}' answers for the same host and path", services[*other].name);
                c.fault(trail(&[&"services", &i, &"path"]), &config.services[i].path, reason, "give each its own hosts: or path:");
            }
            None => prefixes.push((prefix.clone(), i)),
        }
    }
    let mut tree = Tree::default();
    let mut taken: Vec<(RouteKey, usize)> = Vec::new();
    let alone = members.len() == 1;
    for &i in members {
        let mut places: Vec<(String, bool)> = vec![(metadata_path(&services[i]), true), (services[i].prefix.clone(), false)];
        if alone {
            places.push((String::new(), false));
        }
        // A client that was told of the resource with a closing slash asks with one (RFC 9728 §3.1).
        let places = places.into_iter().flat_map(|(below, must)| [(below.clone(), false, must), (below, true, must)]);
        for (below, slash, must) in places {
            let key = own_key(&below, slash);
            match taken.iter().find(|(other, _)| *other == key) {
                Some((_, other)) if must && !slash && *other != i => {
                    let reason = format!("its metadata document would stand where that of service '{}' stands", services[*other].name);
                    let cure = "give it a path in resource: or public_url:, or its own hosts:";
                    c.fault(trail(&[&"services", &i, &"resource"]), &services[i].audiences[0], reason, cure);
                }
                Some(_) => {}
                None => {
                    let _ = tree.insert(&key, Target::Metadata { service: i, slash });
                    taken.push((key, i));
                }
            }
        }
    }
    let own = services.len();
    let further = registration.map(|registration| compile_registration::insert(&mut tree, registration));
    services.push(Service::own(METADATA_PREFIX, tree));
    prefixes.push((METADATA_PREFIX.to_owned(), own));
    prefixes.extend(further.into_iter().flatten().map(|prefix| (prefix, own)));
    if let Some(path) = compile_webhook::path(config) {
        let mut tree = Tree::default();
        let _ = tree.insert(&literal_key(path, vec![http::Method::POST]), Target::Webhook);
        prefixes.push((path.to_owned(), services.len()));
        services.push(Service::own(path, tree));
    }
    Site::new(prefixes)
}

/// The path part of the metadata document's address that follows the well-known prefix.
fn metadata_path(service: &Service) -> String {
    service.metadata_url.split_once(METADATA_PREFIX).map(|(_, below)| below.to_owned()).unwrap_or_default()
}

fn own_key(below: &str, slash: bool) -> RouteKey {
    RouteKey { slash, ..literal_key(&format!("{METADATA_PREFIX}{below}"), vec![http::Method::GET, http::Method::OPTIONS]) }
}

fn literal_key(path: &str, methods: Vec<http::Method>) -> RouteKey {
    let segments = path.split('/').filter(|segment| !segment.is_empty()).map(|segment| Segment::Literal(segment.to_owned()));
    RouteKey { methods: Methods::Named(methods), segments: segments.collect(), rest: false, slash: false }
}

fn trusted_proxies(c: &mut Compiler<'_>, texts: &[String]) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(net) => nets.push(net),
            Err(_) => c.fault(trail(&[&"trusted_proxies", &i]), text, "no address or network", "write it as in 10.0.0.0/8 or 10.1.2.3"),
        }
    }
    nets
}

fn keys(c: &mut Compiler<'_>, keys: &config::Keys) -> config::Keys {
    at_least(c, &["keys", "refresh"], keys.refresh, 1_000);
    at_least(c, &["keys", "cooldown"], keys.cooldown, 100);
    at_least(c, &["keys", "timeout"], keys.timeout, 100);
    keys.clone()
}

pub(super) fn at_least(c: &mut Compiler<'_>, steps: &[&str], span: Span, milliseconds: u64) -> std::time::Duration {
    let least = Span::milliseconds(milliseconds);
    if span < least {
        let at = steps.iter().map(|step| (*step).to_owned()).collect();
        c.fault(at, &span.to_string(), "too short to work", format!("write {least} or more"));
    }
    span.0
}

fn leeway(c: &mut Compiler<'_>, span: Span) -> i64 {
    let seconds = i64::try_from(span.0.as_secs()).unwrap_or(i64::MAX);
    if seconds > LEEWAY_SECONDS_MAX || span.0.subsec_millis() != 0 {
        let cure = "write whole seconds up to 5m (RFC 9068 §4: no more than a few minutes)";
        c.fault(trail(&[&"tokens", &"leeway"]), &span.to_string(), "not a leeway for clocks", cure);
    }
    seconds.min(LEEWAY_SECONDS_MAX)
}

/// What is allowed but should be known.
fn warn(c: &mut Compiler<'_>, policy: &Policy) {
    for service in policy.services.iter().filter(|service| !service.own) {
        let name = &service.name;
        for route in &service.routes {
            let key = &route.key;
            match &route.requirement {
                Requirement::Public if key.ends_with("/**") => {
                    c.warnings.push(format!("{name}: {key} opens everything below it to everyone, also other spellings of protected paths that your service may take for the same (upper case, a trailing dot)"));
                }
                Requirement::Token(rules) if rules.scopes == ScopeRule::None && rules.claims.is_empty() && rules.clients.is_empty() => {
                    c.warnings.push(format!(
                        "{name}: {key} asks for no scope; with Logto any registered app and any user can get a valid token for this resource"
                    ));
                }
                _ => {}
            }
            if route.mode == Mode::Report {
                c.warnings.push(format!("{name}: {key} is in report mode: requests that its rules refuse are let through"));
            }
        }
        let own = service.routes.iter().flat_map(|route| route.rate_limits.list.iter().filter(|limit| limit.route.is_some()));
        for limit in service.rate_limits.iter().chain(own).filter(|limit| limit.mode == Mode::Report) {
            let place = limit.route.as_deref().unwrap_or("the limit of the service,");
            c.warnings.push(format!("{name}: {place} {limit}: requests over it are let through"));
        }
        if service.forward_authorization {
            c.warnings.push(format!("{name}: callers' access tokens are passed on to the upstream"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_stands_alone_in_its_file_and_a_file_that_is_no_text_is_a_fault() {
        let files = |path: &str| match path {
            "unix" => Ok(b" se cret\n".to_vec()),
            "dos" => Ok(b" se cret\r\n".to_vec()),
            _ => Ok(b"se\xffcret".to_vec()),
        };
        let mut compiler = Compiler { faults: Vec::new(), warnings: Vec::new(), files: &files };
        for path in ["unix", "dos"] {
            assert_eq!(compiler.secret_file(trail(&[&"x"]), path, "").unwrap().expose(), " se cret");
        }
        assert!(compiler.faults.is_empty());
        assert!(compiler.secret_file(trail(&[&"x"]), "bytes", "put it alone there").is_none());
        let said = format!("{:?}", compiler.faults);
        assert!(compiler.faults.len() == 1 && said.contains("the file is not text") && !said.contains("cret"), "{said}");
    }
}
