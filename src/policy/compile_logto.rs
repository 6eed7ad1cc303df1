//! Compiles `logto:` and what services say about their scopes: the way to the Management API, and the tenant as it should be.

use url::Url;

use super::compile::{Compiler, at_least, trail};
use super::compile_webhook;
use super::scope::is_scope_token;
use super::tenant::{Logto, LogtoAccess, ScopeOf, Tenant, TenantApp, TenantResource, TenantRole, TenantScope};
use super::{Issuer, Service, is_loopback};
use crate::config::{self, AppKind, Config, ScopeNames, Trail};

/// The Management API's indicator where the endpoint does not tell another: that of a tenant of one's own Logto.
const MANAGEMENT_API: &str = "https://default.logto.app/api";

/// Logto counts a token's life in whole seconds.
const ACCESS_TOKEN_TTL_LEAST_SECONDS: u64 = 1;

/// Compiles `logto:`. `services` are the operator's, in the order of the document.
pub fn compile(c: &mut Compiler<'_>, config: &Config, services: &[Service], issuers: &[Issuer]) -> Option<Logto> {
    for (i, service) in config.services.iter().enumerate() {
        described_scopes(c, service, &services[i], &|step: &str| trail(&[&"services", &i, &step]));
    }
    let logto = config.logto.as_ref()?;
    let access = access(c, logto);
    let mut tenant = Tenant { resources: resources(c, config, services, issuers, logto), ..Tenant::default() };
    let scopes = ScopesOfServices { config, resources: &tenant.resources };
    let roles = roles(c, logto, &scopes);
    let apps = apps(c, logto, &scopes);
    tenant.roles = roles;
    tenant.third_party_apps = apps;
    let webhook = compile_webhook::webhook(c, config, logto, issuers);
    Some(Logto { access: access?, tenant, webhook })
}

/// The scopes of `services[].scopes`; one that no route asks for is allowed, since the service may look at it itself.
fn described_scopes(c: &mut Compiler<'_>, written: &config::Service, compiled: &Service, at: &dyn Fn(&str) -> Trail) {
    for (name, description) in written.scopes.iter().flat_map(|scopes| &scopes.0) {
        let place = || at("scopes").into_iter().chain([name.clone()]).collect::<Trail>();
        if !is_scope_token(name) {
            c.fault(place(), name, "no scope", "write one name without spaces, quotes and backslashes, as in read:weather");
        } else if !compiled.scopes.contains(name) {
            c.warnings.push(format!("{}: no route asks for the scope {name}", written.name));
        }
        if description.trim().is_empty() {
            c.fault(place(), description, "an empty description", "say what it allows, for the users who are asked to consent");
        }
    }
    if let Some(ttl) = written.access_token_ttl
        && (ttl.0.as_secs() < ACCESS_TOKEN_TTL_LEAST_SECONDS || ttl.0.subsec_millis() != 0)
    {
        c.fault(at("access_token_ttl"), &ttl.to_string(), "no life for a token", "write whole seconds, as in 5m");
    }
}

fn access(c: &mut Compiler<'_>, logto: &config::Logto) -> Option<LogtoAccess> {
    let endpoint = endpoint(c, logto);
    if logto.app_id.is_empty() {
        c.fault(trail(&[&"logto", &"app_id"]), "", "an empty id", "write the machine-to-machine app's id");
    }
    let management_api = match (&logto.management_api, &endpoint) {
        (Some(written), _) => written.clone(),
        (None, Some(endpoint)) => management_api(endpoint),
        (None, None) => String::new(),
    };
    if logto.management_api.is_some() && Url::parse(&management_api).is_err() {
        let cure = "write it as in https://my-tenant.logto.app/api, as the Console shows it under API resources";
        c.fault(trail(&[&"logto", &"management_api"]), &management_api, "no resource indicator", cure);
    }
    let timeout = at_least(c, &["logto", "timeout"], logto.timeout, 100);
    let deadline = at_least(c, &["logto", "deadline"], logto.deadline, 100);
    let app_secret = secret(c, logto)?;
    let endpoint = endpoint?.as_str().trim_end_matches('/').to_owned();
    Some(LogtoAccess { endpoint, management_api, app_id: logto.app_id.clone(), app_secret, timeout, deadline })
}

/// `https`, or `http` to this machine or where the operator allows it: the app's secret goes there.
fn endpoint(c: &mut Compiler<'_>, logto: &config::Logto) -> Option<Url> {
    let at = || trail(&[&"logto", &"endpoint"]);
    let Some(url) = Url::parse(&logto.endpoint).ok().filter(Url::has_host) else {
        c.fault(at(), &logto.endpoint, "no URL", "write it as in https://my-tenant.logto.app");
        return None;
    };
    let bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    let (reason, cure) = match url.scheme() {
        _ if !bare => ("more than an address", "write scheme and host, as in https://my-tenant.logto.app"),
        _ if url.path().trim_end_matches('/').ends_with("/oidc") => ("the issuer, not the endpoint", "leave /oidc out"),
        "https" => return Some(url),
        "http" if logto.allow_http || is_loopback(&url) => return Some(url),
        "http" => ("http, so that anyone on the way could take the app's secret", "use https, or allow_http: true in a private network"),
        _ => ("no web address", "use https"),
    };
    c.fault(at(), &logto.endpoint, reason, cure);
    None
}

/// A tenant of Logto Cloud has its own Management API under the name of the tenant, not under a domain of its owner's.
fn management_api(endpoint: &Url) -> String {
    match endpoint.host_str() {
        Some(host) if host.ends_with(".logto.app") => format!("https://{host}/api"),
        _ => MANAGEMENT_API.to_owned(),
    }
}

fn secret(c: &mut Compiler<'_>, logto: &config::Logto) -> Option<config::Secret> {
    let secret = match (&logto.app_secret, &logto.app_secret_file) {
        (Some(secret), None) => secret.clone(),
        (None, Some(path)) => c.secret_file(trail(&[&"logto", &"app_secret_file"]), path, "put the secret alone into it")?,
        _ => {
            c.fault(trail(&[&"logto"]), "", "no secret, or two", "give exactly one of app_secret and app_secret_file");
            return None;
        }
    };
    if secret.expose().is_empty() {
        c.fault(trail(&[&"logto"]), "", "an empty secret", "put the app's secret there");
    }
    Some(secret)
}

fn tenant_issuer(logto: &config::Logto) -> String {
    logto.issuer.clone().unwrap_or_else(|| format!("{}/oidc", logto.endpoint.trim_end_matches('/')))
}

/// The issuer that is this tenant's: the one that is named, or derived, or the only one.
pub(super) fn issuer_of(logto: &config::Logto, issuers: &[Issuer]) -> Option<usize> {
    let (issuer, alone) = (tenant_issuer(logto), issuers.len() == 1 && logto.issuer.is_none());
    issuers.iter().position(|known| known.url == issuer).or_else(|| alone.then_some(0))
}

/// The resources of the services that take this tenant's tokens, each once, with all their scopes.
fn resources(
    c: &mut Compiler<'_>,
    config: &Config,
    services: &[Service],
    issuers: &[Issuer],
    logto: &config::Logto,
) -> Vec<TenantResource> {
    let (issuer, own) = (tenant_issuer(logto), issuer_of(logto, issuers));
    // A wrong one is one fault, not one more for each scope below.
    let wrong = own.is_none() && logto.issuer.is_some();
    if wrong {
        let cure = "write one that stands under issuer:, character for character";
        c.fault(trail(&[&"logto", &"issuer"]), &issuer, "no service takes tokens of this issuer", cure);
    } else if own.is_none() && !issuers.is_empty() {
        c.warnings.push(format!("logto: no service takes tokens of {issuer}, so that nothing has to stand in this tenant"));
    }
    let mut resources: Vec<TenantResource> = Vec::new();
    for (i, (written, service)) in config.services.iter().zip(services).enumerate() {
        if !own.map_or(wrong, |own| service.issuers.contains(&own)) {
            continue;
        }
        for indicator in &service.audiences {
            let fresh = || TenantResource {
                indicator: indicator.clone(),
                name: service.name.to_string(),
                access_token_ttl: None,
                scopes: Vec::new(),
            };
            let known = resources.iter().position(|resource| resource.indicator == *indicator).unwrap_or_else(|| {
                resources.push(fresh());
                resources.len() - 1
            });
            add(c, &mut resources[known], written, service, i);
        }
    }
    resources
}

/// Adds what a service says to its resource, which another service may share.
fn add(c: &mut Compiler<'_>, resource: &mut TenantResource, written: &config::Service, service: &Service, i: usize) {
    let described = || written.scopes.iter().flat_map(|scopes| &scopes.0);
    let names = service.scopes.iter().chain(described().map(|(name, _)| name));
    for name in names {
        let description = described().find(|(described, _)| described == name).map(|(_, description)| description.clone());
        match resource.scopes.iter_mut().find(|scope| scope.name == *name) {
            None => resource.scopes.push(TenantScope { name: name.clone(), description }),
            Some(known) if known.description.is_none() => known.description = description,
            Some(known) if description.as_ref().is_some_and(|description| known.description.as_ref() != Some(description)) => {
                let cure = "say it once: the services share the resource";
                let text = description.unwrap_or_default();
                c.fault(trail(&[&"services", &i, &"scopes", name]), &text, "described differently in another service", cure);
            }
            Some(_) => {}
        }
    }
    let Some(ttl) = written.access_token_ttl else { return };
    match resource.access_token_ttl {
        Some(known) if known != ttl.0.as_secs() => {
            let cure = "say it once: the services share the resource";
            c.fault(trail(&[&"services", &i, &"access_token_ttl"]), &ttl.to_string(), "another life in another service", cure);
        }
        _ => resource.access_token_ttl = Some(ttl.0.as_secs()),
    }
}

/// Where scopes are found by their names.
pub(super) struct ScopesOfServices<'a> {
    pub config: &'a Config,
    pub resources: &'a [TenantResource],
}

impl ScopesOfServices<'_> {
    /// The scopes behind names. A service with several resources has its scopes in each of them.
    pub fn find(&self, c: &mut Compiler<'_>, written: &ScopeNames, at: &Trail) -> Vec<ScopeOf> {
        let mut found = Vec::new();
        match written {
            ScopeNames::Names(names) => {
                for (i, name) in names.iter().enumerate() {
                    let mut services = Vec::new();
                    for service in &self.config.services {
                        let indicators = self.holders(&service.resource.0, name);
                        if !indicators.is_empty() && !services.contains(&indicators) {
                            services.push(indicators);
                        }
                    }
                    let place = || at.iter().cloned().chain([i.to_string()]).collect::<Trail>();
                    match services.as_slice() {
                        [] => unknown(c, name, place()),
                        [indicators] => found.extend(indicators.iter().map(|indicator| scope_of(indicator, name))),
                        _ => {
                            let cure = "say of which service, as in scopes: { weather: [read] }";
                            c.fault(place(), name, "several services have a scope of this name", cure);
                        }
                    }
                }
            }
            ScopeNames::ByService(services) => {
                for (service, names) in services {
                    let place = || at.iter().cloned().chain([service.clone()]).collect::<Trail>();
                    let Some(known) = self.config.services.iter().find(|known| known.name == *service) else {
                        c.fault(place(), service, "no such service", "write the name of one under services:");
                        continue;
                    };
                    for name in names {
                        let indicators = self.holders(&known.resource.0, name);
                        if indicators.is_empty() {
                            unknown(c, name, place());
                        }
                        found.extend(indicators.iter().map(|indicator| scope_of(indicator, name)));
                    }
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }

    fn holders(&self, indicators: &[String], scope: &str) -> Vec<String> {
        let has = |indicator: &&String| {
            let resource = self.resources.iter().find(|resource| resource.indicator == **indicator);
            resource.is_some_and(|resource| resource.scopes.iter().any(|known| known.name == scope))
        };
        indicators.iter().filter(has).cloned().collect()
    }
}

fn scope_of(indicator: &str, name: &str) -> ScopeOf {
    ScopeOf { indicator: indicator.to_owned(), name: name.to_owned() }
}

fn unknown(c: &mut Compiler<'_>, name: &str, at: Trail) {
    c.fault(
        at,
        name,
        "no service with this tenant's tokens has such a scope",
        "write one that a route asks for, or that stands under services[].scopes",
    );
}

fn roles(c: &mut Compiler<'_>, logto: &config::Logto, scopes: &ScopesOfServices<'_>) -> Vec<TenantRole> {
    let mut roles: Vec<TenantRole> = Vec::new();
    for (i, role) in logto.roles.iter().enumerate() {
        let at = |step: &str| trail(&[&"logto", &"roles", &i, &step]);
        named(c, &role.name, roles.iter().any(|known| known.name == role.name), at("name"));
        roles.push(TenantRole {
            name: role.name.clone(),
            kind: role.kind,
            description: role.description.clone(),
            scopes: scopes.find(c, &role.scopes, &at("scopes")),
        });
    }
    roles
}

fn apps(c: &mut Compiler<'_>, logto: &config::Logto, scopes: &ScopesOfServices<'_>) -> Vec<TenantApp> {
    let mut apps: Vec<TenantApp> = Vec::new();
    for (i, app) in logto.third_party_apps.iter().enumerate() {
        let at = |step: &str| trail(&[&"logto", &"third_party_apps", &i, &step]);
        named(c, &app.name, apps.iter().any(|known| known.name == app.name), at("name"));
        for (j, uri) in app.redirect_uris.iter().enumerate() {
            // RFC 6749 §3.1.2: absolute, and without a fragment.
            if Url::parse(uri).map_or(true, |url| url.fragment().is_some()) {
                let place = at("redirect_uris").into_iter().chain([j.to_string()]).collect();
                c.fault(place, uri, "no redirect URI", "write an absolute URI without a fragment, as in https://agent.example/callback");
            }
        }
        // A native app may be one of the device flow, which sends nobody back.
        if app.redirect_uris.is_empty() && app.kind != AppKind::Native {
            c.absence(at("name"), &app.name, "no redirect URI", "add redirect_uris:");
        }
        for (j, scope) in app.user_scopes.iter().enumerate().filter(|(_, scope)| !is_scope_token(scope)) {
            let place = at("user_scopes").into_iter().chain([j.to_string()]).collect();
            c.fault(place, scope, "no scope", "write names like profile and email");
        }
        apps.push(TenantApp {
            name: app.name.clone(),
            kind: app.kind,
            redirect_uris: app.redirect_uris.clone(),
            scopes: scopes.find(c, &app.scopes, &at("scopes")),
            user_scopes: app.user_scopes.clone(),
        });
    }
    apps
}

/// Things of a tenant that have no identifier of ours are found by their names.
fn named(c: &mut Compiler<'_>, name: &str, taken: bool, at: Trail) {
    /// Logto's own limit.
    const NAME_CHARS_MAX: usize = 128;
    if name.trim().is_empty() || name.chars().count() > NAME_CHARS_MAX {
        c.fault(at, name, "no name", "write 1 to 128 characters");
    } else if taken {
        c.fault(at, name, "two of one name", "give each its own: they are found by it");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Document;
    use crate::policy::{Policy, ScopeOf, changes, compile};

    fn policy(text: &str, hash: &str) -> Policy {
        let document = Document::read(text, &|_| None);
        let compiled = compile(document.config.as_ref().expect("readable"), hash.to_owned(), &|_| Err("no file".to_owned()));
        compiled.unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    fn one_service(logto: &str) -> String {
        format!(
            "issuer: https://t.logto.app/oidc\nservices:\n  - {{ name: a, resource: [https://a, https://a/], upstream: 'http://127.0.0.1:1', routes: {{ /x: read }}, access_token_ttl: 5m }}\nlogto: {{ app_id: i, app_secret: s, {logto} }}\n"
        )
    }

    #[test]
    fn the_management_api_is_that_of_the_tenant() {
        let indicator = |logto: &str| policy(&one_service(logto), "").logto.expect("there").access.management_api;
        assert_eq!(indicator("endpoint: https://abc.logto.app/"), "https://abc.logto.app/api");
        assert_eq!(indicator("endpoint: https://login.example.com"), "https://default.logto.app/api");
        assert_eq!(indicator("endpoint: https://logto.app.example.com"), "https://default.logto.app/api");
        assert_eq!(
            indicator("endpoint: https://login.example.com, management_api: https://abc.logto.app/api"),
            "https://abc.logto.app/api"
        );
        assert_eq!(indicator("endpoint: http://logto:3001, allow_http: true"), "https://default.logto.app/api");
    }

    #[test]
    fn a_scope_is_that_of_every_resource_of_its_service() {
        let tenant =
            policy(&one_service("endpoint: https://t.logto.app, roles: [{ name: R, scopes: read }]"), "").logto.expect("there").tenant;
        let of = |indicator: &str| ScopeOf { indicator: indicator.to_owned(), name: "read".to_owned() };
        assert_eq!(tenant.roles[0].scopes, [of("https://a"), of("https://a/")]);
        assert!(tenant.resources.iter().all(|resource| resource.access_token_ttl == Some(300)));
    }

    #[test]
    fn services_of_other_issuers_are_no_matter_of_this_tenant() {
        let two = "issuer: [https://t.logto.app/oidc, https://other.example]\nservices:\n  - { name: a, resource: https://a, upstream: 'http://127.0.0.1:1', routes: { /a: read }, path: /a }\n  - { name: b, resource: https://b/b, upstream: 'http://127.0.0.1:1', routes: { /b: read }, path: /b, issuer: https://other.example }\nlogto: { endpoint: ENDPOINT, app_id: i, app_secret: s }\n";
        let of = |endpoint: &str| {
            let policy = policy(&two.replace("ENDPOINT", endpoint), "");
            let warned = policy.warnings.iter().any(|warning| warning.contains("no service takes tokens of"));
            let resources = policy.logto.expect("there").tenant.resources;
            (resources.into_iter().map(|resource| resource.indicator).collect::<Vec<_>>(), warned)
        };
        assert_eq!(of("https://t.logto.app"), (vec!["https://a".to_owned()], false));
        assert_eq!(of("https://strange.logto.app"), (Vec::new(), true));
        assert_eq!(
            of("https://strange.logto.app, issuer: https://other.example"),
            (["https://a", "https://b/b"].map(str::to_owned).to_vec(), false)
        );
    }

    #[test]
    fn a_reload_tells_access_from_what_the_tenant_should_hold() {
        let old = policy(&one_service("endpoint: https://t.logto.app"), "old");
        let change = |logto: &str| changes(&old, &policy(&one_service(logto), "new"));
        assert_eq!(change("endpoint: https://t.logto.app, deadline: 10s"), "logto changed");
        assert_eq!(
            change("endpoint: https://t.logto.app, roles: [{ name: R, scopes: read }]"),
            "logto tenant (wicketgate logto plan) changed"
        );
        assert_eq!(change("endpoint: https://t.logto.app"), "the text, not what it means");
    }
}
