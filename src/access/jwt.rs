//! Step 5. The form of the token: a compact JWS (RFC 7515 §3.1) and its header, before anything in it is believed.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::denial::Denial;
use super::json;
use crate::keys::Algorithm;

/// A token taken apart. Nothing in it is verified.
pub struct Jws<'t> {
    /// The first two parts with their dot: what the signature is over.
    pub signed: &'t str,
    pub signature: &'t str,
    pub header: Header,
    pub claims: Map<String, Value>,
}

pub struct Header {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// In lower case, without `application/` (RFC 7515 §4.1.9).
    pub typ: Option<String>,
}

impl<'t> Jws<'t> {
    pub fn parse(token: &'t str) -> Result<Self, Denial> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(match token.contains('.') {
                true => Denial::TokenMalformed("two parts"),
                false => Denial::TokenOpaque,
            });
        };
        match parts.count() {
            0 => {}
            2 => return Err(Denial::TokenEncrypted),
            _ => return Err(Denial::TokenMalformed("more than three parts")),
        }
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(Denial::TokenMalformed("an empty part"));
        }
        let header = Header::parse(&decode(header)?)?;
        decode(signature)?;
        let claims = json::object(&decode(payload)?).ok_or(Denial::TokenMalformed("claims that are no JSON object"))?;
        let signed = &token[..token.len() - signature.len() - 1];
        Ok(Self { signed, signature, header, claims })
    }
}

/// Whether a token is not a JWT by its form, so that only its issuer knows what it means. What has three or five parts, or
/// begins with the header of a JWT, is one, however broken: it is decided on here and shown to nobody.
pub fn is_opaque(token: &str) -> bool {
    let first = token.split('.').next().unwrap_or_default();
    let headed = || decode(first).is_ok_and(|bytes| json::object(&bytes).is_some());
    !matches!(token.split('.').count(), 3 | 5) && !headed()
}

/// Base64url without padding, line breaks or spare bits (RFC 7515 §2).
fn decode(part: &str) -> Result<Vec<u8>, Denial> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Denial::TokenMalformed("not base64url"))
}

impl Header {
    /// `jwk`, `jku`, `x5u` and `x5c` are left alone: the key comes from the issuer, never from the token.
    fn parse(bytes: &[u8]) -> Result<Self, Denial> {
        let object = json::object(bytes).ok_or(Denial::TokenMalformed("a header that is no JSON object"))?;
        if ["crit", "b64", "zip"].iter().any(|name| object.contains_key(*name)) {
            return Err(Denial::CriticalHeader);
        }
        let text = |name: &str| match object.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Denial::TokenMalformed("a header parameter that is no text")),
        };
        let name = text("alg")?.ok_or(Denial::TokenMalformed("no alg"))?;
        let algorithm = Algorithm::parse(name).ok_or_else(|| Denial::AlgorithmRefused { found: name.to_owned() })?;
        let kid = text("kid")?.map(str::to_owned);
        let typ = text("typ")?.map(|typ| {
            let lower = typ.to_ascii_lowercase();
            lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
        });
        Ok(Self { algorithm, kid, typ })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_jwt_is_never_opaque() {
        let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for opaque in ["BtznzKXCn4ufy4stb7GmR809hwN6yC6wddF_bQMtBcy", "eyJkaWNl", "ya29.a0Af", "a.b.c.d", "a.b.c.d.e.f", "+/=", "."] {
            assert!(is_opaque(opaque), "{opaque}");
        }
        let two_parts = format!("{header}.e30");
        let six_parts = format!("{header}.a.b.c.d.e");
        for jwt in ["a.b.c", "..", "a..", "....", "a.b.c.d.e", &header, &two_parts, &six_parts] {
            assert!(!is_opaque(jwt), "{jwt}");
        }
    }
}
