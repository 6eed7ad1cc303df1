//! One refusal of each kind, for tables and for tests.

use super::denial::Denial;
use crate::policy::PathFault;

/// How many refusals there are: the length of [`Denial::examples`].
pub const KINDS: usize = 45;

impl Denial {
    /// One of each, for tables and tests.
    pub fn examples() -> [Self; KINDS] {
        let found = String::new;
        [
            Self::PathAmbiguous(PathFault::DotSegment),
            Self::HostUnknown,
            Self::RouteUnknown,
            Self::MethodUnknown { allow: found() },
            Self::TokenMissing,
            Self::SchemeUnknown,
            Self::TokenRepeated,
            Self::TokenTooLong { bytes: 0 },
            Self::TokenMalformed(""),
            Self::TokenOpaque,
            Self::TokenEncrypted,
            Self::TypeWrong { found: found() },
            Self::CriticalHeader,
            Self::AlgorithmRefused { found: found() },
            Self::IssuerUnknown { found: found() },
            Self::AudienceWrong { found: found() },
            Self::ClaimMalformed(""),
            Self::Expired { seconds: 0 },
            Self::NotYetValid { seconds: 0 },
            Self::IssuedInFuture { seconds: 0 },
            Self::SenderConstrained,
            Self::TokenCertificateWrong,
            Self::KeyUnknown { issuer: 0, kid: found() },
            Self::SignatureWrong { issuer: 0, kid: found() },
            Self::KeysUnavailable { issuer: 0 },
            Self::TokenRevoked { by: "" },
            Self::TokenInactive,
            Self::TokenTypeWrong { found: found() },
            Self::IntrospectionUnavailable(""),
            Self::IntrospectionBusy,
            Self::ScopeMissing { missing: Vec::new() },
            Self::ClaimMismatch { claim: found() },
            Self::ClientRefused,
            Self::ConsentWithdrawn,
            Self::ClientDeleted,
            Self::ConsentUnknown(""),
            Self::ConsentBusy,
            Self::SignInInsufficient { claim: "" },
            Self::IdentityTooLong { header: found() },
            Self::CertificateMissing,
            Self::CertificateRefused { subject: found() },
            Self::CertificateTooLong { header: found() },
            Self::RateLimited { limits: Vec::new(), wait_seconds: 1 },
            Self::OriginRefused,
            Self::HttpsRequired { location: found() },
        ]
    }
}
