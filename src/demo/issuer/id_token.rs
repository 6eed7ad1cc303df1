//! What the issuer says of a user: the ID token, and the same claims as `userinfo`.

use aws_lc_rs::error::Unspecified;
use serde_json::{Map, Value, json};

use super::code::Authorization;
use super::{State, User};
use crate::clock;

const LIFETIME_SECONDS: i64 = 3600;

/// OpenID Connect Core §2, with the header and claims of Logto's: it has no `typ`.
pub fn sign(
    state: &State,
    user: &User,
    authorization: &Authorization,
    scopes: &[String],
    nonce: Option<&str>,
) -> Result<String, Unspecified> {
    let now = clock::unix_now();
    let mut claims = claims(state, user, scopes);
    claims.insert("sid".to_owned(), Value::from(authorization.session.as_str()));
    claims.insert("aud".to_owned(), Value::from(authorization.client_id.as_str()));
    claims.insert("iss".to_owned(), Value::from(state.url.as_str()));
    claims.insert("iat".to_owned(), Value::from(now));
    claims.insert("exp".to_owned(), Value::from(now.saturating_add(LIFETIME_SECONDS)));
    claims.extend(nonce.map(|nonce| ("nonce".to_owned(), Value::from(nonce))));
    claims.extend(authorization.auth_time.map(|time| ("auth_time".to_owned(), Value::from(time))));
    let key = state.keys.current();
    key.sign(&json!({ "alg": key.algorithm.name(), "kid": key.kid }), &Value::Object(claims))
}

/// The claims that these scopes open (OpenID Connect Core §5.4).
pub fn claims(state: &State, user: &User, scopes: &[String]) -> Map<String, Value> {
    let mut claims = json!({ "sub": user.id });
    if scopes.iter().any(|scope| scope == "profile") {
        claims["name"] = Value::from(user.name.as_str());
        claims["preferred_username"] = Value::from(user.username.as_str());
        claims["username"] = Value::from(user.username.as_str());
        claims["picture"] = Value::Null;
        // In milliseconds, unlike those of the standard. The users are made up when the issuer starts.
        for name in ["created_at", "updated_at"] {
            claims[name] = Value::from(state.started_at.saturating_mul(1000));
        }
    }
    if scopes.iter().any(|scope| scope == "email") {
        claims["email"] = Value::from(user.email.as_str());
        claims["email_verified"] = Value::from(true);
    }
    match claims {
        Value::Object(claims) => claims,
        _ => Map::new(),
    }
}
