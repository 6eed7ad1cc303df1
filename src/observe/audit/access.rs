//! The record of one decision: who asked, through which agent, for what, and what came of it.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Kind;
use crate::access::Claims;
use crate::policy::{Requirement, ScopeRule};

/// Actors of a chain that are shown; a longer one says so.
const ACTORS_MAX: usize = 8;

/// What is not known is not there. Nothing else of a token is, and nothing of one that was not verified.
#[derive(Debug, Serialize)]
pub struct Access<'r> {
    pub request_id: &'r str,
    pub config_hash: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'r str>,
    pub method: &'r str,
    pub path: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    pub decision: &'static str,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<&'r str>,
    pub scopes: Scopes<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<&'r str>,
}

/// On whose behalf.
#[derive(Debug, Serialize)]
pub struct User<'r> {
    pub sub: &'r str,
    pub iss: &'r str,
}

/// Through which client.
#[derive(Debug, Serialize)]
pub struct Agent<'r> {
    pub client_id: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'r str>,
}

/// Who acts, and who acted before (RFC 8693 §4.1).
#[derive(Debug, Serialize)]
pub struct Actor<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Actor<'r>>>,
    /// There are more than are shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// What the route asks for, and what the token has.
#[derive(Debug, Default, Serialize)]
pub struct Scopes<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<Required<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted: Option<Vec<&'r str>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Required<'r> {
    All(&'r [String]),
    Any(&'r [String]),
}

impl Kind for Access<'_> {
    const NAME: &'static str = "access";

    fn is_refusal(&self) -> bool {
        matches!(self.decision, "denied" | "reported" | "failed")
    }
}

impl<'r> Access<'r> {
    /// What a verified token says of who is calling.
    pub fn identify(&mut self, claims: &'r Claims, client_name: Option<&'r str>) {
        let text = |name| claims.all.get(name).and_then(Value::as_str);
        self.user = Some(User { sub: &claims.subject, iss: &claims.issuer });
        self.agent = claims.client_id.as_deref().map(|client_id| Agent { client_id, name: client_name });
        self.act = claims.all.get("act").and_then(Value::as_object).map(|act| actor(act, ACTORS_MAX - 1));
        self.organization_id = text("organization_id");
        self.jti = text("jti");
        self.scopes.granted = Some(claims.scopes.iter().collect());
    }
}

fn actor(act: &Map<String, Value>, more: usize) -> Actor<'_> {
    let text = |name| act.get(name).and_then(Value::as_str);
    let inner = act.get("act").and_then(Value::as_object);
    Actor {
        sub: text("sub"),
        iss: text("iss"),
        client_id: text("client_id"),
        act: inner.filter(|_| more > 0).map(|inner| Box::new(actor(inner, more - 1))),
        cut: inner.is_some() && more == 0,
    }
}

/// The scopes that a route asks for; an empty list where any valid token will do.
pub fn required(requirement: &Requirement) -> Option<Required<'_>> {
    let Requirement::Token(rules) = requirement else { return None };
    Some(match &rules.scopes {
        ScopeRule::Any(named) => Required::Any(named),
        ScopeRule::All(_) | ScopeRule::None => Required::All(rules.scopes.named()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_chain_of_actors_is_shown_to_a_depth_and_without_other_claims() {
        let shown = |act: &Value| serde_json::to_value(actor(act.as_object().unwrap(), ACTORS_MAX - 1)).unwrap();
        let act = json!({ "sub": "a", "client_id": "c", "email": "a@example.com", "act": { "sub": "b", "iss": "https://i", "x": {} } });
        let expected = json!({ "sub": "a", "client_id": "c", "act": { "sub": "b", "iss": "https://i" } });
        assert_eq!(shown(&act), expected);
        assert_eq!(shown(&json!({ "sub": 5, "act": "b" })), json!({}));

        let mut deep = json!({ "sub": "0" });
        for i in 1..20 {
            deep = json!({ "sub": i.to_string(), "act": deep });
        }
        let text = shown(&deep).to_string();
        assert_eq!((text.matches("sub").count(), text.matches("\"cut\":true").count()), (ACTORS_MAX, 1), "{text}");
    }
}
