//! `/revocations` of the admin listener: revoke, list, lift. It is as open as that listener is, to everybody but browsers.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{AdminView, typed};
use super::audit::Revocation as RevocationAudit;
use crate::access::{Revocation, RevokedBy, Revokes};
use crate::clock::{self, UnixSeconds};

pub const PATH: &str = "/revocations";

const BODY_BYTES_MAX: usize = 16 << 10;
/// Of a name in it: as long as Logto's column for a `client_id`.
const NAME_BYTES_MAX: usize = 2048;
/// Shown in one answer; the rest is counted.
const LISTED_MAX: usize = 1000;
/// How far a given time may lie ahead.
const AHEAD_SECONDS_MAX: i64 = 300;

/// What is to be revoked. `sub` and `client_id` together are a user's grant to an app.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wish {
    sub: Option<String>,
    client_id: Option<String>,
    jti: Option<String>,
    iss: Option<String>,
    /// Tokens that were issued then or before; now by default.
    issued_before: Option<UnixSeconds>,
    /// Tokens that are issued later, too.
    later_too: bool,
    /// Seconds; as long as a token may live by default.
    expires_in: Option<i64>,
}

pub async fn answer(request: Request<Incoming>, view: &dyn AdminView) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let id = path.strip_prefix(PATH).and_then(|rest| rest.strip_prefix('/'));
    match (request.method().clone(), id) {
        (Method::GET | Method::HEAD, None) => list(view),
        (Method::POST, None) => match wish(request).await {
            Ok(wish) => revoke(wish, view).await,
            Err(refusal) => refusal,
        },
        (Method::DELETE, Some(id)) => match is_browser(request.headers()) {
            true => refused(StatusCode::FORBIDDEN, "not from a browser"),
            false => lift(id, view).await,
        },
        (_, id) => {
            let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "GET and POST /revocations, DELETE /revocations/ID");
            let allow = if id.is_some() { "DELETE" } else { "GET, HEAD, POST" };
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            response
        }
    }
}

/// A browser says where a page that writes is from; nobody else does. What it may not send unasked is JSON, so that a
/// page of another site cannot reach this far either way.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN)
}

async fn wish(request: Request<Incoming>) -> Result<Wish, Response<Full<Bytes>>> {
    if is_browser(request.headers()) {
        return Err(refused(StatusCode::FORBIDDEN, "not from a browser"));
    }
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json"));
    }
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let too_large = || refused(StatusCode::PAYLOAD_TOO_LARGE, "too large");
    if declared.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await.map_err(|_| too_large())?;
    // The reason would quote the body.
    serde_json::from_slice(&body.to_bytes()).map_err(|_| {
        let cure = "an object with sub, client_id or both, or jti; and iss, issued_before, later_too, expires_in if you like";
        refused(StatusCode::BAD_REQUEST, cure)
    })
}

async fn revoke(wish: Wish, view: &dyn AdminView) -> Response<Full<Bytes>> {
    let now = clock::unix_now();
    let revocation = match revocation(wish, now, view.revocations().token_life()) {
        Ok(revocation) => revocation,
        Err(reason) => return refused(StatusCode::BAD_REQUEST, reason),
    };
    match view.revocations().put(revocation).await {
        Ok(taken) => {
            let id = taken.revocation.id();
            tracing::info!(target: "wicketgate::revocation", id, by = "operator", shared = taken.shared, "revoked");
            view.audit().write(&RevocationAudit::by_operator("revoked", &id, &taken.revocation.revokes), clock::wall_now());
            let mut shown = shown(&taken.revocation);
            if let Some(shared) = taken.shared {
                shown["shared"] = json!(shared);
            }
            json_answer(StatusCode::CREATED, &shown)
        }
        Err(_) => {
            view.metrics().revocations.refused.inc();
            tracing::error!(target: "wicketgate::revocation", "no room for a revocation: raise revocations.entries, or lift some");
            refused(StatusCode::INSUFFICIENT_STORAGE, "no room: raise revocations.entries, or lift some; NOTHING was revoked")
        }
    }
}

fn revocation(wish: Wish, now: UnixSeconds, token_life: i64) -> Result<Revocation, &'static str> {
    let Wish { sub, client_id, jti, iss, issued_before, later_too, expires_in } = wish;
    let is_unfit = |name: &Option<String>| name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX);
    if [&sub, &client_id, &jti, &iss].into_iter().any(is_unfit) {
        return Err("an empty name, or one that is too long");
    }
    let revokes = match (sub, client_id, jti) {
        (Some(subject), None, None) => Revokes::Subject(subject),
        (None, Some(client), None) => Revokes::Client(client),
        (Some(subject), Some(client), None) => Revokes::Grant { subject, client },
        (None, None, Some(jti)) => Revokes::Token(jti),
        _ => return Err("name sub, client_id or both, or jti alone"),
    };
    let revoked_at = issued_before.unwrap_or(now);
    if revoked_at < 0 || revoked_at > now.saturating_add(AHEAD_SECONDS_MAX) {
        return Err("issued_before is no time of these: seconds since 1970, not more than 300 ahead");
    }
    let expires_in = expires_in.unwrap_or(token_life);
    if !(1..=token_life).contains(&expires_in) {
        return Err("expires_in is more than revocations.token_life, or less than a second");
    }
    let later_too = later_too || matches!(revokes, Revokes::Token(_));
    Ok(Revocation { revokes, by: RevokedBy::Operator, issuer: iss, revoked_at, later_too, expires_at: now.saturating_add(expires_in) })
}

fn list(view: &dyn AdminView) -> Response<Full<Bytes>> {
    let list = view.revocations().list();
    let first: Vec<Value> = list.iter().take(LISTED_MAX).map(shown).collect();
    json_answer(StatusCode::OK, &json!({ "total": list.len(), "revocations": first }))
}

async fn lift(id: &str, view: &dyn AdminView) -> Response<Full<Bytes>> {
    match view.revocations().lift(id).await {
        Ok(Some(revocation)) => {
            tracing::info!(target: "wicketgate::revocation", id, by = "operator", "lifted");
            view.audit().write(&RevocationAudit::by_operator("lifted", id, &revocation.revokes), clock::wall_now());
            json_answer(StatusCode::OK, &shown(&revocation))
        }
        Ok(None) => refused(StatusCode::NOT_FOUND, "no such revocation"),
        Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "the shared state is away, and other instances would bring it back; try again"),
    }
}

fn shown(revocation: &Revocation) -> Value {
    let Revocation { revokes, by, issuer, revoked_at, later_too, expires_at } = revocation;
    let mut shown =
        json!({ "id": revocation.id(), "by": by, "issued_before": revoked_at, "later_too": later_too, "expires_at": expires_at });
    let names: &[(&str, &String)] = &match revokes {
        Revokes::Subject(subject) => vec![("sub", subject)],
        Revokes::Client(client) => vec![("client_id", client)],
        Revokes::Grant { subject, client } => vec![("sub", subject), ("client_id", client)],
        Revokes::Token(jti) => vec![("jti", jti)],
    };
    for (name, value) in names.iter().copied().chain(issuer.as_ref().map(|issuer| ("iss", issuer))) {
        shown[name] = json!(value);
    }
    shown
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    typed(status, "application/json", value.to_string())
}

fn refused(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    json_answer(status, &json!({ "error": reason }))
}
