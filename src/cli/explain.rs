//! `explain`: what would happen to a request, by the very function that the proxy calls.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use http::header::{AUTHORIZATION, ORIGIN};
use http::{HeaderMap, HeaderValue, Method};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Failed, load};
use crate::access::{ClientCertificate, Denial, Head, Permit, Refusal, Remembered, Snapshot, Verdict, decide, decide_with, unasked_token};
use crate::clock;
use crate::consent::ConsentDesk;
use crate::introspection::Introspector;
use crate::keys::{KeyStore, Keyring};
use crate::oauth;
use crate::observe::Metrics;
use crate::policy::{CheckedPath, Found, HostRewrite, Policy, Target, origin};

pub const EXAMPLES: &str = "\
Examples:
  wicketgate explain GET /forecast/oslo                         without a token
  wicketgate explain GET https://api.example/me --token \"$T\"    with one
  wicketgate explain POST /forecast/oslo --token - < token.txt  with one that other users of this machine do not see
  wicketgate explain GET http://api.example/me                  without TLS
  wicketgate explain GET /forecast/oslo --origin https://app.example   from a page in a browser";

/// The longest token that is read from standard input.
const INPUT_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The method, in capitals
    method: String,
    /// A path with an optional query, or a whole URL
    url: String,
    /// An access token, or `-` to read it from standard input
    #[arg(long, env = "WICKETGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The origin of a page that sends the request, as in https://app.example
    #[arg(long)]
    origin: Option<String>,
    /// A client certificate (PEM), taken for one that was shown over TLS and verified
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    #[command(flatten)]
    config: super::ConfigArgument,
}

pub async fn explain(arguments: ExplainArguments) -> Result<(), Failed> {
    let method = Method::from_bytes(arguments.method.as_bytes()).map_err(|_| Failed::Usage("that is no method".to_owned()))?;
    let (mut host, path, query) = split_url(&arguments.url);
    let token = match arguments.token.as_deref() {
        Some("-") => Some(token_from_stdin()?),
        token => token.map(str::to_owned),
    };
    let snapshot = snapshot(arguments.config.config, token.is_some()).await?;
    if host.is_empty() && snapshot.policy.other_hosts.is_empty() {
        // A path alone says enough when there is but one host to ask.
        let mut hosts = snapshot.policy.hosts.keys();
        match (hosts.next(), hosts.next()) {
            (Some(only), None) => host = only.clone(),
            _ => return Err(Failed::Usage("this configuration tells services apart by host; write the whole URL".to_owned())),
        }
    }
    let mut headers = HeaderMap::new();
    if let Some(token) = &token {
        let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
        headers
            .insert(AUTHORIZATION, value.map_err(|_| Failed::Usage("that is no token: it has bytes that no header may have".to_owned()))?);
    }
    if let Some(origin) = &arguments.origin {
        let value = HeaderValue::try_from(origin.as_str()).map_err(|_| Failed::Usage("that is no origin".to_owned()))?;
        headers.insert(ORIGIN, value);
    }
    let shown = arguments.certificate.as_deref().map(certificate).transpose()?;
    let head = Head {
        method: &method,
        host: &host,
        path: &path,
        query: query.as_deref(),
        headers: &headers,
        websocket: false,
        plain: arguments.url.starts_with("http://"),
        certificate: shown.as_ref(),
    };
    let mut verdict = decide(&snapshot, &head, clock::unix_now());
    let asked = unasked_token(&verdict, &head);
    let metrics = Metrics::new().map_err(|error| Failed::Internal(error.to_string()))?;
    let mut said = None;
    if let Some((service, token)) = asked {
        let said = said.insert(Introspector::new(metrics.introspection).ask(&snapshot.policy, service, token).await);
        verdict = decide_with(&snapshot, &head, said, clock::unix_now());
    }
    verdict = ConsentDesk::new(metrics.consents).settle(&snapshot, &head, said.as_ref(), verdict).await;
    let checks = checks(&snapshot.policy, &head, asked.is_some());
    say!("request    {method} {path}");
    show_route(&snapshot.policy, &head);
    match verdict {
        Ok(Verdict::Metadata { service, slash }) => {
            say!("decision   answered by the gate: protected-resource metadata, for everyone");
            say!("{}", String::from_utf8_lossy(&oauth::document(&snapshot.policy, &snapshot.policy.services[service], slash)));
        }
        Ok(Verdict::Own { endpoint, .. }) => {
            say!("decision   answered by the gate: {endpoint}, which asks for its own credentials where it needs them");
        }
        Ok(Verdict::Preflight { .. }) => say!("decision   answered by the gate: pages of this origin may call"),
        Ok(Verdict::Webhook) => say!("decision   answered by the gate: Logto's webhook, if its signature is right"),
        Ok(Verdict::Forward(permit)) => show_permit(&snapshot, &head, &permit, &checks),
        Err(refusal) => show_refusal(&snapshot, &refusal, &checks),
    }
    Ok(())
}

fn split_url(text: &str) -> (String, String, Option<String>) {
    let (host, target) = match text.split_once("://") {
        Some((_, rest)) => match rest.find('/') {
            Some(slash) => (rest[..slash].to_owned(), rest[slash..].to_owned()),
            None => (rest.to_owned(), "/".to_owned()),
        },
        None => (String::new(), text.to_owned()),
    };
    let host = host.parse::<http::uri::Authority>().map(|authority| authority.host().to_ascii_lowercase()).unwrap_or_default();
    match target.split_once('?') {
        Some((path, query)) => (host, path.to_owned(), Some(query.to_owned())),
        None => (host, target, None),
    }
}

fn token_from_stdin() -> Result<String, Failed> {
    let mut text = String::new();
    let read = std::io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| Failed::Usage(format!("no token on standard input: {error}")))?;
    Ok(text.trim().to_owned())
}

/// The policy, with the issuers' keys as they are now if a token is to be checked.
async fn snapshot(config: PathBuf, with_keys: bool) -> Result<Snapshot, Failed> {
    let (_, loaded) = load(config)?;
    let policy = Arc::new(loaded.policy);
    let remembered = Arc::new(Remembered::new(0));
    if !with_keys {
        let keyring = Keyring(policy.issuers.iter().map(|_| Default::default()).collect());
        return Ok(Snapshot::new(policy, keyring, remembered));
    }
    let store = KeyStore::default();
    store.adopt(&policy).map_err(Failed::Usage)?;
    for issuer in &policy.issuers {
        store.refresh(&issuer.url, "", None).await;
    }
    let keyring = store.keyring(&policy);
    let missing: Vec<&str> =
        policy.issuers.iter().zip(&keyring.0).filter(|(_, state)| state.keys.is_none()).map(|(issuer, _)| issuer.url.as_str()).collect();
    match missing.is_empty() {
        true => Ok(Snapshot::new(policy, keyring, remembered)),
        false => Err(Failed::Unavailable(format!("the keys of {} cannot be had, so that no token can be checked", missing.join(", ")))),
    }
}

/// Those that are made for this request.
fn checks(policy: &Policy, head: &Head<'_>, opaque: bool) -> [&'static str; 16] {
    let mut checks = if opaque { OPAQUE_CHECKS } else { CHECKS };
    if !head.plain {
        checks[3] = "";
    }
    if !asks_for_certificate(policy, head) {
        checks[4] = "";
    }
    if !asks_for_consent(policy, head) {
        checks[15] = "";
    }
    checks
}

fn asks_for_consent(policy: &Policy, head: &Head<'_>) -> bool {
    let service = CheckedPath::new(head.path).ok().and_then(|path| policy.service(head.host, &path)).flatten();
    service.is_some_and(|service| policy.services[service].consent.is_some())
}

fn asks_for_certificate(policy: &Policy, head: &Head<'_>) -> bool {
    let Ok(path) = CheckedPath::new(head.path) else { return false };
    let Some(Some(index)) = policy.service(head.host, &path) else { return false };
    let service = &policy.services[index];
    let Found::Target(Target::Route(route), _) = service.tree.find(&path, head.method) else { return false };
    service.routes[*route].client_certificate.is_some()
}

/// The first certificate of a PEM file, taken for one that the client showed and that was verified.
fn certificate(path: &std::path::Path) -> Result<ClientCertificate, Failed> {
    let unreadable = |why: String| Failed::Usage(format!("{}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let der = CertificateDer::from_pem_slice(&pem).map_err(|error| unreadable(error.to_string()))?;
    ClientCertificate::read(&der).ok_or_else(|| unreadable("no X.509 certificate".to_owned()))
}

fn show_route(policy: &Policy, head: &Head<'_>) {
    let Ok(path) = CheckedPath::new(head.path) else { return };
    let Some(Some(index)) = policy.service(head.host, &path) else { return };
    let service = &policy.services[index];
    say!("service    {}", service.name);
    if let Found::Target(Target::Route(route), _) = service.tree.find(&path, head.method) {
        let route = &service.routes[*route];
        say!("route      {}", route.key);
        say!("requires   {}", route.requirement);
        if let Some(rule) = &route.client_certificate {
            say!("requires   {rule}");
        }
        if let Some(port) = route.redirect_to_https {
            say!("plain      requests without TLS are sent to https, port {port}");
        }
        for limit in &route.rate_limits.list {
            say!("limit      {limit}");
        }
        match (&route.cors, origin(head.headers)) {
            (Some(cors), Some(origin)) => {
                let may = if cors.allows(origin) { "may call and read the answer" } else { "may neither call nor read the answer" };
                say!("page       {may}; those that may: {cors}");
            }
            (Some(cors), None) => say!("page       {cors} may call"),
            (None, Some(_)) => say!("page       is the upstream's to judge: no cors here"),
            (None, None) => {}
        }
    }
}

/// The checks in the order in which they are made.
const CHECKS: [&str; 16] = [
    "path has one reading",
    "host is served",
    "route and method are named",
    "request came over https, where the route asks for it",
    "client certificate is one that the route takes",
    "exactly one bearer token",
    "token is a signed JWT",
    "issuer is accepted",
    "type is that of an access token",
    "algorithm is accepted",
    "claims are whole and valid now",
    "audience is this resource",
    "signature is the issuer's",
    "scopes are granted",
    "claims, client and sign-in fit the route",
    "the user's consent stands, if the app is somebody else's",
];

/// Those of an opaque token, about which the issuer is asked. Each stands where its like stands above; it has no signature.
const OPAQUE_CHECKS: [&str; 16] = [
    CHECKS[0],
    CHECKS[1],
    CHECKS[2],
    CHECKS[3],
    CHECKS[4],
    CHECKS[5],
    "token is opaque, and the issuer can be asked about it",
    "issuer says that it is active, and its own",
    "type is that of a bearer access token",
    "",
    CHECKS[10],
    CHECKS[11],
    "",
    CHECKS[13],
    CHECKS[14],
    CHECKS[15],
];

/// Which check said no.
fn failed_check(denial: &Denial) -> usize {
    match denial {
        Denial::PathAmbiguous(_) => 0,
        Denial::HostUnknown => 1,
        Denial::RouteUnknown | Denial::MethodUnknown { .. } => 2,
        Denial::CertificateMissing | Denial::CertificateRefused { .. } => 4,
        Denial::TokenMissing | Denial::SchemeUnknown | Denial::TokenRepeated => 5,
        Denial::TokenTooLong { .. } | Denial::TokenMalformed(_) | Denial::TokenOpaque | Denial::TokenEncrypted | Denial::CriticalHeader => {
            6
        }
        Denial::IntrospectionUnavailable(_) | Denial::IntrospectionBusy => 6,
        Denial::IssuerUnknown { .. } | Denial::TokenInactive => 7,
        Denial::TypeWrong { .. } | Denial::TokenTypeWrong { .. } => 8,
        Denial::AlgorithmRefused { .. } => 9,
        Denial::ClaimMalformed(_) | Denial::SenderConstrained | Denial::TokenCertificateWrong => 10,
        Denial::Expired { .. } | Denial::NotYetValid { .. } | Denial::IssuedInFuture { .. } => 10,
        Denial::AudienceWrong { .. } => 11,
        Denial::KeyUnknown { .. } | Denial::SignatureWrong { .. } | Denial::KeysUnavailable { .. } => 12,
        Denial::ScopeMissing { .. } => 13,
        Denial::ClaimMismatch { .. } | Denial::ClientRefused | Denial::SignInInsufficient { .. } | Denial::IdentityTooLong { .. } => 14,
        Denial::CertificateTooLong { .. } => 14,
        Denial::ConsentWithdrawn | Denial::ClientDeleted | Denial::ConsentUnknown(_) | Denial::ConsentBusy => 15,
        // Never here: `explain` counts nothing, and does not know what a running gate was told.
        Denial::RateLimited { .. } | Denial::TokenRevoked { .. } => 14,
        Denial::OriginRefused => 2,
        Denial::HttpsRequired { .. } => 3,
    }
}

fn show_checks(checks: &[&str], denial: Option<&Denial>, public: bool) {
    let failed = denial.map(failed_check);
    let last = if public { 5 } else { checks.len() };
    for (i, check) in checks.iter().enumerate().take(last) {
        match failed {
            _ if check.is_empty() => {}
            Some(at) if i == at => {
                say!("  no       {check}");
                return;
            }
            _ => say!("  yes      {check}"),
        }
    }
}

fn show_permit(snapshot: &Snapshot, head: &Head<'_>, permit: &Permit, checks: &[&str]) {
    let service = &snapshot.policy.services[permit.service()];
    let public = permit.identity().is_none() && permit.reported().is_none();
    show_checks(checks, permit.reported(), public);
    match permit.reported() {
        Some(denial) => say!("decision   let through and reported as {}: the route is in report mode", denial.row().code),
        None if public => say!("decision   forwarded to {} without an identity: the route is public", service.upstream),
        None => say!("decision   forwarded to {}", service.upstream),
    }
    let rewriting = &service.routes[permit.route()].rewriting;
    let path = rewriting.path_to_upstream(head.path).unwrap_or_default();
    let query = head.query.map_or_else(String::new, |query| format!("?{query}"));
    say!("upstream   {} {path}{query}", head.method);
    match rewriting.authority(service.upstream.base.authority()) {
        Some(_) if rewriting.host == HostRewrite::Upstream && service.upstream.endpoints.len() > 1 => {
            say!("upstream   host: that of the endpoint");
        }
        Some(authority) => say!("upstream   host: {authority}"),
        None if head.host.is_empty() => {}
        None => say!("upstream   host: {}", head.host),
    }
    if !rewriting.path.strip.is_empty() {
        say!("upstream   x-forwarded-prefix: {}", rewriting.path.strip);
    }
    for (name, value) in permit.headers() {
        say!("upstream   {name}: {}", value.to_str().unwrap_or_default());
    }
    for name in rewriting.request.names() {
        say!("upstream   {name}: as request_headers say (not shown: it may be a secret)");
    }
    for name in rewriting.request.removed() {
        say!("removed    {name}");
    }
}

fn show_refusal(snapshot: &Snapshot, refusal: &Refusal, checks: &[&str]) {
    show_checks(checks, Some(&refusal.denial), false);
    let row = refusal.denial.row();
    say!("decision   refused: {} {}", row.status.as_u16(), row.code);
    say!("because    {}", row.title);
    if let Denial::HttpsRequired { location } = &refusal.denial {
        say!("location   {location}");
    }
    let detail = refusal.denial.detail();
    if !detail.is_empty() {
        say!("in detail  {detail}");
    }
    say!("cure       {}", row.cure);
    if let Some(challenge) = oauth::challenge(&snapshot.policy, refusal) {
        say!("challenge  WWW-Authenticate: {}", challenge.to_str().unwrap_or_default());
    }
}
