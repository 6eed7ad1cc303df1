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

#[cfg(test)]
mod tests {
    use super::super::Issuer;
    use super::super::visitor::{Page, Visitor, call, client as http, encoded, exchange, refresh, start};
    use super::*;

    /// An opaque token of WeatherBot's for Alice, with its refresh token.
    async fn tokens(issuer: &Issuer) -> Value {
        let all = [("scope", "openid offline_access profile email read:weather write:weather"), ("prompt", "consent")];
        let code = Visitor::of(issuer).code("weatherbot", "alice", &all).await;
        exchange(issuer, "weatherbot", &code, &[("resource", "")]).await.1
    }

    async fn ask(issuer: &Issuer, endpoint: &str, client: &str, token: &Value) -> (u16, Value) {
        call(issuer, endpoint, client, &[("token", token.as_str().unwrap())]).await
    }

    fn names(answer: &Value) -> Vec<&str> {
        let mut names: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    #[tokio::test]
    async fn an_opaque_token_is_described_to_any_confidential_client_and_to_no_other() {
        let issuer = start().await;
        let tokens = tokens(&issuer).await;
        for client in ["weatherbot", "official", "nothing", "cron"] {
            let (status, answer) = ask(&issuer, "/token/introspection", client, &tokens["access_token"]).await;
            assert_eq!((status, names(&answer)), (200, vec!["active", "client_id", "exp", "iat", "iss", "scope", "sub", "token_type"]));
            assert_eq!([&answer["client_id"], &answer["sub"], &answer["token_type"]], ["weatherbot", "alice", "Bearer"]);
            // Never a scope of a resource.
            assert_eq!(answer["scope"], "openid offline_access profile email");
        }
        let (status, answer) = ask(&issuer, "/token/introspection", "spa", &tokens["access_token"]).await;
        assert_eq!((status, answer), (200, json!({ "active": false })));
        let (_, answer) = ask(&issuer, "/token/introspection", "cron", &tokens["refresh_token"]).await;
        assert_eq!(names(&answer), ["active", "client_id", "exp", "iat", "iss", "scope", "sub"]);
        assert_eq!(answer["scope"], "openid offline_access profile email read:weather");
        let (_, own) = call(&issuer, "/token", "cron", &[("grant_type", "client_credentials")]).await;
        let (_, answer) = ask(&issuer, "/token/introspection", "official", &own["access_token"]).await;
        assert_eq!((&answer["active"], &answer["client_id"], answer.get("scope")), (&json!(true), &json!("cron"), None));
    }

    #[tokio::test]
    async fn what_is_unknown_is_inactive_and_a_jwt_is_refused() {
        let issuer = start().await;
        let jwt = json!(issuer.token(super::super::TokenRequest::default()));
        for (token, status, error) in
            [(&jwt, 400, Some("unsupported_token_type")), (&json!("nonsense"), 200, None), (&json!("a.b.c"), 200, None)]
        {
            let (found, answer) = ask(&issuer, "/token/introspection", "cron", token).await;
            assert_eq!((found, answer["error"].as_str()), (status, error));
            let (found, answer) = ask(&issuer, "/token/revocation", "cron", token).await;
            assert_eq!((found, answer["error"].as_str()), (status, error));
        }
        let (status, answer) = call(&issuer, "/token/introspection", "cron", &[]).await;
        assert_eq!((status, &answer["error_description"]), (400, &json!("missing required parameter 'token'")));
        let post =
            |url: String| http().post(url).header("content-type", "application/x-www-form-urlencoded").body(encoded(&[("token", "x")]));
        for endpoint in ["introspection", "revocation"] {
            let url = format!("{}/token/{endpoint}", issuer.url());
            assert_eq!(post(url.clone()).send().await.unwrap().status(), 400);
            assert_eq!(post(url.clone()).bearer_auth("x").send().await.unwrap().status(), 400);
            assert_eq!(post(url).basic_auth("cron", Some("x")).send().await.unwrap().status(), 401);
        }
    }

    #[tokio::test]
    async fn only_its_owner_revokes_a_token_and_the_other_kind_goes_with_it() {
        let issuer = start().await;
        for kind in ["access_token", "refresh_token"] {
            let tokens = tokens(&issuer).await;
            let (status, answer) = ask(&issuer, "/token/revocation", "cron", &tokens[kind]).await;
            assert_eq!((status, &answer["error_description"]), (400, &json!("client is not authorized to revoke the presented token")));
            assert_eq!(ask(&issuer, "/token/introspection", "cron", &tokens[kind]).await.1["active"], true);
            assert_eq!(ask(&issuer, "/token/revocation", "weatherbot", &tokens[kind]).await, (200, Value::Null));
            for kind in ["access_token", "refresh_token"] {
                assert_eq!(ask(&issuer, "/token/introspection", "cron", &tokens[kind]).await.1, json!({ "active": false }));
            }
            assert_eq!(refresh(&issuer, "weatherbot", &tokens["refresh_token"], &[]).await.0, 400);
        }
        let (_, own) = call(&issuer, "/token", "cron", &[("grant_type", "client_credentials")]).await;
        assert_eq!(ask(&issuer, "/token/revocation", "cron", &own["access_token"]).await.0, 200);
        assert_eq!(ask(&issuer, "/token/introspection", "cron", &own["access_token"]).await.1["active"], false);
    }

    #[tokio::test]
    async fn userinfo_is_for_opaque_tokens_of_users() {
        let issuer = start().await;
        let tokens = tokens(&issuer).await;
        let url = format!("{}/me", issuer.url());
        let get = async |token: Option<&str>| {
            let request = http().get(&url);
            let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
            Page::of(request.send().await.unwrap()).await
        };
        let page = get(tokens["access_token"].as_str()).await;
        let expected = ["created_at", "email", "email_verified", "name", "picture", "preferred_username", "sub", "updated_at", "username"];
        assert_eq!((page.status, names(&page.json())), (200, expected.to_vec()));
        let none = get(None).await;
        assert_eq!(
            (none.status, none.headers["www-authenticate"].to_str().unwrap()),
            (401, format!(r#"Bearer realm="{}""#, issuer.url()).as_str())
        );
        let (_, own) = call(&issuer, "/token", "cron", &[("grant_type", "client_credentials")]).await;
        let jwt = issuer.token(super::super::TokenRequest::default());
        for token in [jwt.as_str(), "garbage", tokens["refresh_token"].as_str().unwrap(), own["access_token"].as_str().unwrap()] {
            let page = get(Some(token)).await;
            assert_eq!((page.status, &page.json()["error_description"]), (401, &json!("invalid token provided")));
            assert!(page.headers["www-authenticate"].to_str().unwrap().contains(r#"error="invalid_token""#));
        }
        let code = Visitor::of(&issuer).code("official", "alice", &[("scope", "profile")]).await;
        let (_, answer) = exchange(&issuer, "official", &code, &[("resource", "")]).await;
        assert_eq!(get(answer["access_token"].as_str()).await.status, 403);
        issuer.withdraw("alice", "weatherbot");
        assert_eq!(get(tokens["access_token"].as_str()).await.status, 401);
    }
}
