//! Signature algorithms: the asymmetric ones of RFC 7518 §3.1 and EdDSA (RFC 8037). There is no variant for HMAC and
//! none for `none`, so no configuration and no token can name them.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Es256,
    Es384,
    Es512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    EdDsa,
}

use Algorithm::*;

impl Algorithm {
    pub const RSA: [Self; 6] = [Rs256, Rs384, Rs512, Ps256, Ps384, Ps512];

    /// From a name as in a token's `alg`; `Ed25519` is RFC 9864's name for what `EdDSA` means here.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "ES256" => Es256,
            "ES384" => Es384,
            "ES512" => Es512,
            "RS256" => Rs256,
            "RS384" => Rs384,
            "RS512" => Rs512,
            "PS256" => Ps256,
            "PS384" => Ps384,
            "PS512" => Ps512,
            "EdDSA" | "Ed25519" => EdDsa,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Es256 => "ES256",
            Es384 => "ES384",
            Es512 => "ES512",
            Rs256 => "RS256",
            Rs384 => "RS384",
            Rs512 => "RS512",
            Ps256 => "PS256",
            Ps384 => "PS384",
            Ps512 => "PS512",
            EdDsa => "EdDSA",
        }
    }

    /// As jsonwebtoken knows it; it has no ES512.
    pub(super) fn of_library(self) -> Option<jsonwebtoken::Algorithm> {
        use jsonwebtoken::Algorithm as Library;
        Some(match self {
            Es256 => Library::ES256,
            Es384 => Library::ES384,
            Es512 => return None,
            Rs256 => Library::RS256,
            Rs384 => Library::RS384,
            Rs512 => Library::RS512,
            Ps256 => Library::PS256,
            Ps384 => Library::PS384,
            Ps512 => Library::PS512,
            EdDsa => Library::EdDSA,
        })
    }
}
