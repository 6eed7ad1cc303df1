//! Step 6. The claims: each of the type that RFC 7519 and RFC 9068 give it, and valid now.

use serde_json::{Map, Value};

use super::certificate::ClientCertificate;
use super::denial::Denial;
use crate::clock::UnixSeconds;
use crate::policy::Scopes;

/// The claims of an access token, typed. What is not typed here stays in `all`.
#[derive(Debug)]
pub struct Claims {
    pub issuer: String,
    pub subject: String,
    pub audiences: Vec<String>,
    pub expires_at: UnixSeconds,
    pub not_before: Option<UnixSeconds>,
    pub issued_at: Option<UnixSeconds>,
    pub client_id: Option<String>,
    pub scopes: Scopes,
    /// The SHA-256 of the only client certificate with which the token counts (RFC 8705 §3.1).
    pub bound_to: Option<String>,
    pub all: Map<String, Value>,
}

impl Claims {
    pub fn parse(all: Map<String, Value>) -> Result<Self, Denial> {
        let issuer = text(&all, "iss")?.ok_or(Denial::ClaimMalformed("no iss"))?;
        let subject = text(&all, "sub")?.filter(|sub| !sub.is_empty()).ok_or(Denial::ClaimMalformed("no sub"))?;
        let expires_at = date(&all, "exp")?.ok_or(Denial::ClaimMalformed("no exp"))?;
        Ok(Self {
            audiences: audiences(&all)?,
            not_before: date(&all, "nbf")?,
            issued_at: date(&all, "iat")?,
            client_id: text(&all, "client_id")?.map(str::to_owned),
            scopes: scopes(&all)?,
            bound_to: bound_to(&all)?,
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            expires_at,
            all,
        })
    }

    /// Whether the token is valid now (RFC 7519 §4.1.4 to §4.1.6), clocks differing by `leeway` seconds at most.
    pub fn check_dates(&self, now: UnixSeconds, leeway: i64) -> Result<(), Denial> {
        let expired = now.saturating_sub(self.expires_at.saturating_add(leeway));
        if expired >= 0 {
            return Err(Denial::Expired { seconds: now.saturating_sub(self.expires_at) });
        }
        let ahead = |date: Option<UnixSeconds>| date.map(|date| date.saturating_sub(now)).filter(|ahead| *ahead > leeway);
        if let Some(seconds) = ahead(self.not_before) {
            return Err(Denial::NotYetValid { seconds });
        }
        match ahead(self.issued_at) {
            Some(seconds) => Err(Denial::IssuedInFuture { seconds }),
            None => Ok(()),
        }
    }

    /// Whether the token is for one of these resources, code point by code point (RFC 9068 §4).
    pub fn check_audience(&self, ours: &[String]) -> Result<(), Denial> {
        match self.audiences.iter().any(|audience| ours.contains(audience)) {
            true => Ok(()),
            false => Err(Denial::AudienceWrong { found: self.audiences.join(" ") }),
        }
    }

    /// Whether the client showed the certificate that the token is bound to, if it is bound to one (RFC 8705 §3).
    pub fn check_binding(&self, shown: Option<&ClientCertificate>) -> Result<(), Denial> {
        match &self.bound_to {
            Some(bound) if shown.is_none_or(|shown| shown.thumbprint != *bound) => Err(Denial::TokenCertificateWrong),
            Some(_) | None => Ok(()),
        }
    }
}

/// The certificate that a token is bound to. One that is bound to anything else (RFC 7800) is no bearer token, and nothing
/// here could check it (RFC 9449 §7.2).
pub(super) fn bound_to(all: &Map<String, Value>) -> Result<Option<String>, Denial> {
    let Some(confirmation) = all.get("cnf") else { return Ok(None) };
    let only = confirmation.as_object().filter(|members| members.len() == 1);
    let thumbprint = only.and_then(|members| members.get("x5t#S256")?.as_str());
    thumbprint.map(|text| Some(text.to_owned())).ok_or(Denial::SenderConstrained)
}

pub(super) fn text<'c>(all: &'c Map<String, Value>, name: &'static str) -> Result<Option<&'c str>, Denial> {
    match all.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Denial::ClaimMalformed(name)),
    }
}

/// A NumericDate in whole seconds. A text, a fraction or a null is an error, never "absent".
pub(super) fn date(all: &Map<String, Value>, name: &'static str) -> Result<Option<UnixSeconds>, Denial> {
    match all.get(name) {
        None => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or(Denial::ClaimMalformed(name)),
    }
}

pub(super) fn audiences(all: &Map<String, Value>) -> Result<Vec<String>, Denial> {
    let malformed = Denial::ClaimMalformed("aud");
    match all.get("aud") {
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(many)) => many.iter().map(|one| one.as_str().map(str::to_owned).ok_or(malformed.clone())).collect(),
        _ => Err(malformed),
    }
}

/// Space-separated text (RFC 9068 §2.2.3) or an array of texts. Absent means none: Logto leaves it out then.
fn scopes(all: &Map<String, Value>) -> Result<Scopes, Denial> {
    let scopes = match all.get("scope") {
        None => Some(Scopes::default()),
        Some(Value::String(text)) => Some(Scopes::parse(text)),
        Some(Value::Array(names)) => names.iter().map(Value::as_str).collect::<Option<Vec<&str>>>().map(Scopes::from_list),
        Some(_) => None,
    };
    scopes.ok_or(Denial::ClaimMalformed("scope"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: UnixSeconds = 1_700_000_000;

    fn with(changes: Value) -> Result<(), &'static str> {
        let mut claims = json!({ "iss": "https://i", "sub": "u", "aud": "https://a", "exp": NOW + 60, "iat": NOW, "scope": "a b" });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::String(text) if text == "DROP" => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        let code = |denial: Denial| denial.row().code;
        let claims = Claims::parse(claims.as_object().unwrap().clone()).map_err(code)?;
        claims.check_dates(NOW, 30).map_err(code)?;
        claims.check_audience(&["https://a".to_owned(), "https://b".to_owned()]).map_err(code)
    }

    #[test]
    fn a_claim_is_of_its_type_or_the_token_is_refused() {
        let good = [
            json!({}),
            json!({ "aud": ["x", "https://b"] }),
            json!({ "scope": ["a", "b"] }),
            json!({ "scope": "DROP" }),
            json!({ "iat": "DROP" }),
            json!({ "nbf": NOW + 30 }),
            json!({ "exp": NOW - 29 }),
            json!({ "iat": NOW + 30 }),
        ];
        for changes in good {
            assert_eq!(with(changes.clone()), Ok(()), "{changes}");
        }
        let table = [
            (json!({ "iss": "DROP" }), "claim_malformed"),
            (json!({ "iss": ["https://i"] }), "claim_malformed"),
            (json!({ "sub": "DROP" }), "claim_malformed"),
            (json!({ "sub": ["u"] }), "claim_malformed"),
            (json!({ "sub": null }), "claim_malformed"),
            (json!({ "sub": "" }), "claim_malformed"),
            (json!({ "aud": "DROP" }), "claim_malformed"),
            (json!({ "aud": 5 }), "claim_malformed"),
            (json!({ "aud": [1, "https://a"] }), "claim_malformed"),
            (json!({ "aud": [["https://a"]] }), "claim_malformed"),
            (json!({ "aud": [] }), "audience_wrong"),
            (json!({ "aud": "https://a/" }), "audience_wrong"),
            (json!({ "aud": "HTTPS://a" }), "audience_wrong"),
            (json!({ "aud": ["x"] }), "audience_wrong"),
            (json!({ "exp": "DROP" }), "claim_malformed"),
            (json!({ "exp": "99999999999" }), "claim_malformed"),
            (json!({ "exp": null }), "claim_malformed"),
            (json!({ "exp": [NOW] }), "claim_malformed"),
            (json!({ "exp": 1e300 }), "claim_malformed"),
            (json!({ "exp": 1_700_000_060.5 }), "claim_malformed"),
            (json!({ "exp": u64::MAX }), "claim_malformed"),
            (json!({ "exp": -1 }), "expired"),
            (json!({ "exp": i64::MIN }), "expired"),
            (json!({ "exp": NOW - 30 }), "expired"),
            (json!({ "nbf": NOW + 31 }), "not_yet_valid"),
            (json!({ "nbf": i64::MAX }), "not_yet_valid"),
            (json!({ "nbf": "1" }), "claim_malformed"),
            (json!({ "iat": NOW + 31 }), "issued_in_future"),
            (json!({ "iat": true }), "claim_malformed"),
            (json!({ "scope": {} }), "claim_malformed"),
            (json!({ "scope": [1] }), "claim_malformed"),
            (json!({ "client_id": 5 }), "claim_malformed"),
            (json!({ "cnf": { "jkt": "x" } }), "sender_constrained"),
            (json!({ "cnf": { "jkt": "x", "x5t#S256": "y" } }), "sender_constrained"),
            (json!({ "cnf": { "x5t#S256": 5 } }), "sender_constrained"),
            (json!({ "cnf": {} }), "sender_constrained"),
            (json!({ "cnf": null }), "sender_constrained"),
        ];
        for (changes, code) in table {
            assert_eq!(with(changes.clone()), Err(code), "{changes}");
        }
    }
}
