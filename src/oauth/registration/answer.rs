//! What a client reads of its registration (RFC 7591 §3.2.1, RFC 7592 §3): what is registered, not what was asked for.

use serde_json::{Value, json};

use super::refusal::Refusal;
use crate::clock::UnixSeconds;
use crate::policy::{Registration, Secret};

/// A registered app, as its client may know it.
#[derive(Debug)]
pub struct Registered {
    pub client_id: String,
    pub issued_at: UnixSeconds,
    pub name: String,
    pub redirect_uris: Vec<String>,
    pub auth_method: String,
    pub grant_types: Vec<String>,
    pub scope: String,
    pub native: bool,
    /// Shown once, when it was made.
    pub client_secret: Option<Secret>,
    pub access_token: Option<Secret>,
}

/// The body of a good answer.
pub fn answer(registration: &Registration, registered: &Registered) -> Vec<u8> {
    let Registered { client_id, issued_at, name, redirect_uris, auth_method, grant_types, scope, native, client_secret, access_token } =
        registered;
    let mut body = json!({
        "client_id": client_id,
        "client_id_issued_at": issued_at,
        "registration_client_uri": format!("{}/{client_id}", registration.endpoint),
        "client_name": name,
        "redirect_uris": redirect_uris,
        "token_endpoint_auth_method": auth_method,
        "grant_types": grant_types,
        "response_types": ["code"],
        "scope": scope,
        "application_type": if *native { "native" } else { "web" },
    });
    if let Some(secret) = client_secret {
        body["client_secret"] = secret.expose().into();
        // For as long as the app is there.
        body["client_secret_expires_at"] = 0.into();
    }
    if let Some(token) = access_token {
        body["registration_access_token"] = token.expose().into();
    }
    body.to_string().into_bytes()
}

/// The body of a refusal (RFC 7591 §3.2.2), with what the gate's other refusals have beside it.
pub fn describe(refusal: Refusal, request_id: &str) -> Value {
    let row = refusal.row();
    json!({ "error": row.error, "error_description": refusal.description(), "code": row.code, "request_id": request_id })
}
