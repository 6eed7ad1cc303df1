//! The issuer's keys: made at the start, rotated on demand, published as a JWK Set with the last one beside the current one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// What the issuer can sign with. Logto's default is ES384.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SigningAlgorithm {
    Es256,
    #[default]
    Es384,
    Es512,
    Rs256,
    EdDsa,
}

impl SigningAlgorithm {
    pub const ALL: [Self; 5] = [Self::Es256, Self::Es384, Self::Es512, Self::Rs256, Self::EdDsa];

    /// As a token's `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Rs256 => "RS256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// One private key, with its public half as a JWK.
pub struct SigningKey {
    pub algorithm: SigningAlgorithm,
    pub kid: String,
    jwk: Value,
    pair: Pair,
}

enum Pair {
    Elliptic(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Edwards(Ed25519KeyPair),
}

impl SigningKey {
    pub fn generate(algorithm: SigningAlgorithm) -> Result<Self, Unspecified> {
        let (pair, members) = match algorithm {
            SigningAlgorithm::Es256 => elliptic(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")?,
            SigningAlgorithm::Es384 => elliptic(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")?,
            SigningAlgorithm::Es512 => elliptic(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521")?,
            SigningAlgorithm::Rs256 => rsa()?,
            SigningAlgorithm::EdDsa => edwards()?,
        };
        let kid = thumbprint(&members)?;
        let mut jwk = json!({ "kid": kid, "use": "sig" });
        for (name, value) in members {
            jwk[name] = Value::String(value);
        }
        // Logto's RSA keys name no algorithm: the reader must take it from the key's type.
        if algorithm != SigningAlgorithm::Rs256 {
            jwk["alg"] = Value::from(algorithm.name());
        }
        Ok(Self { algorithm, kid, jwk, pair })
    }

    /// A compact JWS (RFC 7515 §3.1) of exactly this header and these claims, whatever they say.
    pub fn sign(&self, header: &Value, claims: &Value) -> Result<String, Unspecified> {
        let mut text = encode(header.to_string());
        text.push('.');
        text.push_str(&encode(claims.to_string()));
        let signature = self.signature(text.as_bytes())?;
        text.push('.');
        text.push_str(&encode(signature));
        Ok(text)
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Elliptic(pair) => pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
            Pair::Edwards(pair) => pair.try_sign(message).map(|signature| signature.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                Ok(signature)
            }
        }
    }
}

/// The members of a JWK that its thumbprint covers, sorted by name as the thumbprint wants them.
type Members = BTreeMap<&'static str, String>;

fn elliptic(algorithm: &'static signature::EcdsaSigningAlgorithm, curve: &str) -> Result<(Pair, Members), Unspecified> {
    let pair = EcdsaKeyPair::generate(algorithm)?;
    // SEC 1 uncompressed: 04, x, y.
    let coordinates = pair.public_key().as_ref().get(1..).ok_or(Unspecified)?;
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    let members = [("crv", curve.to_owned()), ("kty", "EC".to_owned()), ("x", encode(x)), ("y", encode(y))];
    Ok((Pair::Elliptic(pair), members.into()))
}

fn rsa() -> Result<(Pair, Members), Unspecified> {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
    // RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER } (RFC 8017 A.1.1).
    let (sequence, _) = der(0x30, pair.public_key().as_ref()).ok_or(Unspecified)?;
    let (n, rest) = der(0x02, sequence).ok_or(Unspecified)?;
    let (e, _) = der(0x02, rest).ok_or(Unspecified)?;
    let unsigned = |number: &[u8]| encode(number.strip_prefix(&[0]).unwrap_or(number));
    let members = [("e", unsigned(e)), ("kty", "RSA".to_owned()), ("n", unsigned(n))];
    Ok((Pair::Rsa(pair), members.into()))
}

fn edwards() -> Result<(Pair, Members), Unspecified> {
    let pair = Ed25519KeyPair::generate()?;
    let members = [("crv", "Ed25519".to_owned()), ("kty", "OKP".to_owned()), ("x", encode(pair.public_key().as_ref()))];
    Ok((Pair::Edwards(pair), members.into()))
}

/// The content of a DER value with this tag, and what follows it.
fn der(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = input.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length: usize, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    (found == tag).then(|| rest.split_at_checked(length))?
}

/// RFC 7638 §3: the SHA-256 of the required members in order of their names, without white space.
fn thumbprint(members: &Members) -> Result<String, Unspecified> {
    let canonical = serde_json::to_vec(members).map_err(|_| Unspecified)?;
    Ok(encode(digest(&SHA256, &canonical)))
}

/// The keys that an issuer has now: at most two are published, as Logto does, so that two rotations drop the oldest.
pub struct Keys(Mutex<CurrentAndPrevious>);

struct CurrentAndPrevious {
    current: Arc<SigningKey>,
    previous: Option<Arc<SigningKey>>,
}

impl Keys {
    pub fn generate(algorithm: SigningAlgorithm) -> Result<Self, Unspecified> {
        let current = Arc::new(SigningKey::generate(algorithm)?);
        Ok(Self(Mutex::new(CurrentAndPrevious { current, previous: None })))
    }

    pub fn current(&self) -> Arc<SigningKey> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    pub fn rotate(&self, algorithm: SigningAlgorithm) -> Result<(), Unspecified> {
        let key = Arc::new(SigningKey::generate(algorithm)?);
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.previous = Some(std::mem::replace(&mut keys.current, key));
        Ok(())
    }

    pub fn forget_previous(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).previous = None;
    }

    /// The JWK Set (RFC 7517 §5), the current key first.
    pub fn published(&self) -> Value {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let jwks: Vec<&Value> = std::iter::once(&keys.current).chain(&keys.previous).map(|key| &key.jwk).collect();
        json!({ "keys": jwks })
    }
}

/// 43 characters that nobody can guess: an opaque token, or a `jti`.
pub fn random_text() -> Result<String, Unspecified> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)?;
    Ok(encode(bytes))
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Algorithm, KeySet};

    fn read(keys: &Keys) -> KeySet {
        KeySet::parse(keys.published().to_string().as_bytes(), 10).unwrap()
    }

    #[test]
    fn what_each_algorithm_signs_verifies_with_the_published_key() {
        for algorithm in SigningAlgorithm::ALL {
            let keys = Keys::generate(algorithm).unwrap();
            let key = keys.current();
            let token = key.sign(&json!({ "alg": algorithm.name() }), &json!({ "sub": "ada" })).unwrap();
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let set = read(&keys);
            assert!(set.left_out.is_empty(), "{:?}", set.left_out);
            let as_read = Algorithm::parse(algorithm.name()).unwrap();
            let public = set.candidates(Some(&key.kid), as_read).next().unwrap();
            assert!(public.verify(as_read, signed, signature), "{algorithm:?}");
            assert!(!public.verify(as_read, "another.text", signature), "{algorithm:?}");
        }
    }

    #[test]
    fn an_rsa_key_names_no_algorithm_and_every_other_key_names_its_own() {
        for algorithm in SigningAlgorithm::ALL {
            let keys = Keys::generate(algorithm).unwrap().published();
            let expected = (algorithm != SigningAlgorithm::Rs256).then(|| algorithm.name());
            assert_eq!(keys["keys"][0].get("alg").and_then(Value::as_str), expected);
        }
    }

    #[test]
    fn a_thumbprint_is_that_of_rfc_7638() {
        // RFC 7638 §3.1, the example.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs\
                 tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbO\
                 pbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let members = [("e", "AQAB".to_owned()), ("kty", "RSA".to_owned()), ("n", n.to_owned())];
        assert_eq!(thumbprint(&members.into()).unwrap(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn a_rotation_keeps_two_keys_and_the_next_one_drops_the_oldest() {
        let keys = Keys::generate(SigningAlgorithm::Es384).unwrap();
        let mut kids = vec![keys.current().kid.clone()];
        for algorithm in [SigningAlgorithm::Rs256, SigningAlgorithm::EdDsa] {
            keys.rotate(algorithm).unwrap();
            kids.push(keys.current().kid.clone());
        }
        let set = read(&keys);
        assert_eq!(set.len(), 2);
        assert_eq!([0, 1, 2].map(|i| set.names(&kids[i])), [false, true, true]);
        keys.forget_previous();
        assert_eq!(read(&keys).len(), 1);
    }
}
