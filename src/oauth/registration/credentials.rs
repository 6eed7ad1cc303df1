//! The two tokens of registration: the one that an operator hands out, and the one with which an app changes itself. Both
//! are compared by their SHA-256 and in constant time.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::fill;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::policy::{Registration, Secret};

const TOKEN_BYTES: usize = 32;

/// A registration access token (RFC 7592 §3). Logto keeps the hash of it in the app that it is for, so that it outlives the
/// gate, counts at every replica, and ends with the app.
#[derive(Debug)]
pub struct AccessToken {
    pub secret: Secret,
    pub hash: String,
}

impl AccessToken {
    /// `None` if the system has no random numbers.
    pub fn fresh() -> Option<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        fill(&mut bytes).ok()?;
        let text = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        Some(Self { hash: hash(&text), secret: Secret::new(text) })
    }

    /// Whether it can be one at all: what cannot is not worth asking Logto about.
    pub fn is_possible(shown: &str) -> bool {
        BASE64_URL_SAFE_NO_PAD.decode(shown).is_ok_and(|bytes| bytes.len() == TOKEN_BYTES)
    }

    pub fn is_of(known: &str, shown: &str) -> bool {
        verify_slices_are_equal(known.as_bytes(), hash(shown).as_bytes()).is_ok()
    }
}

fn hash(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

/// Whether the operator handed it out. All are compared, whichever it is.
pub fn is_initial_access_token(registration: &Registration, shown: &str) -> bool {
    let shown = digest(&SHA256, shown.as_bytes());
    let equal = |known: &[u8; 32]| verify_slices_are_equal(known, shown.as_ref()).is_ok();
    registration.initial_access_tokens.iter().filter(|known| equal(known)).count() > 0
}

/// The token of the one `Authorization: Bearer`; `None` if there is none, or anything else.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (only, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let (one, other) = (AccessToken::fresh().unwrap(), AccessToken::fresh().unwrap());
        assert!(AccessToken::is_possible(one.secret.expose()) && AccessToken::is_of(&one.hash, one.secret.expose()));
        assert!(!AccessToken::is_of(&one.hash, other.secret.expose()) && !AccessToken::is_of(&one.hash, &one.hash));
        assert!(!AccessToken::is_of("", "") && !AccessToken::is_possible("") && !AccessToken::is_possible("../x"));
        assert!(!format!("{one:?}").contains(one.secret.expose()));
    }
}
