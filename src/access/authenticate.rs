//! Step 7. Who is calling: a token becomes an identity, or it does not.
//!
//! **Invariant:** this file is the only maker of an [`Identity`]; its fields are private to it.
//!
//! ```compile_fail,E0451
//! let verified = unimplemented!();
//! let forged = wicketgate::access::Identity { verified, remembered: true };
//! ```

use std::sync::Arc;

use super::certificate::ClientCertificate;
use super::claims::Claims;
use super::denial::Denial;
use super::introspected::Said;
use super::jwt::{self, Jws};
use super::remembered::{Remembered, Verified};
use super::snapshot::Snapshot;
use crate::clock::UnixSeconds;
use crate::policy::{Introspection, Service};

/// Proof that a token was verified: signature (or the issuer's word, for an opaque one), issuer, type, audience and dates.
#[derive(Debug, Clone)]
pub struct Identity {
    verified: Arc<Verified>,
    remembered: bool,
}

impl Identity {
    pub fn claims(&self) -> &Claims {
        &self.verified.claims
    }

    pub(super) fn verified(&self) -> &Verified {
        &self.verified
    }

    /// Whether the signature had been checked for an earlier request.
    pub fn was_remembered(&self) -> bool {
        self.remembered
    }
}

/// Verifies a token for a service (RFC 9068 §4, RFC 8725). What is cheap comes before the signature, so that a token
/// that could not pass anyway costs little.
pub fn authenticate(
    snapshot: &Snapshot,
    service: &Service,
    token: &str,
    said: Option<&Said>,
    certificate: Option<&ClientCertificate>,
    now: UnixSeconds,
) -> Result<Identity, Denial> {
    let policy = &snapshot.policy;
    if token.len() > policy.limits.token_bytes {
        return Err(Denial::TokenTooLong { bytes: token.len() });
    }
    if let Some(settings) = &service.introspection
        && jwt::is_opaque(token)
    {
        let identity = take_word(service, settings, token, said, policy.leeway, now)?;
        identity.claims().check_binding(certificate)?;
        return Ok(identity);
    }
    let digest = Remembered::digest(token);
    if let Some(verified) = snapshot.remembered.get(&digest)
        && service.issuers.iter().any(|issuer| snapshot.issuers[*issuer].stamp == verified.stamp)
    {
        if let Err(denial) = verified.claims.check_dates(now, policy.leeway) {
            snapshot.remembered.forget(&digest);
            return Err(denial);
        }
        verified.claims.check_audience(&service.audiences)?;
        verified.claims.check_binding(certificate)?;
        return Ok(Identity { verified, remembered: true });
    }
    let jws = Jws::parse(token)?;
    let issuer = find_issuer(snapshot, service, &jws)?;
    check_type(snapshot, issuer, &jws)?;
    if !snapshot.issuers[issuer].algorithms.contains(&jws.header.algorithm) {
        return Err(Denial::AlgorithmRefused { found: jws.header.algorithm.name().to_owned() });
    }
    let Jws { signed, signature, header, claims } = jws;
    let claims = Claims::parse(claims)?;
    claims.check_dates(now, policy.leeway)?;
    claims.check_audience(&service.audiences)?;
    claims.check_binding(certificate)?;
    check_signature(snapshot, issuer, signed, signature, &header)?;
    let verified = Arc::new(Verified::new(claims, snapshot.issuers[issuer].stamp));
    snapshot.remembered.put(digest, verified.clone());
    Ok(Identity { verified, remembered: false })
}

/// The refusal of an opaque token that nobody was asked about yet.
pub const UNASKED: Denial = Denial::IntrospectionUnavailable("not asked");

/// Takes the issuer's word for an opaque token (RFC 7662 §4): what it said of this very token under these very settings,
/// with dates and audience checked anew each time.
fn take_word(
    service: &Service,
    settings: &Introspection,
    token: &str,
    said: Option<&Said>,
    leeway: i64,
    now: UnixSeconds,
) -> Result<Identity, Denial> {
    let (introspected, remembered) = match said {
        None => return Err(UNASKED),
        Some(Said::Busy) => return Err(Denial::IntrospectionBusy),
        Some(Said::Unavailable(why)) => return Err(Denial::IntrospectionUnavailable(why)),
        Some(Said::Answer { introspected, remembered }) => (introspected, *remembered),
    };
    if !introspected.is_about(token, settings) {
        return Err(Denial::IntrospectionUnavailable("an answer about something else"));
    }
    let verified = introspected.outcome()?;
    verified.claims.check_dates(now, leeway)?;
    if settings.audience_required || verified.claims.all.contains_key("aud") {
        verified.claims.check_audience(&service.audiences)?;
    }
    Ok(Identity { verified, remembered })
}

/// The issuer that the token names, if this service accepts its tokens: equal code point by code point.
fn find_issuer(snapshot: &Snapshot, service: &Service, jws: &Jws<'_>) -> Result<usize, Denial> {
    let Some(found) = jws.claims.get("iss").and_then(|iss| iss.as_str()) else {
        return Err(Denial::ClaimMalformed("iss"));
    };
    let known = service.issuers.iter().find(|issuer| snapshot.policy.issuers[**issuer].url == found);
    known.copied().ok_or_else(|| Denial::IssuerUnknown { found: found.to_owned() })
}

/// `typ` keeps ID tokens and other JWTs of the same issuer out (RFC 9068 §4).
fn check_type(snapshot: &Snapshot, issuer: usize, jws: &Jws<'_>) -> Result<(), Denial> {
    let issuer = &snapshot.policy.issuers[issuer];
    let good = match &jws.header.typ {
        Some(typ) => issuer.token_types.contains(typ),
        None => issuer.untyped_tokens,
    };
    match good {
        true => Ok(()),
        false => Err(Denial::TypeWrong { found: jws.header.typ.clone().unwrap_or_default() }),
    }
}

/// The issuer first, its key second: a key of one issuer never vouches for another (RFC 8725 §3.8).
fn check_signature(snapshot: &Snapshot, issuer: usize, signed: &str, signature: &str, header: &super::jwt::Header) -> Result<(), Denial> {
    let state = &snapshot.keyring.0[issuer];
    let Some(keys) = &state.keys else { return Err(Denial::KeysUnavailable { issuer }) };
    let mut fitting = false;
    for key in keys.candidates(header.kid.as_deref(), header.algorithm) {
        fitting = true;
        if key.verify(header.algorithm, signed, signature) {
            return Ok(());
        }
    }
    let kid = header.kid.clone().unwrap_or_default();
    // A token that names no key was tried with those that fit; one that names a key is wrong only if that key is known.
    let known = header.kid.as_ref().is_none_or(|kid| keys.names(kid));
    Err(match (known, fitting) {
        // While the issuer cannot be asked, a new key cannot be told from an invented one.
        (false, _) if state.unreachable => Denial::KeysUnavailable { issuer },
        (false, _) => Denial::KeyUnknown { issuer, kid },
        (true, false) => Denial::AlgorithmRefused { found: header.algorithm.name().to_owned() },
        (true, true) => Denial::SignatureWrong { issuer, kid },
    })
}
