//! Who may call the Management API: who shows an access token of this issuer for it, with the scope `all`.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use crate::access::Claims;
use crate::clock;
use crate::demo::issuer::State;
use crate::demo::issuer::tenant::MANAGEMENT_API;
use crate::keys::{Algorithm, KeySet};

const KEYS_MAX: usize = 2;

pub fn authenticate(state: &State, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(header) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
        return Err(Refusal::unauthorized("auth.authorization_header_missing", "Authorization header is missing."));
    };
    let Some(token) = header.strip_prefix("Bearer ") else {
        let refusal = Refusal::unauthorized("auth.authorization_token_type_not_supported", "Authorization type is not supported.");
        return Err(refusal.with(json!({ "supportedTypes": ["Bearer"] })));
    };
    let claims = verify(state, token)?;
    let scope = claims.all.get("scope").and_then(Value::as_str).unwrap_or_default();
    match scope.split(' ').any(|scope| scope == "all") {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::FORBIDDEN, "auth.forbidden", "Forbidden. Please check your user roles and permissions.")),
    }
}

/// The claims of a token that is good here. Logto says why one is not with the words of its library, jose.
fn verify(state: &State, token: &str) -> Result<Claims, Refusal> {
    let malformed = || unauthorized(json!({ "code": "ERR_JWS_INVALID", "name": "JWSInvalid" }));
    let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
    let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
    let header = object(header).ok_or_else(malformed)?;
    let claims = object(payload).ok_or_else(malformed)?;
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::parse).ok_or_else(malformed)?;
    let kid = header.get("kid").and_then(Value::as_str);
    let keys = KeySet::parse(state.keys.published().to_string().as_bytes(), KEYS_MAX);
    let keys = keys.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "", "Internal server error."))?;
    let mut candidates = keys.candidates(kid, algorithm).peekable();
    if candidates.peek().is_none() {
        return Err(unauthorized(json!({ "code": "ERR_JWKS_NO_MATCHING_KEY", "name": "JWKSNoMatchingKey" })));
    }
    if !candidates.any(|key| key.verify(algorithm, signed, signature)) {
        let name = "JWSSignatureVerificationFailed";
        return Err(unauthorized(json!({ "code": "ERR_JWS_SIGNATURE_VERIFICATION_FAILED", "name": name })));
    }
    check(state, claims)
}

fn check(state: &State, claims: Map<String, Value>) -> Result<Claims, Refusal> {
    // Logto shows the whole payload beside it; nobody who learns from this issuer should count on that.
    let failed = |claim: &str, reason: &str| {
        let name = "JWTClaimValidationFailed";
        unauthorized(json!({ "code": "ERR_JWT_CLAIM_VALIDATION_FAILED", "name": name, "claim": claim, "reason": reason }))
    };
    if claims.get("sub").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(Refusal::unauthorized("auth.jwt_sub_missing", "Missing `sub` in JWT."));
    }
    let claims = Claims::parse(claims).map_err(|_| failed("unknown", "invalid"))?;
    if claims.issuer != state.url {
        return Err(failed("iss", "check_failed"));
    }
    if !claims.audiences.iter().any(|audience| audience == MANAGEMENT_API) {
        return Err(failed("aud", "check_failed"));
    }
    match claims.check_dates(clock::unix_now(), 0) {
        Ok(()) => Ok(claims),
        Err(_) => Err(unauthorized(json!({ "code": "ERR_JWT_EXPIRED", "name": "JWTExpired", "claim": "exp", "reason": "check_failed" }))),
    }
}

fn unauthorized(data: Value) -> Refusal {
    Refusal::unauthorized("auth.unauthorized", "Unauthorized. Please check credentials and its scope.").with(data)
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
