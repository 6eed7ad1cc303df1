//! Every way to say no to a caller, one row each: status, OAuth error, code, and the label in logs and metrics.

// A new refusal is a compile error wherever refusals are told apart.
#![deny(clippy::wildcard_enum_match_arm)]

use std::borrow::Cow;

use http::StatusCode;

use crate::policy::PathFault;

/// Why a request was refused by the policy. What a variant carries is for the log; the caller reads its [`Row`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    PathAmbiguous(PathFault),
    HostUnknown,
    RouteUnknown,
    MethodUnknown { allow: String },
    TokenMissing,
    SchemeUnknown,
    TokenRepeated,
    TokenTooLong { bytes: usize },
    TokenMalformed(&'static str),
    TokenOpaque,
    TokenEncrypted,
    TypeWrong { found: String },
    CriticalHeader,
    AlgorithmRefused { found: String },
    IssuerUnknown { found: String },
    AudienceWrong { found: String },
    ClaimMalformed(&'static str),
    Expired { seconds: i64 },
    NotYetValid { seconds: i64 },
    IssuedInFuture { seconds: i64 },
    SenderConstrained,
    TokenCertificateWrong,
    KeyUnknown { issuer: usize, kid: String },
    SignatureWrong { issuer: usize, kid: String },
    KeysUnavailable { issuer: usize },
    TokenRevoked { by: &'static str },
    TokenInactive,
    TokenTypeWrong { found: String },
    IntrospectionUnavailable(&'static str),
    IntrospectionBusy,
    ScopeMissing { missing: Vec<String> },
    ClaimMismatch { claim: String },
    ClientRefused,
    ConsentWithdrawn,
    ClientDeleted,
    ConsentUnknown(&'static str),
    ConsentBusy,
    SignInInsufficient { claim: &'static str },
    IdentityTooLong { header: String },
    CertificateMissing,
    CertificateRefused { subject: String },
    CertificateTooLong { header: String },
    RateLimited { limits: Vec<String>, wait_seconds: u64 },
    OriginRefused,
    HttpsRequired { location: String },
}

/// What a refusal looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub status: StatusCode,
    /// The `error` of the challenge (RFC 6750 §3.1); `None` where there is no challenge or it has none.
    pub oauth_error: Option<&'static str>,
    /// Whether a `WWW-Authenticate` challenge goes with it.
    pub challenge: bool,
    /// Stable, in the body's `code`, in the log's `reason` and in the metric's `reason`.
    pub code: &'static str,
    /// What the caller reads: no input is echoed.
    pub title: &'static str,
    /// What the caller's developer can do about it.
    pub cure: &'static str,
}

const fn row(status: StatusCode, code: &'static str, title: &'static str, cure: &'static str) -> Row {
    Row { status, oauth_error: None, challenge: false, code, title, cure }
}

/// A 401 for a token that was sent and does not count.
const fn bad_token(code: &'static str, title: &'static str, cure: &'static str) -> Row {
    Row { status: StatusCode::UNAUTHORIZED, oauth_error: Some("invalid_token"), challenge: true, code, title, cure }
}

/// A 401 for no token.
const fn no_token(code: &'static str, title: &'static str, cure: &'static str) -> Row {
    Row { status: StatusCode::UNAUTHORIZED, oauth_error: None, challenge: true, code, title, cure }
}

impl Denial {
    pub fn row(&self) -> Row {
        use StatusCode as S;
        match self {
            Self::PathAmbiguous(_) => row(
                S::BAD_REQUEST,
                "path_ambiguous",
                "The path can be read in two ways",
                "send it without dot segments, empty segments, ';' and needless escapes",
            ),
            Self::HostUnknown => {
                row(S::MISDIRECTED_REQUEST, "host_unknown", "No service answers to this host", "use the service's public host name")
            }
            Self::RouteUnknown => {
                row(S::NOT_FOUND, "route_unknown", "No such route", "nothing is open that the policy does not name; check the path")
            }
            Self::MethodUnknown { .. } => {
                row(S::METHOD_NOT_ALLOWED, "method_unknown", "This route does not take this method", "use a method from the Allow header")
            }
            Self::TokenMissing => {
                no_token("token_missing", "An access token is needed", "get one as the challenge says and send it as Authorization: Bearer")
            }
            Self::SchemeUnknown => no_token(
                "scheme_unknown",
                "An access token is needed, sent with the scheme Bearer",
                "send Authorization: Bearer and the token",
            ),
            Self::TokenRepeated => Row {
                status: S::BAD_REQUEST,
                oauth_error: Some("invalid_request"),
                challenge: true,
                code: "token_repeated",
                title: "More than one access token, or one in two places",
                cure: "send one Authorization header and no access_token parameter",
            },
            Self::TokenTooLong { .. } => bad_token("token_too_long", "The access token is too long", "ask the issuer for fewer claims"),
            Self::TokenMalformed(_) => {
                bad_token("token_malformed", "The access token is malformed", "send the token exactly as the issuer gave it")
            }
            Self::TokenOpaque => bad_token(
                "token_opaque",
                "The access token is opaque. Ask the issuer for it with resource= and the name of this resource",
                "name this resource in the authorization request and in the token request (RFC 8707)",
            ),
            Self::TokenEncrypted => {
                bad_token("token_encrypted", "The access token is encrypted", "have the issuer sign tokens for this resource instead")
            }
            Self::TypeWrong { .. } => bad_token("type_wrong", "The token is no access token", "send the access token, not the ID token"),
            Self::CriticalHeader => bad_token(
                "critical_header",
                "The access token has header parameters that must be understood and are not",
                "have the issuer leave out crit, b64 and zip",
            ),
            Self::AlgorithmRefused { .. } => bad_token(
                "algorithm_refused",
                "The access token is signed with an algorithm that is not accepted",
                "sign with the algorithm of the issuer's published key",
            ),
            Self::IssuerUnknown { .. } => bad_token(
                "issuer_unknown",
                "The access token is of another issuer",
                "get one from an issuer that the metadata document names",
            ),
            Self::AudienceWrong { .. } => {
                bad_token("audience_wrong", "The access token is for another resource", "ask for one with this resource")
            }
            Self::ClaimMalformed(_) => bad_token(
                "claim_malformed",
                "A claim of the access token is missing or malformed",
                "see RFC 9068 section 2.2 for the claims of an access token",
            ),
            Self::Expired { .. } => {
                bad_token("expired", "The access token has expired", "get a new one, with the refresh token if there is one")
            }
            Self::NotYetValid { .. } => bad_token("not_yet_valid", "The access token is not valid yet", "wait, or check the clocks"),
            Self::IssuedInFuture { .. } => bad_token("issued_in_future", "The access token was issued in the future", "check the clocks"),
            Self::SenderConstrained => bad_token(
                "sender_constrained",
                "The access token is bound to a key that this resource cannot check",
                "ask for an unbound bearer token",
            ),
            Self::TokenCertificateWrong => bad_token(
                "token_certificate_wrong",
                "The access token is bound to a client certificate that this connection did not show",
                "connect with the certificate with which the token was asked for (RFC 8705)",
            ),
            Self::KeyUnknown { .. } => bad_token("key_unknown", "The access token is signed with an unknown key", "get a new one"),
            Self::SignatureWrong { .. } => {
                bad_token("signature_wrong", "The signature of the access token is wrong", "send the token exactly as the issuer gave it")
            }
            Self::KeysUnavailable { .. } => row(
                S::SERVICE_UNAVAILABLE,
                "keys_unavailable",
                "The issuer's keys cannot be had at the moment",
                "try again after the time in Retry-After",
            ),
            Self::TokenRevoked { .. } => {
                bad_token("token_revoked", "The access token was revoked", "get a new one; the user may have to sign in or consent anew")
            }
            Self::TokenInactive => bad_token(
                "token_inactive",
                "The access token is unknown to the issuer, has expired, or was revoked",
                "get a new one, with the refresh token if there is one",
            ),
            Self::TokenTypeWrong { .. } => {
                bad_token("token_type_wrong", "The token is no bearer access token", "send the access token, not the refresh token")
            }
            Self::IntrospectionUnavailable(_) => row(
                S::SERVICE_UNAVAILABLE,
                "introspection_unavailable",
                "The issuer cannot be asked about the access token at the moment",
                "try again after the time in Retry-After",
            ),
            Self::IntrospectionBusy => row(
                S::SERVICE_UNAVAILABLE,
                "introspection_busy",
                "Too many access tokens are asked about at the moment",
                "try again after the time in Retry-After",
            ),
            Self::ScopeMissing { .. } => Row {
                status: S::FORBIDDEN,
                oauth_error: Some("insufficient_scope"),
                challenge: true,
                code: "scope_missing",
                title: "The access token lacks a scope",
                cure: "ask the user for the scopes of the challenge",
            },
            Self::ClaimMismatch { .. } => row(
                S::FORBIDDEN,
                "claim_mismatch",
                "The access token does not give access to this",
                "use a token of the right organization or user",
            ),
            Self::ClientRefused => {
                row(S::FORBIDDEN, "client_refused", "This client may not use this route", "ask the operator to allow the client")
            }
            // As a revoked token (RFC 6750 §3.1), so that the agent asks the user anew; 403 would say that a new token is no use.
            Self::ConsentWithdrawn => bad_token(
                "consent_withdrawn",
                "The user's consent to this was withdrawn, or never given",
                "ask the user for consent to the scopes of the challenge",
            ),
            Self::ClientDeleted => {
                bad_token("client_deleted", "The client of the access token is unknown to the issuer", "use a client that the issuer knows")
            }
            Self::ConsentUnknown(_) => row(
                S::SERVICE_UNAVAILABLE,
                "consent_unknown",
                "Whether the user's consent stands cannot be asked at the moment",
                "try again after the time in Retry-After",
            ),
            Self::ConsentBusy => row(
                S::SERVICE_UNAVAILABLE,
                "consent_busy",
                "Too many users' consents are asked about at the moment",
                "try again after the time in Retry-After",
            ),
            Self::SignInInsufficient { .. } => Row {
                status: S::UNAUTHORIZED,
                oauth_error: Some("insufficient_user_authentication"),
                challenge: true,
                code: "sign_in_insufficient",
                title: "The user must sign in again, or in another way",
                cure: "send the user to the issuer with acr_values and max_age of the challenge (RFC 9470)",
            },
            Self::IdentityTooLong { .. } => row(
                S::FORBIDDEN,
                "identity_too_long",
                "A claim of the access token is too long to be forwarded",
                "ask the issuer for a shorter claim, or the operator for a higher limit",
            ),
            Self::CertificateMissing => row(
                S::FORBIDDEN,
                "certificate_missing",
                "A client certificate is needed",
                "connect over TLS with a certificate of an authority that the operator names",
            ),
            Self::CertificateRefused { .. } => row(
                S::FORBIDDEN,
                "certificate_refused",
                "This client certificate may not use this route",
                "ask the operator to allow the certificate",
            ),
            Self::CertificateTooLong { .. } => row(
                S::FORBIDDEN,
                "certificate_too_long",
                "The client certificate says more than can be forwarded",
                "use one with fewer names, or ask the operator for a higher limit",
            ),
            Self::RateLimited { .. } => row(
                S::TOO_MANY_REQUESTS,
                "rate_limited",
                "Too many requests",
                "come back after the seconds in Retry-After; the RateLimit field says what is left before it comes to this",
            ),
            Self::OriginRefused => row(
                S::FORBIDDEN,
                "origin_refused",
                "Pages of this origin may not call this",
                "ask the operator to name the page's origin under cors",
            ),
            Self::HttpsRequired { .. } => row(
                S::PERMANENT_REDIRECT,
                "https_required",
                "This is served over https alone",
                "ask at the address in Location; replace a token that was sent in the clear",
            ),
        }
    }

    /// The issuer whose keys may be worth asking for once more, and the id of the key that is wanted.
    pub fn wants_key(&self) -> Option<(usize, &str)> {
        if let Self::KeyUnknown { issuer, kid } = self {
            return Some((*issuer, kid));
        }
        if let Self::KeysUnavailable { issuer } = self { Some((*issuer, "")) } else { None }
    }

    /// Seconds after which the same request is worth another try, where waiting may help.
    pub fn retry_after(&self) -> Option<u64> {
        if let Self::RateLimited { wait_seconds, .. } = self {
            return Some(*wait_seconds);
        }
        let away = matches!(self, Self::KeysUnavailable { .. } | Self::IntrospectionUnavailable(_) | Self::ConsentUnknown(_));
        let busy = matches!(self, Self::IntrospectionBusy | Self::ConsentBusy);
        if away { Some(5) } else { busy.then_some(1) }
    }

    /// What the log says beside the code. Never the token, and nothing unbounded or unprintable.
    pub fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::PathAmbiguous(fault) => fault.to_string().into(),
            Self::TokenMalformed(what) | Self::ClaimMalformed(what) | Self::IntrospectionUnavailable(what) | Self::ConsentUnknown(what) => {
                (*what).into()
            }
            Self::TokenTooLong { bytes } => format!("bytes={bytes}").into(),
            Self::TokenTypeWrong { found } => format!("token_type={}", shorten(found)).into(),
            Self::TypeWrong { found } => format!("typ={}", shorten(found)).into(),
            Self::AlgorithmRefused { found } => format!("alg={}", shorten(found)).into(),
            Self::IssuerUnknown { found } => format!("iss={}", shorten(found)).into(),
            Self::AudienceWrong { found } => format!("aud={}", shorten(found)).into(),
            Self::Expired { seconds } | Self::NotYetValid { seconds } | Self::IssuedInFuture { seconds } => {
                format!("by {seconds} s").into()
            }
            Self::KeyUnknown { kid, .. } | Self::SignatureWrong { kid, .. } => format!("kid={}", shorten(kid)).into(),
            Self::ScopeMissing { missing } => format!("missing={}", missing.join(" ")).into(),
            Self::TokenRevoked { by } => format!("by={by}").into(),
            Self::ClaimMismatch { claim } => format!("claim={claim}").into(),
            Self::SignInInsufficient { claim } => format!("claim={claim}").into(),
            Self::CertificateRefused { subject } => format!("subject={}", shorten(subject)).into(),
            Self::IdentityTooLong { header } | Self::CertificateTooLong { header } => format!("header={header}").into(),
            Self::RateLimited { limits, wait_seconds } => format!("limit={} wait={wait_seconds} s", limits.join(" ")).into(),
            Self::HostUnknown
            | Self::RouteUnknown
            | Self::MethodUnknown { .. }
            | Self::TokenMissing
            | Self::SchemeUnknown
            | Self::TokenRepeated
            | Self::TokenOpaque
            | Self::TokenEncrypted
            | Self::CriticalHeader
            | Self::SenderConstrained
            | Self::TokenCertificateWrong
            | Self::CertificateMissing
            | Self::KeysUnavailable { .. }
            | Self::TokenInactive
            | Self::IntrospectionBusy
            | Self::ConsentWithdrawn
            | Self::ClientDeleted
            | Self::ConsentBusy
            | Self::ClientRefused
            | Self::OriginRefused
            | Self::HttpsRequired { .. } => "".into(),
        }
    }
}

/// A text from a token, cut and made printable.
fn shorten(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 120;
    text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_code() {
        let mut codes: Vec<&str> = Denial::examples().iter().map(|denial| denial.row().code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), super::super::denial_examples::KINDS);
    }

    /// RFC 6750 §3: `error_description` has no quote and no backslash.
    #[test]
    fn a_title_fits_into_a_challenge() {
        for denial in Denial::examples() {
            let row = denial.row();
            assert!(row.title.bytes().all(|byte| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e)), "{}", row.title);
            assert_eq!(
                row.oauth_error.is_some_and(|error| error != "invalid_request" && error != "insufficient_scope"),
                row.code != "token_missing" && row.code != "scheme_unknown" && row.status == StatusCode::UNAUTHORIZED
            );
        }
    }

    #[test]
    fn a_detail_cannot_break_a_log_line() {
        let denial = Denial::IssuerUnknown { found: format!("a\n\u{1b}[31m{}", "x".repeat(5000)) };
        assert!(denial.detail().len() < 200 && !denial.detail().contains(['\n', '\u{1b}']));
    }
}
