//! Compiles `registration:`: where it stands, what apps may get, and which of them are let in.

use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use http::uri::Authority;
use url::Url;

use super::compile::{Compiler, METADATA_PREFIX, at_least, trail};
use super::compile_logto::ScopesOfServices;
use super::path::CheckedPath;
use super::registration::{OwnEndpoint, RedirectRules, Registration};
use super::route_key::RouteKey;
use super::scope::is_scope_token;
use super::{Issuer, KeySource, Logto, Service, Target, Tree};
use crate::config::{self, Advertise, Config, Hosts, Trail};

/// Where clients look for an authorization server's metadata (RFC 8414 §3, OpenID Connect Discovery 1.0 §4).
const ISSUER_METADATA_PATHS: [&str; 2] = ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];

/// An app must have time to be used at all.
const EXPIRY_LEAST_MILLISECONDS: u64 = 3_600_000;

/// Logto lists apps by hundreds, and each registration counts them.
const QUOTA_MAX: u32 = 5_000;

/// Schemes that a browser, or a web of files, gives a meaning of its own: a code sent there is read or run by others.
const SCHEMES_OF_THE_WEB: [&str; 14] =
    ["about", "blob", "chrome", "data", "file", "filesystem", "ftp", "http", "https", "javascript", "mailto", "vbscript", "ws", "wss"];

fn at(steps: &[&dyn std::fmt::Display]) -> Trail {
    std::iter::once("registration".to_owned()).chain(trail(steps)).collect()
}

/// The prefixes under which the gate itself answers.
pub fn own_prefixes(config: &Config) -> Vec<String> {
    let registration = config.registration.iter().flat_map(|registration| {
        let path = Some(registration.path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty());
        path.into_iter().chain(ISSUER_METADATA_PATHS.map(str::to_owned))
    });
    std::iter::once(METADATA_PREFIX.to_owned()).chain(registration).collect()
}

/// Puts the endpoints into the table of the gate's own: the prefixes that lead there.
pub fn insert(tree: &mut Tree<Target>, registration: &Registration) -> Vec<String> {
    let path = &registration.path;
    let mut keys = vec![
        (format!("POST,OPTIONS {path}"), OwnEndpoint::Register),
        (format!("GET,PUT,DELETE,OPTIONS {path}/{{client_id}}"), OwnEndpoint::Client),
    ];
    keys.extend(ISSUER_METADATA_PATHS.map(|path| (format!("GET,OPTIONS {path}"), OwnEndpoint::IssuerMetadata)));
    for (key, endpoint) in keys {
        if let Ok(key) = RouteKey::parse(&key) {
            let _ = tree.insert(&key, Target::Own(endpoint));
        }
    }
    std::iter::once(path.clone()).chain(ISSUER_METADATA_PATHS.map(str::to_owned)).collect()
}

/// Compiles it. `services` are the operator's, in the order of the document.
pub fn compile(
    c: &mut Compiler<'_>,
    config: &Config,
    services: &[Service],
    issuers: &[Issuer],
    logto: Option<&Logto>,
) -> Option<Arc<Registration>> {
    let written = config.registration.as_ref()?;
    let before = c.faults.len();
    let path = path(c, &written.path);
    let origin = origin(c, written, services);
    let issuer = issuer(c, config, issuers);
    let (ceiling, user_scopes) = ceiling(c, config, written, logto);
    let redirect = redirect(c, &written.redirect);
    let initial_access_tokens = initial_access_tokens(c, written);
    let reserved_names = reserved_names(c, config, written);
    let mut count = |key: &str, found: u32, most: u32| {
        if found == 0 || found > most {
            c.fault(at(&[&key]), &found.to_string(), "no number that works", format!("write 1 to {most}, or take registration: out"));
        }
        NonZeroU32::new(found).unwrap_or(NonZeroU32::MIN)
    };
    let per_address_per_hour = count("per_address_per_hour", written.per_address_per_hour, 10_000);
    let per_minute = count("per_minute", written.per_minute, 10_000);
    let quota = count("quota", written.quota, QUOTA_MAX).get() as usize;
    let expire_unused_after = at_least(c, &["registration", "expire_unused_after"], written.expire_unused_after, EXPIRY_LEAST_MILLISECONDS);
    warn(c, written, initial_access_tokens.is_empty());
    let (issuer, metadata_urls) = issuer?;
    let origin = origin?;
    (c.faults.len() == before).then(|| {
        Arc::new(Registration {
            endpoint: format!("{origin}{path}"),
            path,
            origin,
            issuer,
            issuer_url: issuers[issuer].url.clone(),
            metadata_urls,
            advertise: written.advertise,
            ceiling,
            user_scopes,
            grant: written.grant,
            confidential: written.confidential,
            redirect,
            reserved_names,
            initial_access_tokens,
            per_address_per_hour,
            per_minute,
            quota,
            expire_unused_after,
        })
    })
}

fn path(c: &mut Compiler<'_>, text: &str) -> String {
    let good = text.starts_with('/') && text.len() > 1 && !text.ends_with('/') && !text.contains(['%', '{', '*']);
    if !good || CheckedPath::new(text).is_err() {
        c.fault(at(&[&"path"]), text, "no path for an endpoint", "write it as in /register, without a closing slash");
    } else if text.starts_with("/.well-known/") || text == "/.well-known" {
        c.fault(at(&[&"path"]), text, "well-known paths are for documents", "write it as in /register");
    }
    text.to_owned()
}

/// Scheme and host for the address of the endpoint, from the configuration alone.
fn origin(c: &mut Compiler<'_>, written: &config::Registration, services: &[Service]) -> Option<String> {
    let Some(text) = &written.public_url else {
        let url = services.first().and_then(|service| Url::parse(&service.metadata_url).ok())?;
        return Some(url.origin().ascii_serialization());
    };
    let url = Url::parse(text).ok().filter(|url| url.has_host() && matches!(url.scheme(), "https" | "http"));
    let bare = |url: &Url| url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    match url.filter(bare) {
        Some(url) => Some(url.origin().ascii_serialization()),
        None => {
            c.fault(at(&[&"public_url"]), text, "no address of a host", "write scheme and host alone, as in https://api.weather.example");
            None
        }
    }
}

/// The tenant's issuer, and where its metadata stands.
fn issuer(c: &mut Compiler<'_>, config: &Config, issuers: &[Issuer]) -> Option<(usize, Vec<String>)> {
    let Some(logto) = &config.logto else {
        c.absence(at(&[&"ceiling"]), "", "no access to Logto, where apps are made", "add logto: with endpoint, app_id and app_secret_file");
        return None;
    };
    let derived = || format!("{}/oidc", logto.endpoint.trim_end_matches('/'));
    let url = logto.issuer.clone().unwrap_or_else(derived);
    let alone = issuers.len() == 1 && logto.issuer.is_none();
    let Some(found) = issuers.iter().position(|issuer| issuer.url == url).or_else(|| alone.then_some(0)) else {
        let cure = "name one that a service takes tokens of with logto.issuer";
        c.fault(at(&[&"ceiling"]), "", "no service takes tokens of this tenant, so that a registered app could use none", cure);
        return None;
    };
    match &issuers[found].source {
        KeySource::Discovery(urls) => Some((found, urls.clone())),
        KeySource::JwksUri(_) | KeySource::File(_) => {
            let reason = "the issuer's metadata is not read, so that there is nothing to add the endpoint to";
            c.fault(at(&[&"ceiling"]), "", reason, "take jwks_uri and jwks_file out at the issuer, or give discovery_url");
            None
        }
    }
}

fn ceiling(
    c: &mut Compiler<'_>,
    config: &Config,
    written: &config::Registration,
    logto: Option<&Logto>,
) -> (Vec<super::ScopeOf>, Vec<String>) {
    let user_scopes = &written.ceiling.user_scopes;
    for (i, scope) in user_scopes.iter().enumerate().filter(|(_, scope)| !is_scope_token(scope)) {
        c.fault(at(&[&"ceiling", &"user_scopes", &i]), scope, "no scope", "write names like profile and email");
    }
    let Some(logto) = logto else { return (Vec::new(), user_scopes.clone()) };
    let known = ScopesOfServices { config, resources: &logto.tenant.resources };
    (known.find(c, &written.ceiling.scopes, &at(&[&"ceiling", &"scopes"])), user_scopes.clone())
}

fn redirect(c: &mut Compiler<'_>, written: &config::Redirect) -> RedirectRules {
    let hosts = match &written.hosts {
        Hosts::Any => None,
        Hosts::Named(names) => {
            for (i, name) in names.iter().enumerate() {
                let plain = name.parse::<Authority>().is_ok_and(|authority| authority.port().is_none() && authority.host() == name);
                if !plain || name.contains(['*', '@', '[']) || !name.is_ascii() || name.ends_with('.') {
                    let cure = "write the name alone, as in agent.example, without scheme, port or *";
                    c.fault(at(&[&"redirect", &"hosts", &i]), name, "no host name", cure);
                }
            }
            Some(names.iter().map(|name| name.to_ascii_lowercase()).collect())
        }
    };
    for (i, scheme) in written.schemes.iter().enumerate() {
        let place = || at(&[&"redirect", &"schemes", &i]);
        let lower = scheme.to_ascii_lowercase();
        let proper = lower.starts_with(|first: char| first.is_ascii_lowercase())
            && lower.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c));
        if !proper {
            c.fault(place(), scheme, "no scheme", "write the name alone, as in com.example.agent, without : and slashes");
        } else if SCHEMES_OF_THE_WEB.contains(&lower.as_str()) {
            c.fault(
                place(),
                scheme,
                "a scheme that browsers give a meaning of their own",
                "name one that only the agent's program answers to",
            );
        } else if !lower.contains('.') {
            c.warnings.push(format!(
                "registration: any program on a user's machine may answer to {lower}:; names in reverse, as in com.example.agent, are safer (RFC 8252 §7.1)"
            ));
        }
    }
    if hosts.as_ref().is_some_and(Vec::is_empty) && !written.loopback && written.schemes.is_empty() {
        c.fault(at(&[&"redirect", &"loopback"]), "false", "nobody could be sent back anywhere", "allow loopback, hosts or schemes");
    }
    RedirectRules { loopback: written.loopback, hosts, schemes: written.schemes.iter().map(|scheme| scheme.to_ascii_lowercase()).collect() }
}

/// SHA-256 of each, so that what is compared has one length, and nobody reads the tokens out of memory.
fn initial_access_tokens(c: &mut Compiler<'_>, written: &config::Registration) -> Vec<[u8; 32]> {
    const TOKEN_BYTES_LEAST: usize = 16;
    let mut tokens: Vec<String> = written.initial_access_tokens.iter().map(|token| token.expose().to_owned()).collect();
    let mut place = at(&[&"initial_access_tokens"]);
    if let Some(path) = &written.initial_access_tokens_file {
        place = at(&[&"initial_access_tokens_file"]);
        let text = c.file(place.clone(), path).map(String::from_utf8);
        match text {
            None => return Vec::new(),
            Some(Err(_)) => {
                c.fault(place, path, "the file is not text", "write one token a line");
                return Vec::new();
            }
            Some(Ok(text)) => {
                let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
                if lines.is_empty() {
                    // Everybody could register where the operator meant that nobody may without a token.
                    c.fault(place, path, "no token in the file", "write one a line, or take the key out to let everybody register");
                    return Vec::new();
                }
                tokens.extend(lines.into_iter().map(str::to_owned));
            }
        }
    }
    let carried = |token: &String| token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte));
    if tokens.iter().any(|token| token.len() < TOKEN_BYTES_LEAST || !carried(token)) {
        c.fault(place, "", "a token that can be guessed or that no header carries", "write 16 letters and digits or more, made at random");
    }
    let hash = |token: String| {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        bytes
    };
    tokens.into_iter().map(hash).collect()
}

/// The operator's list, and the apps that `logto apply` finds by their names.
fn reserved_names(c: &mut Compiler<'_>, config: &Config, written: &config::Registration) -> Vec<String> {
    for (i, name) in written.reserved_names.iter().enumerate() {
        if name.chars().filter(|c| c.is_alphanumeric()).count() < 3 {
            let cure = "write three letters or more: what has it anywhere in its name is refused";
            c.fault(at(&[&"reserved_names", &i]), name, "too short a name", cure);
        }
    }
    let apps = config.logto.iter().flat_map(|logto| logto.third_party_apps.iter().map(|app| app.name.clone()));
    written.reserved_names.iter().cloned().chain(apps).collect()
}

fn warn(c: &mut Compiler<'_>, written: &config::Registration, open: bool) {
    let mut warn = |text: &str| c.warnings.push(format!("registration: {text}"));
    if open && written.redirect.hosts == Hosts::Any {
        warn("anybody may register an app that sends users' codes to any host; name redirect.hosts, or ask for an initial access token");
    }
    if open && written.confidential {
        warn(
            "anybody may register an app with a secret; a secret that is given to anybody proves nothing, and such an app need not use PKCE",
        );
    }
    if written.reserved_names.is_empty() {
        warn("reserved_names is empty, so that an app may call itself what your company is called");
    }
    if written.advertise == Advertise::Gate {
        warn(
            "authorization_servers names this gate first, whose metadata has the issuer's own identifier; clients that compare the two (RFC 8414 §3.3) refuse it",
        );
    }
}
