//! Compiles `consent:`: whether Logto can be asked about the users of a service at all, and how often.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::compile::{Compiler, at_least, trail};
use super::compile_logto::issuer_of;
use super::{Consent, Issuer, LogtoAccess, Service};
use crate::config::{self, Config, ConsentCheck, OnError, Span, Trail};

/// For so long a withdrawn consent may still pass.
const MAX_AGE_MAX: Span = Span::seconds(3600);
/// For so long a user who consented a moment too late may be refused.
const NEGATIVE_MAX_AGE_MAX: Span = Span::seconds(60);
const MAX_STALE_MAX: Span = Span::seconds(86_400);

/// Compiles it for all services; `services` are the operator's, in the order of the document.
pub fn compile(c: &mut Compiler<'_>, config: &Config, services: &mut [Service], issuers: &[Issuer], access: Option<&LogtoAccess>) {
    for (i, (written, service)) in config.services.iter().zip(services).enumerate() {
        let Some(consent) = written.consent.as_ref().filter(|consent| consent.check == ConsentCheck::Live) else { continue };
        let at = trail(&[&"services", &i, &"consent"]);
        let before = c.faults.len();
        limits(c, consent, &at);
        let Some(logto) = &config.logto else {
            c.fault(at, "", "live consent without a Logto to ask", "add logto: with the credentials of a machine-to-machine app");
            continue;
        };
        // One that knows no word of an issuer would take every token of its for a withdrawn one.
        let tenant = issuer_of(logto, issuers);
        for other in service.issuers.iter().filter(|issuer| Some(**issuer) != tenant) {
            let cure =
                "take live consent to a service with the tenant's tokens alone; where the endpoint is another address, name logto.issuer";
            c.fault(at.clone(), &issuers[*other].url, "an issuer whose users this Logto does not know", cure);
        }
        if logto.webhook_signing_key.is_none() && logto.webhook_signing_key_file.is_none() {
            c.warnings.push(format!(
                "{}: live consent does not see that a user was suspended or deleted; a webhook of Logto's tells of it, see logto.webhook_signing_key",
                written.name
            ));
        }
        if let Some(access) = access.filter(|_| c.faults.len() == before) {
            service.consent = Some(Arc::new(settings(consent, access)));
        }
    }
}

fn settings(written: &config::Consent, access: &LogtoAccess) -> Consent {
    let seconds = |span: Span| i64::try_from(span.0.as_secs()).unwrap_or(i64::MAX);
    Consent {
        // A request waits for all attempts together.
        access: LogtoAccess { timeout: access.timeout.min(written.timeout.0), deadline: written.timeout.0, ..access.clone() },
        max_age: seconds(written.max_age),
        negative_max_age: seconds(written.negative_max_age),
        max_stale: (written.on_error == OnError::Allow).then(|| seconds(written.max_stale)),
        timeout: written.timeout.0,
        remembered: written.remembered as usize,
        in_flight: written.in_flight as usize,
        per_second: NonZeroU32::new(written.per_second).unwrap_or(NonZeroU32::MIN),
    }
}

fn limits(c: &mut Compiler<'_>, written: &config::Consent, at: &Trail) {
    let below = |step: &str| at.iter().cloned().chain(std::iter::once(step.to_owned())).collect::<Trail>();
    let spans = [
        ("max_age", written.max_age, Span::seconds(2), MAX_AGE_MAX),
        ("negative_max_age", written.negative_max_age, Span::seconds(0), NEGATIVE_MAX_AGE_MAX),
        ("max_stale", written.max_stale, written.max_age.min(MAX_AGE_MAX), MAX_STALE_MAX),
    ];
    for (key, found, least, most) in spans {
        if found < least || found > most || found.0.subsec_millis() != 0 {
            c.fault(below(key), &found.to_string(), "no age for an answer", format!("write whole seconds from {least} to {most}"));
        }
    }
    let timeout_at = below("timeout");
    at_least(c, &timeout_at.iter().map(String::as_str).collect::<Vec<_>>(), written.timeout, 100);
    for (key, count) in [("remembered", written.remembered), ("in_flight", written.in_flight), ("per_second", written.per_second)] {
        if count == 0 {
            c.fault(below(key), "0", "too small to know anything", "write 1 or more, or take consent: out");
        }
    }
}
