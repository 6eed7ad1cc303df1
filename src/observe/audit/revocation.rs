//! What is recorded of a revocation: who ended or gave back whose tokens.

use serde::Serialize;

use super::Kind;
use crate::access::Revokes;

/// It is recorded whatever `audit.records` says: it decides on every request that follows.
#[derive(Debug, Serialize)]
pub struct Revocation<'r> {
    /// `revoked` or `lifted`; of a webhook `suspended`, `unsuspended` or `deleted`.
    change: &'static str,
    /// `operator` or `webhook`.
    by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Agent<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'r str>,
}

#[derive(Debug, Serialize)]
struct User<'r> {
    sub: &'r str,
}

#[derive(Debug, Serialize)]
struct Agent<'r> {
    client_id: &'r str,
}

impl Kind for Revocation<'_> {
    const NAME: &'static str = "revocation";
}

impl<'r> Revocation<'r> {
    pub fn by_operator(change: &'static str, id: &'r str, revokes: &'r Revokes) -> Self {
        let (sub, client_id, jti) = match revokes {
            Revokes::Subject(sub) => (Some(sub), None, None),
            Revokes::Client(client) => (None, Some(client), None),
            Revokes::Grant { subject, client } => (Some(subject), Some(client), None),
            Revokes::Token(jti) => (None, None, Some(jti)),
        };
        Self {
            change,
            by: "operator",
            id: Some(id),
            user: sub.map(|sub| User { sub }),
            agent: client_id.map(|client_id| Agent { client_id }),
            jti: jti.map(String::as_str),
        }
    }

    pub fn by_webhook(change: &'static str, user: &'r str) -> Self {
        Self { change, by: "webhook", id: None, user: Some(User { sub: user }), agent: None, jti: None }
    }
}
