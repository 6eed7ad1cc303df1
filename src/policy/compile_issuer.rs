//! Compiles an issuer: its address, where its keys are, and what its tokens may look like.

use url::Url;

use super::compile::{Compiler, trail};
use super::{Issuer, KeySource};
use crate::config::{self, Trail};

/// Every algorithm that an issuer may sign with. HMAC and `none` are not in it and cannot be configured.
pub const ALGORITHMS: [&str; 10] = ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"];

/// The issuers of a document, each once.
#[derive(Default)]
pub struct Issuers {
    pub list: Vec<Issuer>,
}

/// Adds an issuer, or finds the one that is already there under this URL. `None` when it is at fault.
pub fn add(c: &mut Compiler<'_>, issuers: &mut Issuers, issuer: &config::Issuer, at: Trail) -> Option<usize> {
    let keys = &issuer.0;
    let known = issuers.list.iter().position(|known| known.url == keys.url);
    let bare = keys.discovery_url.is_none() && keys.jwks_uri.is_none() && keys.jwks_file.is_none();
    let bare = bare && keys.algorithms.is_none() && keys.token_types.is_none() && !keys.allow_http;
    if let (Some(known), true) = (known, bare) {
        return Some(known);
    }
    let below = |step: &str| at.iter().cloned().chain(std::iter::once(step.to_owned())).collect::<Trail>();
    let url_at = if bare { at.clone() } else { below("url") };
    let before = c.faults.len();
    check_url(c, &keys.url, keys.allow_http, url_at.clone());
    let source = source(c, keys, &below);
    let algorithms = algorithms(c, keys, &below);
    let (token_types, untyped_tokens) = token_types(c, keys, &below);
    if c.faults.len() > before {
        return None;
    }
    let compiled = Issuer { url: keys.url.clone(), source, algorithms, token_types, untyped_tokens, allow_http: keys.allow_http };
    match known {
        Some(known) if issuers.list[known] == compiled => Some(known),
        Some(_) => {
            c.fault(
                url_at,
                &keys.url,
                "this issuer stands here twice, with different settings",
                "say it once and name it by its URL elsewhere",
            );
            None
        }
        None => {
            issuers.list.push(compiled);
            Some(issuers.list.len() - 1)
        }
    }
}

/// `https`, or `http` to this machine or where the operator allows it; no query and no fragment (RFC 8414 §2).
fn check_url(c: &mut Compiler<'_>, text: &str, allow_http: bool, at: Trail) -> Option<Url> {
    let Some(url) = Url::parse(text).ok().filter(|url| url.has_host()) else {
        c.fault(at, text, "no URL", "write it as in https://my-tenant.logto.app/oidc");
        return None;
    };
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        c.fault(at, text, "a query, fragment or user name in the URL", "write scheme, host and path alone");
        return None;
    }
    match url.scheme() {
        "https" => Some(url),
        "http" if allow_http || is_loopback(&url) => Some(url),
        "http" => {
            c.fault(at, text, "http to another host, where anyone on the way can replace the keys", "write https, or set allow_http: true");
            None
        }
        _ => {
            c.fault(at, text, "neither https nor http", "write it as in https://my-tenant.logto.app/oidc");
            None
        }
    }
}

pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn source(c: &mut Compiler<'_>, keys: &config::IssuerKeys, below: &dyn Fn(&str) -> Trail) -> KeySource {
    match (&keys.discovery_url, &keys.jwks_uri, &keys.jwks_file) {
        (None, None, None) => KeySource::Discovery(discovery_urls(&keys.url)),
        (Some(url), None, None) => {
            check_url(c, url, keys.allow_http, below("discovery_url"));
            KeySource::Discovery(vec![url.clone()])
        }
        (None, Some(url), None) => {
            check_url(c, url, keys.allow_http, below("jwks_uri"));
            KeySource::JwksUri(url.clone())
        }
        (None, None, Some(path)) => KeySource::File(c.file(below("jwks_file"), path).unwrap_or_default()),
        _ => {
            c.fault(below("jwks_uri"), "", "keys from two places", "keep one of discovery_url, jwks_uri and jwks_file");
            KeySource::File(Vec::new())
        }
    }
}

/// Where the metadata of an issuer may stand: OpenID Connect Discovery appends, RFC 8414 §3.1 inserts. Logto answers
/// the first.
fn discovery_urls(issuer: &str) -> Vec<String> {
    let mut urls = vec![format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))];
    if let Ok(mut url) = Url::parse(issuer) {
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
        urls.push(url.to_string());
    }
    urls
}

fn algorithms(c: &mut Compiler<'_>, keys: &config::IssuerKeys, below: &dyn Fn(&str) -> Trail) -> Vec<String> {
    let Some(wanted) = &keys.algorithms else { return ALGORITHMS.map(str::to_owned).to_vec() };
    for (i, name) in wanted.0.iter().enumerate() {
        if ALGORITHMS.contains(&name.as_str()) {
            continue;
        }
        let reason = match name.as_str() {
            "none" => "unsigned tokens are never accepted",
            "HS256" | "HS384" | "HS512" => "a shared secret would let this gate make tokens, and whoever reads its configuration too",
            _ => "an unknown algorithm",
        };
        let mut at = below("algorithms");
        at.extend(trail(&[&i]));
        c.fault(at, name, reason, format!("write some of {}", ALGORITHMS.join(", ")));
    }
    wanted.0.clone()
}

/// RFC 9068 §4 asks for `at+jwt`; media types compare without regard to case, `application/` may be left out
/// (RFC 7515 §4.1.9).
fn token_types(c: &mut Compiler<'_>, keys: &config::IssuerKeys, below: &dyn Fn(&str) -> Trail) -> (Vec<String>, bool) {
    let Some(wanted) = &keys.token_types else { return (vec!["at+jwt".to_owned()], false) };
    let mut types = Vec::new();
    let mut untyped = false;
    for (i, name) in wanted.0.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        match lower.strip_prefix("application/").unwrap_or(&lower) {
            "none" => untyped = true,
            "" | "dpop+jwt" | "logout+jwt" | "token-introspection+jwt" | "secevent+jwt" => {
                let mut at = below("token_types");
                at.extend(trail(&[&i]));
                c.fault(at, name, "no type of an access token", "write at+jwt, or JWT for an issuer that knows no better");
            }
            name => types.push(name.to_owned()),
        }
    }
    (types, untyped)
}
