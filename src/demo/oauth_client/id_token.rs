//! Who signed in, as the issuer says (OpenID Connect Core 1.0 §3.1.3.7).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use super::{Trouble, said};
use crate::clock::UnixSeconds;

const LEEWAY_SECONDS: i64 = 60;

/// Somebody who signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The issuer's id for them.
    pub subject: String,
    /// If the client may know it.
    pub name: Option<String>,
}

/// Checks an ID token that came straight from the token endpoint. Its signature need not be checked then: whoever could
/// forge the answer of the endpoint could forge the keys as well (§3.1.3.7, item 6).
pub fn check(token: &str, issuer: &str, client_id: &str, nonce: &str, now: UnixSeconds) -> Result<Person, Trouble> {
    let payload = token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<Value> = payload.and_then(|payload| serde_json::from_slice(&payload).ok());
    let claims = claims.ok_or_else(|| Trouble::distrusted("the ID token cannot be read"))?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(issuer) {
        return Err(Trouble::distrusted("the ID token is of another issuer"));
    }
    let is_for_us = match claims.get("aud") {
        Some(Value::String(audience)) => audience == client_id,
        // With several audiences, the one that it was made for is named apart.
        Some(Value::Array(audiences)) => {
            audiences.iter().any(|audience| audience == client_id) && (audiences.len() == 1 || text("azp") == Some(client_id))
        }
        _ => false,
    };
    if !is_for_us {
        return Err(Trouble::distrusted("the ID token is for another client"));
    }
    if text("nonce") != Some(nonce) {
        return Err(Trouble::distrusted("the ID token belongs to another sign-in"));
    }
    if claims.get("exp").and_then(Value::as_i64).is_none_or(|end| end.saturating_add(LEEWAY_SECONDS) <= now) {
        return Err(Trouble::distrusted("the ID token is expired"));
    }
    let subject = text("sub").filter(|subject| !subject.is_empty()).ok_or_else(|| Trouble::distrusted("the ID token names nobody"))?;
    let name = ["name", "username", "preferred_username"].into_iter().find_map(text);
    Ok(Person { subject: subject.to_owned(), name: name.map(said) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(change: Value) -> Result<Person, Trouble> {
        let mut claims = json!({ "iss": "https://id.example", "aud": "bot", "nonce": "n", "exp": 1000, "sub": "alice" });
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
        check(&token, "https://id.example", "bot", "n", 1000)
    }

    #[test]
    fn an_id_token_is_for_this_client_this_sign_in_and_this_hour() {
        assert_eq!(checked(json!({})).unwrap(), Person { subject: "alice".to_owned(), name: None });
        assert_eq!(checked(json!({ "aud": ["bot"], "name": "Alice" })).unwrap().name.as_deref(), Some("Alice"));
        assert!(checked(json!({ "aud": ["bot", "b"], "azp": "bot" })).is_ok());
        for wrong in [
            json!({ "iss": "https://evil.example" }),
            json!({ "aud": "another" }),
            json!({ "aud": ["bot", "another"] }),
            json!({ "aud": null }),
            json!({ "nonce": "another" }),
            json!({ "nonce": null }),
            json!({ "exp": 940 }),
            json!({ "exp": "1000" }),
            json!({ "sub": "" }),
        ] {
            assert!(checked(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(check("opaque", "https://id.example", "bot", "n", 0).is_err());
    }
}
