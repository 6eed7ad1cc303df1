//! From a JWK Set (RFC 7517) to keys that can verify. A key that cannot be used is left out and named in the log; it
//! never spoils the rest of the set (§5).

use aws_lc_rs::signature::{self, ParsedPublicKey, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::algorithm::Algorithm;

const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;
/// Keys tried for a token that names none, or names one that several have.
const CANDIDATES_MAX: usize = 4;

/// One key that can verify signatures, and the algorithms that it may be used with.
pub struct Key {
    pub kid: Option<String>,
    pub algorithms: Vec<Algorithm>,
    material: Material,
}

enum Material {
    Library(DecodingKey),
    /// P-521: SEC 1 uncompressed point. jsonwebtoken has no ES512.
    P521(Vec<u8>),
}

/// The usable keys of one issuer.
pub struct KeySet {
    keys: Vec<Key>,
    /// Of the content: two sets of one epoch are the same.
    pub epoch: u64,
    /// Why each left-out key was left out.
    pub left_out: Vec<String>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.kid)).finish()
    }
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl KeySet {
    /// Reads a JWK Set. The error is for the log; a set without one usable key is an error, since an issuer cannot
    /// sign with none and the set is an accident.
    pub fn parse(body: &[u8], key_count_max: usize) -> Result<Self, String> {
        let document: Document<'_> = serde_json::from_slice(body).map_err(|error| format!("no JWK Set: {error}"))?;
        let mut keys: Vec<Key> = Vec::new();
        let mut left_out = Vec::new();
        for (i, raw) in document.keys.iter().enumerate() {
            if keys.len() >= key_count_max {
                left_out.push(format!("the rest: more than {key_count_max} keys"));
                break;
            }
            let jwk: Jwk = match serde_json::from_str(raw.get()) {
                Ok(jwk) => jwk,
                Err(_) => {
                    left_out.push(format!("number {i}: no JSON Web Key"));
                    continue;
                }
            };
            let name = jwk.kid.clone().unwrap_or_else(|| format!("number {i}"));
            match Key::from_jwk(jwk) {
                Ok(key) => keys.push(key),
                Err(reason) => left_out.push(format!("{}: {reason}", name.escape_debug())),
            }
        }
        if keys.is_empty() {
            return Err("the key set has no usable signature key".to_owned());
        }
        Ok(Self { keys, epoch: epoch(body), left_out })
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a key has this id.
    pub fn names(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// The keys that a token with this `kid` and this algorithm may have been signed with: those of that id, else those
    /// without an id.
    pub fn candidates<'s>(&'s self, kid: Option<&'s str>, algorithm: Algorithm) -> impl Iterator<Item = &'s Key> {
        let named = kid.is_some_and(|kid| self.names(kid));
        let fits = move |key: &&Key| match kid {
            Some(_) if named => key.kid.as_deref() == kid,
            Some(_) => key.kid.is_none(),
            None => true,
        };
        self.keys.iter().filter(fits).filter(move |key| key.algorithms.contains(&algorithm)).take(CANDIDATES_MAX)
    }
}

/// The first bytes of the SHA-256 of a document.
fn epoch(body: &[u8]) -> u64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
    digest.as_ref().iter().take(8).fold(0, |epoch, byte| epoch << 8 | u64::from(*byte))
}

impl Key {
    fn from_jwk(jwk: Jwk) -> Result<Self, &'static str> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("not for signatures (use)");
        }
        if jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("not for verifying (key_ops)");
        }
        if jwk.d.is_some() {
            return Err("a private key, which must never be published");
        }
        let (possible, material) = match jwk.kty.as_str() {
            "EC" => elliptic(&jwk)?,
            "RSA" => rsa(&jwk)?,
            "OKP" => edwards(&jwk)?,
            "oct" => return Err("a symmetric key, which would let anyone who reads it sign"),
            _ => return Err("an unknown key type"),
        };
        let algorithms = match &jwk.alg {
            None => possible,
            Some(name) => match Algorithm::parse(name).filter(|algorithm| possible.contains(algorithm)) {
                Some(algorithm) => vec![algorithm],
                None => return Err("its alg does not fit its type"),
            },
        };
        Ok(Self { kid: jwk.kid, algorithms, material })
    }

    /// Whether the signature is this key's over `signed`, the first two parts of the token with their dot.
    pub fn verify(&self, algorithm: Algorithm, signed: &str, signature: &str) -> bool {
        if !self.algorithms.contains(&algorithm) {
            return false;
        }
        match (&self.material, algorithm.of_library()) {
            (Material::Library(key), Some(library)) => {
                jsonwebtoken::crypto::verify(signature, signed.as_bytes(), key, library).unwrap_or(false)
            }
            (Material::P521(point), None) => BASE64_URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| {
                UnparsedPublicKey::new(&signature::ECDSA_P521_SHA512_FIXED, point).verify(signed.as_bytes(), &signature).is_ok()
            }),
            _ => false,
        }
    }
}

fn elliptic(jwk: &Jwk) -> Result<(Vec<Algorithm>, Material), &'static str> {
    let (algorithm, bytes, on_curve): (_, _, &'static signature::EcdsaVerificationAlgorithm) = match jwk.crv.as_deref() {
        Some("P-256") => (Algorithm::Es256, 32, &signature::ECDSA_P256_SHA256_FIXED),
        Some("P-384") => (Algorithm::Es384, 48, &signature::ECDSA_P384_SHA384_FIXED),
        Some("P-521") => (Algorithm::Es512, 66, &signature::ECDSA_P521_SHA512_FIXED),
        _ => return Err("an unknown curve"),
    };
    let (Some(x), Some(y)) = (jwk.x.as_deref(), jwk.y.as_deref()) else { return Err("no point") };
    let mut point = vec![4];
    for coordinate in [x, y] {
        let decoded = decode(coordinate).filter(|decoded| decoded.len() == bytes).ok_or("a coordinate of the wrong length")?;
        point.extend(decoded);
    }
    ParsedPublicKey::new(on_curve, &point).map_err(|_| "a point that is not on its curve")?;
    let material = match algorithm {
        Algorithm::Es512 => Material::P521(point),
        _ => Material::Library(DecodingKey::from_ec_components(x, y).map_err(|_| "an unreadable point")?),
    };
    Ok((vec![algorithm], material))
}

fn rsa(jwk: &Jwk) -> Result<(Vec<Algorithm>, Material), &'static str> {
    let (Some(n), Some(e)) = (jwk.n.as_deref(), jwk.e.as_deref()) else { return Err("no modulus or exponent") };
    let modulus = decode(n).ok_or("an unreadable modulus")?;
    let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
    let leading = modulus.iter().find(|byte| **byte != 0).map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = (significant * 8).saturating_sub(leading);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err("an RSA key outside 2048 to 8192 bits");
    }
    let exponent = decode(e).ok_or("an unreadable exponent")?;
    if exponent.len() > 4 || exponent.last().is_none_or(|byte| byte % 2 == 0) || exponent == [1] {
        return Err("an unusable exponent");
    }
    let key = DecodingKey::from_rsa_components(n, e).map_err(|_| "an unreadable RSA key")?;
    Ok((Algorithm::RSA.to_vec(), Material::Library(key)))
}

fn edwards(jwk: &Jwk) -> Result<(Vec<Algorithm>, Material), &'static str> {
    if jwk.crv.as_deref() != Some("Ed25519") {
        return Err("an unknown curve");
    }
    let x = jwk.x.as_deref().filter(|x| decode(x).is_some_and(|x| x.len() == 32)).ok_or("a point of the wrong length")?;
    let key = DecodingKey::from_ed_components(x).map_err(|_| "an unreadable point")?;
    Ok((vec![Algorithm::EdDsa], Material::Library(key)))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}
