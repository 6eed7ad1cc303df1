//! Authorization codes (RFC 6749 §4.1): good once, for a minute, for the client that asked and with its proof.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use super::authorize::AuthorizationRequest;
use super::client::Parameters;
use super::refusal::Refusal;
use super::signing::random_text;
use super::{Application, State, tokens};
use crate::demo::event::event;

/// What a user's run through the flow came to. Codes and refresh tokens stand for one.
#[derive(Debug, Clone)]
pub struct Authorization {
    /// The id of the grant: without it nothing of this is worth anything.
    pub grant: String,
    pub subject: String,
    pub client_id: String,
    /// The id of the session.
    pub session: String,
    /// All that were asked for; what is given is worked out each time.
    pub scopes: Vec<String>,
    pub resources: Vec<String>,
    pub auth_time: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct Code {
    authorization: Authorization,
    redirect_uri: String,
    challenge: Option<String>,
    nonce: Option<String>,
    used: bool,
}

impl Code {
    pub fn subject(&self) -> &str {
        &self.authorization.subject
    }
}

pub fn issue(state: &State, asked: &AuthorizationRequest, authorization: Authorization) -> Result<String, Refusal> {
    let code = random_text()?;
    let AuthorizationRequest { redirect_uri, challenge, nonce, .. } = asked.clone();
    state.codes().insert(code.clone(), Code { authorization, redirect_uri, challenge, nonce, used: false });
    Ok(code)
}

/// `grant_type=authorization_code`.
pub fn exchange(state: &State, client: &Application, parameters: &Parameters) -> Result<Value, Refusal> {
    let code = redeem(state, client, parameters)?;
    let resource = tokens::resource(state, &code.authorization, parameters)?;
    let issued = tokens::issue(state, client, &code.authorization, &code.authorization.scopes, resource.as_ref(), code.nonce.as_deref())?;
    event(&client.name, &format!("exchanges the code for {}", issued.user), &issued.decision(), &issued.reason(client, resource.as_ref()));
    Ok(issued.response)
}

/// Marks it as used. Who shows a used one may be a thief, or the one stolen from: all that came of it ends (RFC 6749
/// §4.1.2).
fn redeem(state: &State, client: &Application, parameters: &Parameters) -> Result<Code, Refusal> {
    let shown = parameters.required("code")?;
    let redirect_uri = parameters.required("redirect_uri")?;
    let verifier = parameters.one("code_verifier")?;
    let resource = parameters.one("resource").map_err(|_| Refusal::invalid_target())?;
    let mut codes = state.codes();
    let code = codes.get_mut(shown).filter(|code| code.authorization.client_id == client.id).ok_or_else(Refusal::invalid_grant)?;
    if code.used {
        let grant = code.authorization.grant.clone();
        drop(codes);
        state.grants().revoke(&grant);
        event(&client.name, "exchanges a code again", "refused", "a code is good once; the grant and what came of it are revoked");
        return Err(Refusal::invalid_grant());
    }
    if code.redirect_uri != redirect_uri || !proves(code.challenge.as_deref(), verifier) {
        return Err(Refusal::invalid_grant());
    }
    // Before it is used up, so that a client that got the name wrong can try again.
    if resource.is_some_and(|resource| !code.authorization.resources.iter().any(|known| known == resource)) {
        return Err(Refusal::invalid_target());
    }
    code.used = true;
    Ok(code.clone())
}

/// RFC 7636 §4.6. A verifier without a challenge says that somebody took the challenge out of the request (RFC 9700 §4.8).
fn proves(challenge: Option<&str>, verifier: Option<&str>) -> bool {
    match (challenge, verifier) {
        (None, None) => true,
        (Some(challenge), Some(verifier)) => {
            let found = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
            (43..=128).contains(&verifier.len()) && verify_slices_are_equal(challenge.as_bytes(), found.as_bytes()).is_ok()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::visitor::{CALLBACK, Fields, SECOND, VERIFIER, Visitor, WEATHER, exchange, part, refresh, start, start_with};
    use super::super::{Issuer, Lifetimes};
    use super::*;

    const ALL: &[(&str, &str)] = &[("scope", "openid offline_access profile email read:weather write:weather"), ("prompt", "consent")];

    fn names(claims: &Value) -> String {
        let mut names: Vec<&str> = claims.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names.join(" ")
    }

    #[tokio::test]
    async fn the_companys_own_application_has_a_token_after_signing_in() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let page = alice.authorize("official", ALL).await;
        let page = alice.sign_in(&page, "alice").await;
        // No consent page, not even with `prompt=consent`.
        assert_eq!(page.location().split('?').next(), Some(CALLBACK));
        assert_eq!((page.answer("state").as_deref(), page.answer("iss").as_deref()), (Some("a state"), Some(issuer.url())));
        let (status, answer) = exchange(&issuer, "official", &page.answer("code").unwrap(), &[]).await;
        assert_eq!((status, &answer["scope"], &answer["expires_in"]), (200, &json!("read:weather write:weather"), &json!(3600)));
        assert_eq!(names(&answer), "access_token expires_in id_token refresh_token scope token_type");
        let claims = part(&answer["access_token"], 1);
        assert_eq!(names(&claims), "aud client_id exp iat iss jti scope sub");
        assert_eq!([&claims["sub"], &claims["client_id"], &claims["aud"]], ["alice", "official", WEATHER]);
        let header = part(&answer["id_token"], 0);
        assert_eq!(header, json!({ "alg": "ES384", "kid": issuer.kid() }));
        let identity = part(&answer["id_token"], 1);
        let expected = "aud created_at email email_verified exp iat iss name picture preferred_username sid sub updated_at username";
        assert_eq!((names(&identity).as_str(), &identity["aud"]), (expected, &json!("official")));
        let (status, again) = refresh(&issuer, "official", &answer["refresh_token"], &[("resource", WEATHER)]).await;
        assert_eq!((status, &again["scope"]), (200, &json!("read:weather write:weather")));
    }

    #[tokio::test]
    async fn an_application_of_somebody_elses_has_what_the_user_allowed_within_its_ceiling() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let page = alice.authorize("weatherbot", ALL).await;
        let page = alice.sign_in(&page, "alice").await;
        assert!(page.location().starts_with("/consent?"));
        let page = alice.consent(&page, "allow").await;
        let (status, answer) = exchange(&issuer, "weatherbot", &page.answer("code").unwrap(), &[]).await;
        assert_eq!((status, &answer["scope"]), (200, &json!("read:weather")));
        assert_eq!(part(&answer["access_token"], 1)["scope"], "read:weather");
        // What the grant covers is not asked again; what was asked with `prompt=consent` is.
        let page = alice.authorize("weatherbot", &[("prompt", "none")]).await;
        assert!(page.answer("code").is_some());
        assert!(alice.authorize("weatherbot", ALL).await.location().starts_with("/consent?"));
    }

    /// A code of Alice's for this application.
    async fn code(issuer: &Issuer, client_id: &str, parameters: &[(&str, &str)]) -> String {
        Visitor::of(issuer).code(client_id, "alice", parameters).await
    }

    #[tokio::test]
    async fn a_code_is_good_once_and_using_it_again_ends_all_that_came_of_it() {
        let issuer = start().await;
        let code = code(&issuer, "official", ALL).await;
        let (_, first) = exchange(&issuer, "official", &code, &[]).await;
        let (status, again) = exchange(&issuer, "official", &code, &[]).await;
        assert_eq!(
            (status, &again["error"], &again["error_description"]),
            (400, &json!("invalid_grant"), &json!("grant request is invalid"))
        );
        let (status, answer) = refresh(&issuer, "official", &first["refresh_token"], &[]).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_grant")));
    }

    #[tokio::test]
    async fn a_code_is_bound_to_its_client_its_address_and_its_proof() {
        let issuer = start().await;
        let code = code(&issuer, "official", &[]).await;
        let other = "b".repeat(43);
        let cases: &[(&str, Fields<'_>, &str)] = &[
            ("weatherbot", &[], "invalid_grant"),
            ("official", &[("redirect_uri", "http://127.0.0.1:9999/callback?tenant=a")], "invalid_grant"),
            ("official", &[("redirect_uri", "")], "invalid_request"),
            ("official", &[("code_verifier", "")], "invalid_grant"),
            ("official", &[("code_verifier", &other)], "invalid_grant"),
            ("official", &[("code", "")], "invalid_request"),
            ("official", &[("code", "unknown")], "invalid_grant"),
            ("official", &[("resource", SECOND)], "invalid_target"),
            ("official", &[("resource", WEATHER), ("resource", WEATHER)], "invalid_target"),
        ];
        for (client, parameters, error) in cases {
            let (status, answer) = exchange(&issuer, client, &code, parameters).await;
            assert_eq!((status, answer["error"].as_str()), (400, Some(*error)), "{client} {parameters:?}");
        }
        assert_eq!(exchange(&issuer, "official", &code, &[]).await.0, 200);
    }

    #[tokio::test]
    async fn a_verifier_for_which_there_was_no_challenge_is_refused() {
        let issuer = start().await;
        let without = [("code_challenge", ""), ("code_challenge_method", "")];
        let code = code(&issuer, "official", &without).await;
        assert_eq!(exchange(&issuer, "official", &code, &[("code_verifier", VERIFIER)]).await.0, 400);
        assert_eq!(exchange(&issuer, "official", &code, &[("code_verifier", "")]).await.0, 200);
    }

    #[tokio::test]
    async fn an_old_code_is_worth_nothing() {
        let issuer = start_with(Lifetimes { code: std::time::Duration::ZERO, ..Lifetimes::default() }).await;
        let code = code(&issuer, "official", &[]).await;
        let (status, answer) = exchange(&issuer, "official", &code, &[]).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_grant")));
    }
}
