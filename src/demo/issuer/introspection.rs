//! What holders of tokens may ask and end: introspection (RFC 7662), revocation (RFC 7009) and `userinfo`.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::client;
use super::refusal::Refusal;
use super::token_endpoint::for_programs;
use super::tokens::Opaque;
use super::{Application, State, User, id_token, refresh};
use crate::demo::event::event;
use crate::demo::server::{self, Reply};

/// `POST /oidc/token/introspection`. As in Logto any confidential client may ask about any token, a refresh token is
/// active like an access token, and nothing is said of the audience, so that no resource can rely on it.
pub async fn introspect(state: &State, request: Request<Incoming>) -> Reply {
    for_programs(match introspected(state, request).await {
        Ok(answer) => server::json(StatusCode::OK, &answer),
        Err(refusal) => refusal.reply(&state.url),
    })
}

async fn introspected(state: &State, request: Request<Incoming>) -> Result<Value, Refusal> {
    let (head, parameters) = client::read(request).await?;
    let client = client::authenticate(state, &head.headers, &parameters)?;
    let token = parameters.required("token")?;
    if is_jwt(token) {
        return Err(structured("introspected via the introspection_endpoint"));
    }
    let inactive = json!({ "active": false });
    if !client.kind.is_confidential() {
        return Ok(inactive);
    }
    let opaque = state.tokens().opaque.get(token).cloned();
    if let Some(opaque) = opaque {
        if !stands(state, &opaque) {
            return Ok(inactive);
        }
        let mut answer = described(state, &opaque.subject, &opaque.client_id, opaque.issued_at, opaque.expires_at, &opaque.scopes);
        answer["token_type"] = Value::from("Bearer");
        return Ok(answer);
    }
    let Some(refresh) = state.tokens().refresh.get(token).filter(|refresh| refresh.rotated_at.is_none()).cloned() else {
        return Ok(inactive);
    };
    let owner = state.tenant().application(&refresh.authorization.client_id).cloned();
    let Some(Ok(scopes)) = owner.map(|owner| refresh::granted(state, &owner, &refresh.authorization)) else { return Ok(inactive) };
    let authorization = &refresh.authorization;
    Ok(described(state, &authorization.subject, &authorization.client_id, refresh.issued_at, refresh.expires_at, &scopes))
}

fn described(state: &State, subject: &str, client_id: &str, issued_at: i64, expires_at: i64, scopes: &[String]) -> Value {
    let mut answer =
        json!({ "active": true, "sub": subject, "client_id": client_id, "exp": expires_at, "iat": issued_at, "iss": state.url });
    if !scopes.is_empty() {
        answer["scope"] = Value::from(scopes.join(" "));
    }
    answer
}

/// Whether what an opaque token rests on is still there.
fn stands(state: &State, opaque: &Opaque) -> bool {
    let known = state.tenant().application(&opaque.client_id).is_some();
    let allowed = match &opaque.grant {
        None => true,
        Some(grant) => state.grants().get(grant).is_some() && user(state, opaque).is_some(),
    };
    known && allowed
}

fn user(state: &State, opaque: &Opaque) -> Option<User> {
    state.tenant().user(&opaque.subject).filter(|user| !user.suspended).cloned()
}

/// `POST /oidc/token/revocation`.
pub async fn revoke(state: &State, request: Request<Incoming>) -> Reply {
    for_programs(match revoked(state, request).await {
        Ok(()) => server::reply(StatusCode::OK, "text/plain; charset=utf-8", Bytes::new()),
        Err(refusal) => refusal.reply(&state.url),
    })
}

/// Either kind of token takes its grant with it, and so the other kind too. A token that nobody knows needs no
/// revocation (RFC 7009 §2.2).
async fn revoked(state: &State, request: Request<Incoming>) -> Result<(), Refusal> {
    let (head, parameters) = client::read(request).await?;
    let client = client::authenticate(state, &head.headers, &parameters)?;
    let token = parameters.required("token")?;
    if is_jwt(token) {
        return Err(structured("revoked via the revocation_endpoint"));
    }
    let opaque = state.tokens().opaque.get(token).map(|opaque| (opaque.client_id.clone(), opaque.grant.clone(), opaque.subject.clone()));
    let refresh = state.tokens().refresh.get(token).map(|refresh| refresh.authorization.clone());
    let refresh = refresh.map(|known| (known.client_id, Some(known.grant), known.subject));
    let Some((owner, grant, subject)) = opaque.or(refresh) else { return Ok(()) };
    if owner != client.id {
        return Err(Refusal::invalid_request("client is not authorized to revoke the presented token"));
    }
    match grant {
        Some(grant) => drop(state.grants().revoke(&grant)),
        None => drop(state.tokens().opaque.take(token)),
    }
    told(state, &client, &subject);
    Ok(())
}

fn told(state: &State, client: &Application, subject: &str) {
    let name = state.tenant().user(subject).map_or_else(|| client.name.clone(), |user| user.name.clone());
    let reason = "a JWT that is out already works until it expires";
    event(&client.name, &format!("gives back its tokens for {name}"), "revoked", reason);
}

/// `GET` and `POST /oidc/me` (OpenID Connect Core §5.3): for opaque tokens alone.
pub fn userinfo(state: &State, headers: &HeaderMap) -> Reply {
    let answer = match bearer(headers) {
        None => unauthorized(state, &Refusal::new("invalid_token", "no access token provided"), false),
        Some(token) => match described_user(state, token) {
            Some(Ok(claims)) => server::json(StatusCode::OK, &Value::Object(claims)),
            Some(Err(refusal)) => refusal.reply(&state.url),
            None => unauthorized(state, &Refusal::new("invalid_token", "invalid token provided"), true),
        },
    };
    for_programs(answer)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn described_user(state: &State, token: &str) -> Option<Result<Map<String, Value>, Refusal>> {
    let opaque = state.tokens().opaque.get(token).cloned()?;
    if opaque.grant.is_none() || !stands(state, &opaque) {
        return None;
    }
    let user = user(state, &opaque)?;
    if !opaque.scopes.iter().any(|scope| scope == "openid") {
        let refusal = Refusal::new("insufficient_scope", "access token missing openid scope");
        return Some(Err(Refusal { status: StatusCode::FORBIDDEN, scope: Some("openid".to_owned()), ..refusal }));
    }
    Some(Ok(id_token::claims(state, &user, &opaque.scopes)))
}

/// RFC 6750 §3: who showed no token is told of no error.
fn unauthorized(state: &State, refusal: &Refusal, shown: bool) -> Reply {
    let mut reply = server::json(StatusCode::UNAUTHORIZED, &refusal.body());
    let error = match shown {
        true => format!(r#", error="{}", error_description="{}""#, refusal.error, refusal.description),
        false => String::new(),
    };
    let challenge = format!(r#"Bearer realm="{}"{error}"#, state.url);
    reply.headers_mut().extend(HeaderValue::from_str(&challenge).ok().map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
    reply
}

fn structured(what: &str) -> Refusal {
    Refusal::new("unsupported_token_type", format!("Structured JWT Tokens cannot be {what}"))
}

/// Three parts, the first of which is JSON.
fn is_jwt(token: &str) -> bool {
    let mut parts = token.split('.');
    let header = parts.next().and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    parts.count() == 2 && header.is_some_and(|header| serde_json::from_slice::<Map<String, Value>>(&header).is_ok())
}
