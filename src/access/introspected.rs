//! What the issuer says about an opaque token (RFC 7662 §2.2): an answer that is whole and whose claims are of their
//! types, or none.
//!
//! An answer belongs to the very token and the very settings that it was asked with, and counts for no others.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::claims::{self, Claims};
use super::denial::Denial;
use super::json;
use super::remembered::{Digest, Remembered, Verified};
use crate::clock::UnixSeconds;
use crate::policy::{Introspection, Scopes};

/// The outcome of asking about a token.
#[derive(Debug, Clone)]
pub enum Said {
    Answer {
        introspected: Arc<Introspected>,
        /// Whether it was asked for an earlier request.
        remembered: bool,
    },
    /// Nothing was said about the token, for this reason.
    Unavailable(&'static str),
    /// Too many questions already.
    Busy,
}

/// An answer about one token. `Err` where it was no yes, or a yes that cannot be taken.
#[derive(Debug)]
pub struct Introspected {
    token: Digest,
    stamp: [u8; 32],
    outcome: Result<Arc<Verified>, Denial>,
}

impl Introspected {
    /// Reads an answer. `Err` when it says nothing about the token, so that the token may well be good.
    pub fn parse(settings: &Introspection, token: &str, body: &[u8]) -> Result<Self, &'static str> {
        let answer = json::object(body).ok_or("an answer that is no JSON object")?;
        let outcome = match answer.get("active") {
            Some(Value::Bool(true)) => claims_of(settings, answer).map(|claims| Arc::new(Verified::new(claims, 0))),
            Some(Value::Bool(false)) => Err(Denial::TokenInactive),
            _ => return Err("an answer without a boolean active"),
        };
        Ok(Self { token: Remembered::digest(token), stamp: *settings.stamp(), outcome })
    }

    /// Whether the token is active and its claims can be taken.
    pub fn is_good(&self) -> bool {
        self.outcome.is_ok()
    }

    /// Whether the issuer said that the token is not active.
    pub fn is_inactive(&self) -> bool {
        self.outcome.as_ref().is_err_and(|denial| *denial == Denial::TokenInactive)
    }

    /// The end of a good token.
    pub fn expires_at(&self) -> Option<UnixSeconds> {
        self.outcome.as_ref().ok().map(|verified| verified.claims.expires_at)
    }

    pub(super) fn is_about(&self, token: &str, settings: &Introspection) -> bool {
        self.stamp == *settings.stamp() && self.token == Remembered::digest(token)
    }

    pub(super) fn outcome(&self) -> Result<Arc<Verified>, Denial> {
        self.outcome.clone()
    }
}

/// The claims of an active token. Without `token_type` it is none that grants access: Logto says of refresh tokens, too,
/// that they are active.
fn claims_of(settings: &Introspection, mut all: Map<String, Value>) -> Result<Claims, Denial> {
    match claims::text(&all, "iss")? {
        Some(issuer) if issuer == settings.issuer => {}
        Some(issuer) => return Err(Denial::IssuerUnknown { found: issuer.to_owned() }),
        // It is known who was asked, and the upstream is told as it is of any other token.
        None => drop(all.insert("iss".to_owned(), settings.issuer.clone().into())),
    }
    let token_type = claims::text(&all, "token_type")?.unwrap_or_default();
    if !token_type.eq_ignore_ascii_case("Bearer") {
        return Err(Denial::TokenTypeWrong { found: token_type.to_owned() });
    }
    let bound_to = claims::bound_to(&all)?;
    // Optional in RFC 7662; an upstream may rely on it that each identity has one.
    let subject = claims::text(&all, "sub")?.filter(|sub| !sub.is_empty()).ok_or(Denial::ClaimMalformed("no sub"))?.to_owned();
    let scopes = claims::text(&all, "scope")?.map(Scopes::parse).unwrap_or_default();
    for name in ["username", "jti"] {
        claims::text(&all, name)?;
    }
    let audiences = if all.contains_key("aud") { claims::audiences(&all)? } else { Vec::new() };
    // Without one it ends when its answer is too old.
    let expires_at = claims::date(&all, "exp")?.unwrap_or(UnixSeconds::MAX);
    let (not_before, issued_at) = (claims::date(&all, "nbf")?, claims::date(&all, "iat")?);
    let client_id = claims::text(&all, "client_id")?.map(str::to_owned);
    all.retain(|name, _| settings.claims.contains(name));
    Ok(Claims { issuer: settings.issuer.clone(), subject, audiences, expires_at, not_before, issued_at, client_id, scopes, bound_to, all })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, header};
    use serde_json::json;

    use super::super::{Head, Snapshot, Verdict, decide, decide_with, unasked_token};
    use super::*;
    use crate::config::Document;
    use crate::keys::{KeyState, Keyring};
    use crate::policy::compile;

    const NOW: UnixSeconds = 1_700_000_000;
    const TOKEN: &str = "BtznzKXCn4ufy4stb7GmR809hwN6yC6wddF_bQMtBcy";

    fn gate(more: &str) -> Snapshot {
        let text = format!(
            "issuer: https://i.example\nservices:\n  - name: a\n    resource: https://a.example\n    upstream: http://127.0.0.1:1\n    \
             introspection: {{ client_id: gate, client_secret: hunter2{more} }}\n    headers: {{ X-Sub: sub, X-Iss: iss, X-Scope: scope, X-Tier: tier }}\n    \
             routes: {{ GET /me: authenticated, GET /read: read }}\n"
        );
        let config = Document::read(&text, &|_| None).config.expect("a document");
        let policy = compile(&config, String::new(), &|_| Err(String::new())).expect("a policy");
        Snapshot::new(Arc::new(policy), Keyring(vec![KeyState::default()]), Arc::new(Remembered::new(0)))
    }

    fn settings(gate: &Snapshot) -> &Introspection {
        gate.policy.services[0].introspection.as_ref().expect("introspection")
    }

    fn said(gate: &Snapshot, token: &str, body: &str) -> Said {
        match Introspected::parse(settings(gate), token, body.as_bytes()) {
            Ok(introspected) => Said::Answer { introspected: Arc::new(introspected), remembered: false },
            Err(why) => Said::Unavailable(why),
        }
    }

    /// The headers for the upstream, or the code of the refusal.
    fn decided(gate: &Snapshot, path: &str, said: Option<&Said>) -> Result<Vec<(String, String)>, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {TOKEN}")).expect("a header"));
        let head = Head {
            method: &Method::GET,
            host: "a.example",
            path,
            query: None,
            headers: &headers,
            websocket: false,
            plain: false,
            certificate: None,
        };
        let verdict = match said {
            Some(said) => decide_with(gate, &head, said, NOW),
            None => decide(gate, &head, NOW),
        };
        assert_eq!(unasked_token(&verdict, &head).is_some(), said.is_none());
        match verdict {
            Ok(Verdict::Forward(permit)) => {
                let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
                Ok(permit.headers().map(|(name, value)| (name.to_string(), text(value))).collect())
            }
            Ok(Verdict::Metadata { .. } | Verdict::Preflight { .. } | Verdict::Webhook | Verdict::Own { .. }) => Err("metadata"),
            Err(refusal) => Err(refusal.denial.row().code),
        }
    }

    /// What a good answer with these changes leads to.
    fn with(gate: &Snapshot, path: &str, changes: &Value) -> Result<(), &'static str> {
        let mut answer = json!({
            "active": true, "sub": "u", "client_id": "c", "exp": NOW + 60, "iat": NOW, "iss": "https://i.example", "scope": "read",
            "token_type": "Bearer", "aud": "https://a.example",
        });
        for (name, value) in changes.as_object().expect("changes") {
            match value.as_str() {
                Some("DROP") => drop(answer.as_object_mut().expect("an answer").remove(name)),
                _ => answer[name] = value.clone(),
            }
        }
        decided(gate, path, Some(&said(gate, TOKEN, &answer.to_string()))).map(drop)
    }

    #[test]
    fn nothing_is_let_through_before_the_issuer_was_asked() {
        let gate = gate("");
        assert_eq!(decided(&gate, "/me", None), Err("introspection_unavailable"));
        assert_eq!(decided(&gate, "/me", Some(&Said::Unavailable("away"))), Err("introspection_unavailable"));
        assert_eq!(decided(&gate, "/me", Some(&Said::Busy)), Err("introspection_busy"));
    }

    #[test]
    fn an_answer_is_whole_and_of_its_types_or_the_token_is_refused() {
        let gate = gate("");
        let good = [
            json!({}),
            json!({ "token_type": "bearer" }),
            json!({ "aud": ["x", "https://a.example"] }),
            json!({ "iss": "DROP" }),
            json!({ "exp": "DROP" }),
            json!({ "iat": "DROP" }),
            json!({ "client_id": "DROP" }),
            json!({ "username": "Ana", "jti": "1", "nbf": NOW }),
            json!({ "tier": { "gold": [1] }, "anything": null }),
        ];
        for changes in good {
            assert_eq!(with(&gate, "/read", &changes), Ok(()), "{changes}");
        }
        let table = [
            (json!({ "active": false }), "token_inactive"),
            (json!({ "active": "true" }), "introspection_unavailable"),
            (json!({ "active": 1 }), "introspection_unavailable"),
            (json!({ "active": null }), "introspection_unavailable"),
            (json!({ "active": "DROP" }), "introspection_unavailable"),
            (json!({ "token_type": "DROP" }), "token_type_wrong"),
            (json!({ "token_type": "" }), "token_type_wrong"),
            (json!({ "token_type": "DPoP" }), "token_type_wrong"),
            (json!({ "token_type": "refresh_token" }), "token_type_wrong"),
            (json!({ "token_type": ["Bearer"] }), "claim_malformed"),
            (json!({ "token_type": null }), "claim_malformed"),
            (json!({ "iss": "https://i.example/" }), "issuer_unknown"),
            (json!({ "iss": "https://other.example" }), "issuer_unknown"),
            (json!({ "iss": ["https://i.example"] }), "claim_malformed"),
            (json!({ "sub": "DROP" }), "claim_malformed"),
            (json!({ "sub": "" }), "claim_malformed"),
            (json!({ "sub": 5 }), "claim_malformed"),
            (json!({ "client_id": 5 }), "claim_malformed"),
            (json!({ "username": {} }), "claim_malformed"),
            (json!({ "jti": 1 }), "claim_malformed"),
            (json!({ "exp": NOW - 30 }), "expired"),
            (json!({ "exp": 0 }), "expired"),
            (json!({ "exp": "99999999999" }), "claim_malformed"),
            (json!({ "exp": null }), "claim_malformed"),
            (json!({ "exp": 1_700_000_060.5 }), "claim_malformed"),
            (json!({ "nbf": NOW + 31 }), "not_yet_valid"),
            (json!({ "nbf": true }), "claim_malformed"),
            (json!({ "iat": NOW + 31 }), "issued_in_future"),
            (json!({ "iat": [] }), "claim_malformed"),
            (json!({ "aud": "DROP" }), "audience_wrong"),
            (json!({ "aud": null }), "claim_malformed"),
            (json!({ "aud": [5] }), "claim_malformed"),
            (json!({ "aud": [] }), "audience_wrong"),
            (json!({ "aud": "https://a.example/" }), "audience_wrong"),
            (json!({ "aud": "https://b.example" }), "audience_wrong"),
            (json!({ "scope": ["read"] }), "claim_malformed"),
            (json!({ "scope": null }), "claim_malformed"),
            (json!({ "scope": "DROP" }), "scope_missing"),
            (json!({ "scope": "reads" }), "scope_missing"),
            (json!({ "cnf": { "jkt": "x" } }), "sender_constrained"),
        ];
        for (changes, code) in table {
            assert_eq!(with(&gate, "/read", &changes), Err(code), "{changes}");
        }
        for nonsense in ["", "{", "[]", "true", "null", "<html>", "{\"active\":true,\"active\":true}", "{\"active\":true}x"] {
            assert_eq!(decided(&gate, "/me", Some(&said(&gate, TOKEN, nonsense))), Err("introspection_unavailable"), "{nonsense}");
        }
    }

    #[test]
    fn an_answer_without_audience_counts_only_where_the_operator_says_so() {
        let (required, if_present) = (gate(""), gate(", audience: if_present"));
        let table = [
            (json!({ "aud": "DROP" }), Err("audience_wrong"), Ok(())),
            (json!({ "aud": "https://b.example" }), Err("audience_wrong"), Err("audience_wrong")),
            (json!({ "aud": [] }), Err("audience_wrong"), Err("audience_wrong")),
            (json!({ "aud": null }), Err("claim_malformed"), Err("claim_malformed")),
            (json!({}), Ok(()), Ok(())),
        ];
        for (changes, strict, lax) in table {
            assert_eq!((with(&required, "/me", &changes), with(&if_present, "/me", &changes)), (strict, lax), "{changes}");
        }
    }

    /// GHSA-4mq7-pvjg-xp2r and its like: an answer found under the wrong key gives somebody else's identity.
    #[test]
    fn an_answer_counts_for_its_token_and_its_settings_alone() {
        let gate = gate("");
        let body = json!({ "active": true, "sub": "u", "token_type": "Bearer", "aud": "https://a.example" }).to_string();
        assert!(decided(&gate, "/me", Some(&said(&gate, TOKEN, &body))).is_ok());
        assert_eq!(decided(&gate, "/me", Some(&said(&gate, "another", &body))), Err("introspection_unavailable"));
        for other in [", max_age: 1s", ", auth: post", ", endpoint: 'https://i.example/i'", ", per_second: 7"] {
            let other = super::tests::gate(other);
            assert_eq!(decided(&gate, "/me", Some(&said(&other, TOKEN, &body))), Err("introspection_unavailable"));
        }
    }

    /// Limits by organization and the audit trail look for them, whatever the headers name.
    #[test]
    fn who_acts_and_for_which_organization_is_kept() {
        let gate = gate("");
        let body = json!({ "active": true, "sub": "u", "token_type": "Bearer", "aud": "https://a.example", "organization_id": "o", "act": { "sub": "a" } });
        let Said::Answer { introspected, .. } = said(&gate, TOKEN, &body.to_string()) else { panic!("an answer") };
        let kept = introspected.outcome().expect("claims");
        assert_eq!((&kept.claims.all["organization_id"], &kept.claims.all["act"]), (&json!("o"), &json!({ "sub": "a" })));
    }

    #[test]
    fn the_upstream_is_told_what_the_configuration_names_and_nothing_else_is_kept() {
        let gate = gate("");
        let body = json!({
            "active": true, "sub": "u", "token_type": "Bearer", "aud": "https://a.example", "tier": "gold", "secret": "x".repeat(5000),
        });
        let said = said(&gate, TOKEN, &body.to_string());
        let told = decided(&gate, "/me", Some(&said)).expect("a permit");
        let told: Vec<(&str, &str)> = told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(told, [("x-sub", "u"), ("x-iss", "https://i.example"), ("x-tier", "gold")]);
        let Said::Answer { introspected, .. } = said else { panic!("an answer") };
        let kept = introspected.outcome().expect("claims");
        assert!(!kept.claims.all.contains_key("secret") && !kept.claims.all.contains_key("active"));
    }
}
