//! Signing out (OpenID Connect RP-Initiated Logout 1.0): asked by an application, confirmed by the user.

use askama::Template;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use super::authorize::with_query;
use super::client::{self, Parameters};
use super::refusal::Refusal;
use super::{Application, State, interaction, notice, session};
use crate::demo::event::event;
use crate::demo::page;
use crate::demo::server::Reply;
use crate::keys::{Algorithm, KeySet};

#[derive(Template)]
#[template(path = "issuer/sign_out.html")]
struct SignOut<'p> {
    user: &'p str,
    csrf: &'p str,
    application: Option<&'p str>,
    /// What the form brings back, so that it can be checked again.
    fields: Vec<(&'static str, String)>,
}

/// Who asks to sign out, and where the user is sent then.
struct Leaving {
    client: Option<Application>,
    /// Registered, character by character.
    redirect_uri: Option<String>,
    state: Option<String>,
}

/// `GET` and `POST /oidc/session/end`.
pub async fn ask(state: &State, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let (headers, parameters) = match request.method() {
        &Method::GET => (request.headers().clone(), Parameters::parse(request.uri().query().unwrap_or_default().as_bytes())),
        _ => client::read(request).await.map(|(head, parameters)| (head.headers, parameters))?,
    };
    let leaving = leaving(state, &parameters)?;
    let Some((_, session)) = session::of(state, &headers) else { return Ok(gone(&leaving)) };
    let user = session::user(state, &session);
    let fields = [
        ("client_id", leaving.client.as_ref().map(|client| client.id.clone())),
        ("post_logout_redirect_uri", leaving.redirect_uri.clone()),
        ("state", leaving.state.clone()),
    ];
    let page = SignOut {
        user: user.as_ref().map_or("somebody", |user| &user.name),
        csrf: &session.csrf,
        application: leaving.client.as_ref().map(|client| client.name.as_str()),
        fields: fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    };
    let origins = leaving.redirect_uri.as_deref().map(interaction::origins).unwrap_or_default();
    Ok(page::html(StatusCode::OK, &page, &origins))
}

/// `POST /oidc/session/end/confirm`.
pub async fn confirm(state: &State, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let (head, parameters) = client::read(request).await?;
    let leaving = leaving(state, &parameters)?;
    let Some((key, session)) = session::of(state, &head.headers) else { return Ok(gone(&leaving)) };
    if !page::same_secret(&session.csrf, parameters.one("csrf")?) {
        return Ok(notice::forged());
    }
    if parameters.one("logout")? != Some("yes") {
        return Ok(back(&leaving).unwrap_or_else(|| {
            notice::page(StatusCode::OK, "You are still signed in", "Nothing was changed.", "You can close this page.")
        }));
    }
    state.sessions().take(&key);
    let name = session::user(state, &session).map_or(session.subject, |user| user.name);
    event(&name, "signs out", "done", "the session ended; what applications were allowed did not");
    let mut reply = gone(&leaving);
    page::set_cookie(&mut reply, session::COOKIE, "");
    Ok(reply)
}

/// `GET /oidc/session/end/success`.
pub fn success() -> Reply {
    notice::page(
        StatusCode::OK,
        "You are signed out",
        "The next application that asks will make you sign in. What you allowed applications before is still allowed.",
        "You can close this page.",
    )
}

fn gone(leaving: &Leaving) -> Reply {
    back(leaving).unwrap_or_else(|| page::see_other("/oidc/session/end/success"))
}

fn back(leaving: &Leaving) -> Option<Reply> {
    let redirect_uri = leaving.redirect_uri.as_deref()?;
    Some(match leaving.state.as_deref() {
        Some(state) => page::see_other(&with_query(redirect_uri, &[("state", state)])),
        None => page::see_other(redirect_uri),
    })
}

fn leaving(state: &State, parameters: &Parameters) -> Result<Leaving, Refusal> {
    let hinted = match parameters.one("id_token_hint")? {
        Some(hint) => Some(audience(state, hint).ok_or_else(|| Refusal::invalid_request("could not validate id_token_hint"))?),
        None => None,
    };
    let named = parameters.one("client_id")?.map(str::to_owned);
    if hinted.is_some() && named.is_some() && hinted != named {
        return Err(Refusal::invalid_request("client_id does not match the provided id_token_hint"));
    }
    let client = match hinted.or(named) {
        Some(id) => Some(state.tenant().application(&id).cloned().ok_or_else(|| Refusal::unknown_client(&id))?),
        None => None,
    };
    let redirect_uri = parameters.one("post_logout_redirect_uri")?.map(str::to_owned);
    if let Some(address) = &redirect_uri {
        let registered = client.as_ref().is_some_and(|client| client.post_logout_redirect_uris.contains(address));
        if !registered {
            return Err(Refusal::invalid_request("post_logout_redirect_uri not registered"));
        }
    }
    Ok(Leaving { client, redirect_uri, state: parameters.one("state")?.map(str::to_owned) })
}

/// Whom an ID token was for, if it is one of this issuer's. It may have expired: it only says who asks.
fn audience(state: &State, hint: &str) -> Option<String> {
    let (signed, signature) = hint.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let read = |part: &str| serde_json::from_slice::<Value>(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let (header, claims) = (read(header)?, read(claims)?);
    let algorithm = Algorithm::parse(header["alg"].as_str()?)?;
    let keys = KeySet::parse(state.keys.published().to_string().as_bytes(), 2).ok()?;
    let verified = keys.candidates(header["kid"].as_str(), algorithm).any(|key| key.verify(algorithm, signed, signature));
    // An access token has a type, and is nobody's identity.
    let is_identity = header.get("typ").is_none() && claims["iss"] == state.url.as_str();
    (verified && is_identity).then(|| claims["aud"].as_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::super::visitor::{Page, Visitor, encoded, exchange, refresh, start};
    use super::super::{Issuer, TokenRequest};
    use super::*;

    const BYE: &str = "http://127.0.0.1:9999/bye";

    /// Alice, signed in to the official application, and what it has.
    async fn signed_in(issuer: &Issuer) -> (Visitor, Value) {
        let mut alice = Visitor::of(issuer);
        let code = alice.code("official", "alice", &[("scope", "openid offline_access"), ("prompt", "consent")]).await;
        let (_, tokens) = exchange(issuer, "official", &code, &[]).await;
        (alice, tokens)
    }

    async fn end(visitor: &mut Visitor, parameters: &[(&str, &str)]) -> Page {
        visitor.get(&format!("/oidc/session/end?{}", encoded(parameters))).await
    }

    #[tokio::test]
    async fn a_user_confirms_and_is_sent_to_the_registered_address() {
        let issuer = start().await;
        let (mut alice, tokens) = signed_in(&issuer).await;
        let hint = tokens["id_token"].as_str().unwrap();
        let page = end(&mut alice, &[("id_token_hint", hint), ("post_logout_redirect_uri", BYE), ("state", "a&b")]).await;
        assert!(page.status == 200 && page.body.contains("Alice") && !page.body.contains("<script"));
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("form-action 'self' http://127.0.0.1:9999;"), "{policy}");
        let csrf = page.field("csrf");
        let form =
            [("client_id", "official"), ("post_logout_redirect_uri", BYE), ("state", "a&b"), ("csrf", csrf.as_str()), ("logout", "yes")];
        let done = alice.post("/oidc/session/end/confirm", &form).await;
        assert_eq!(done.location(), "http://127.0.0.1:9999/bye?state=a%26b");
        assert!(!alice.cookies.contains_key(session::COOKIE));
        assert!(alice.authorize("official", &[]).await.location().starts_with("/sign-in"));
        // Fixture 11-misc/refresh-after-rp-logout.
        assert_eq!(refresh(&issuer, "official", &tokens["refresh_token"], &[]).await.0, 200);
        // Who is signed out already is not asked.
        let again = end(&mut alice, &[("client_id", "official"), ("post_logout_redirect_uri", BYE)]).await;
        assert_eq!(again.location(), BYE);
    }

    #[tokio::test]
    async fn without_an_address_it_ends_here_and_no_is_an_answer() {
        let issuer = start().await;
        let (mut alice, _) = signed_in(&issuer).await;
        let csrf = end(&mut alice, &[]).await.field("csrf");
        let stay = alice.post("/oidc/session/end/confirm", &[("csrf", &csrf), ("logout", "no")]).await;
        assert!(stay.status == 200 && stay.body.contains("still signed in"));
        assert!(alice.authorize("official", &[]).await.answer("code").is_some());
        let done = alice.post("/oidc/session/end/confirm", &[("csrf", &csrf), ("logout", "yes")]).await;
        let page = alice.get(done.location()).await;
        assert!(page.status == 200 && page.body.contains("You are signed out"));
    }

    #[tokio::test]
    async fn nobody_is_signed_out_or_sent_away_by_somebody_else() {
        let issuer = start().await;
        let (mut alice, tokens) = signed_in(&issuer).await;
        let access =
            issuer.token(TokenRequest { client_id: "official".to_owned(), resource: "official".to_owned(), ..TokenRequest::default() });
        let other = start().await;
        let (_, foreign) = signed_in(&other).await;
        let hint = tokens["id_token"].as_str().unwrap();
        let cases: [&[(&str, &str)]; 8] = [
            &[("post_logout_redirect_uri", BYE)],
            &[("client_id", "official"), ("post_logout_redirect_uri", "http://evil.example/")],
            &[("client_id", "official"), ("post_logout_redirect_uri", "http://127.0.0.1:9999/bye/")],
            &[("client_id", "weatherbot"), ("post_logout_redirect_uri", BYE)],
            &[("client_id", "weatherbot"), ("id_token_hint", hint)],
            &[("client_id", "nope")],
            &[("id_token_hint", &access)],
            &[("id_token_hint", foreign["id_token"].as_str().unwrap())],
        ];
        for case in cases {
            assert_eq!(end(&mut alice, case).await.status, 400, "{case:?}");
        }
        for csrf in ["", "guessed"] {
            let refused = alice.post("/oidc/session/end/confirm", &[("csrf", csrf), ("logout", "yes")]).await;
            assert_eq!(refused.status, 403);
        }
        let csrf = end(&mut alice, &[]).await.field("csrf");
        let form =
            [("csrf", csrf.as_str()), ("logout", "yes"), ("client_id", "official"), ("post_logout_redirect_uri", "http://evil.example/")];
        assert_eq!(alice.post("/oidc/session/end/confirm", &form).await.status, 400);
        assert!(alice.authorize("official", &[]).await.answer("code").is_some());
    }
}
