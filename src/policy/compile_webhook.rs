//! Compiles Logto's webhook and what is kept of revocations.

use super::compile::{Compiler, trail};
use super::compile_logto::issuer_of;
use super::compile_registration::own_prefixes;
use super::compile_service::is_below;
use super::path::CheckedPath;
use super::route_key::RouteKey;
use super::{Issuer, Revocations, Webhook};
use crate::config::{self, Config, Secret, Span};

/// How old a webhook may be when it comes, and how far clocks may differ. Logto tries a few times, 10 s each.
pub const WEBHOOK_WINDOW_MS: i64 = 5 * 60 * 1000;

const TOKEN_LIFE_LEAST: Span = Span::seconds(60);
const TOKEN_LIFE_MOST: Span = Span::seconds(90 * 86_400);

pub fn revocations(c: &mut Compiler<'_>, written: &config::Revocations) -> Revocations {
    let life = written.token_life;
    if life < TOKEN_LIFE_LEAST || life > TOKEN_LIFE_MOST || life.0.subsec_millis() != 0 {
        let cure =
            format!("write whole seconds from {TOKEN_LIFE_LEAST} to {TOKEN_LIFE_MOST}, at least as long as the longest access token lives");
        c.fault(trail(&[&"revocations", &"token_life"]), &life.to_string(), "no life for a token", cure);
    }
    if written.entries == 0 {
        c.fault(trail(&[&"revocations", &"entries"]), "0", "too small to revoke anything", "write 1 or more");
    }
    Revocations { token_life: i64::try_from(life.0.as_secs()).unwrap_or(i64::MAX), entries: written.entries as usize }
}

/// Where a webhook is taken, if one is.
pub(super) fn path(config: &Config) -> Option<&str> {
    let logto = config.logto.as_ref()?;
    let wanted = logto.webhook_signing_key.is_some() || logto.webhook_signing_key_file.is_some();
    wanted.then_some(logto.webhook_path.as_str())
}

pub(super) fn webhook(c: &mut Compiler<'_>, config: &Config, logto: &config::Logto, issuers: &[Issuer]) -> Option<Webhook> {
    let path = path(config)?;
    let before = c.faults.len();
    check_path(c, config, path);
    let signing_key = signing_key(c, logto);
    let issuer = issuer_of(logto, issuers).map(|issuer| issuers[issuer].url.clone());
    (c.faults.len() == before).then_some(Webhook { signing_key: signing_key?, path: path.to_owned(), issuer })
}

fn check_path(c: &mut Compiler<'_>, config: &Config, path: &str) {
    let at = || trail(&[&"logto", &"webhook_path"]);
    let plain = path.len() > 1 && path.starts_with('/') && !path.ends_with('/') && !path.contains(['%', '{', '*', '?', '#']);
    if !plain || CheckedPath::new(path).is_err() {
        return c.fault(at(), path, "no path", "write whole segments, as in /.well-known/wicketgate/logto-webhook");
    }
    if own_prefixes(config).iter().any(|own| is_below(path, own)) {
        c.fault(at(), path, "the gate's own endpoints stand there", "choose another path");
    }
    for (i, service) in config.services.iter().enumerate() {
        let prefix = service.path.trim_end_matches('/');
        if prefix == path || prefix.starts_with(&format!("{path}/")) {
            let cure = "choose another prefix, or another logto.webhook_path";
            c.fault(trail(&[&"services", &i, &"path"]), &service.path, "Logto's webhook is taken there", cure);
        }
        for (text, _) in &service.routes.0 {
            if RouteKey::parse(text).is_ok_and(|key| key.is_below(path)) {
                let cure = "take it out, or choose another logto.webhook_path";
                c.fault(trail(&[&"services", &i, &"routes", text]), text, "Logto's webhook is taken there", cure);
            }
        }
    }
}

fn signing_key(c: &mut Compiler<'_>, logto: &config::Logto) -> Option<Secret> {
    let key = match (&logto.webhook_signing_key, &logto.webhook_signing_key_file) {
        (Some(key), None) => key.clone(),
        (None, Some(path)) => {
            let at = trail(&[&"logto", &"webhook_signing_key_file"]);
            c.secret_file(at, path, "put the signing key alone into it")?
        }
        _ => {
            c.fault(trail(&[&"logto"]), "", "two signing keys", "give one of webhook_signing_key and webhook_signing_key_file");
            return None;
        }
    };
    if key.expose().is_empty() {
        c.fault(trail(&[&"logto"]), "", "an empty signing key", "put the signing key there that Logto shows for the webhook");
    }
    Some(key)
}
