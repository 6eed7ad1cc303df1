//! The authorization endpoint (RFC 6749 §3.1): reads what an application asks, and refuses it before anybody is bothered.

use http::{HeaderMap, HeaderValue, Method, Request, header};
use hyper::body::Incoming;
use url::Url;

use super::client::{self, Parameters};
use super::refusal::Refusal;
use super::scopes::{self, OPENID_SCOPES};
use super::{Application, State, interaction};
use crate::demo::page;
use crate::demo::server::{self, Reply};

/// Of each parameter that is kept while a user decides.
const PARAMETER_BYTES_MAX: usize = 2048;
const RESOURCES_MAX: usize = 10;

/// What an application asks for, checked: whatever can be refused without asking the user has been.
#[derive(Debug, Clone)]
pub struct AuthorizationRequest {
    pub client_id: String,
    /// Registered, character by character.
    pub redirect_uri: String,
    pub state: Option<String>,
    pub nonce: Option<String>,
    /// Each once, in their order. `offline_access` is only here if it counts.
    pub scopes: Vec<String>,
    pub resources: Vec<String>,
    /// RFC 7636, always S256.
    pub challenge: Option<String>,
    pub prompt: Prompt,
    pub max_age_seconds: Option<i64>,
}

/// OpenID Connect Core §3.1.2.1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prompt {
    pub none: bool,
    pub login: bool,
    pub consent: bool,
}

/// Where an error may be told.
enum Refused {
    /// Client or address are not known, so that nobody may be sent there.
    Here(Refusal),
    There(Errand),
}

/// An error that the application is told by way of the browser.
struct Errand {
    redirect_uri: String,
    state: Option<String>,
    refusal: Refusal,
}

/// `GET` and `POST /oidc/auth`.
pub async fn answer(state: &State, request: Request<Incoming>) -> Reply {
    let (headers, parameters) = match request.method() {
        &Method::GET => (request.headers().clone(), Parameters::parse(request.uri().query().unwrap_or_default().as_bytes())),
        _ => match client::read(request).await {
            Ok((head, parameters)) => (head.headers, parameters),
            Err(refusal) => return here(state, &refusal),
        },
    };
    decide(state, &headers, &parameters)
}

fn decide(state: &State, headers: &HeaderMap, parameters: &Parameters) -> Reply {
    match read(state, parameters) {
        Ok(asked) => interaction::begin(state, headers, asked).unwrap_or_else(|refusal| here(state, &refusal)),
        Err(Refused::Here(refusal)) => here(state, &refusal),
        Err(Refused::There(Errand { redirect_uri, state: theirs, refusal })) => {
            page::see_other(&error_address(state, &redirect_uri, theirs.as_deref(), &refusal))
        }
    }
}

fn here(state: &State, refusal: &Refusal) -> Reply {
    let mut body = refusal.body();
    body["iss"] = state.url.as_str().into();
    let mut reply = server::json(refusal.status, &body);
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// The address that tells an application of an error (RFC 6749 §4.1.2.1, RFC 9207).
pub fn error_address(state: &State, redirect_uri: &str, theirs: Option<&str>, refusal: &Refusal) -> String {
    let optional = [("scope", refusal.scope.as_deref()), ("state", theirs)];
    let mut answer = vec![("error", refusal.error), ("error_description", refusal.description.as_str())];
    answer.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    answer.push(("iss", &state.url));
    with_query(redirect_uri, &answer)
}

/// The address with these parameters after those that it has.
pub fn with_query(address: &str, parameters: &[(&str, &str)]) -> String {
    match Url::parse(address) {
        Ok(mut url) => {
            url.query_pairs_mut().extend_pairs(parameters);
            url.into()
        }
        // Not to be had from `read`, which parses it too; it is a registered address in any case.
        Err(_) => address.to_owned(),
    }
}

fn read(state: &State, parameters: &Parameters) -> Result<AuthorizationRequest, Refused> {
    let (client, redirect_uri) = known(state, parameters).map_err(Refused::Here)?;
    asked(state, &client, &redirect_uri, parameters).map_err(|refusal| {
        let theirs = parameters.one("state").ok().flatten().filter(|theirs| theirs.len() <= PARAMETER_BYTES_MAX);
        Refused::There(Errand { redirect_uri, state: theirs.map(str::to_owned), refusal })
    })
}

/// Who asks, and the address that its users may be sent to.
fn known(state: &State, parameters: &Parameters) -> Result<(Application, String), Refusal> {
    let id = parameters.required("client_id")?;
    let client = state.tenant().application(id).cloned().ok_or_else(|| Refusal::unknown_client(id))?;
    let redirect_uri = parameters.required("redirect_uri")?;
    // RFC 9700 §4.1.3: equal as strings, nothing else.
    if !client.redirect_uris.iter().any(|registered| registered == redirect_uri) || Url::parse(redirect_uri).is_err() {
        let description = "redirect_uri did not match any of the client's registered redirect_uris";
        return Err(Refusal::new("invalid_redirect_uri", description));
    }
    Ok((client, redirect_uri.to_owned()))
}

fn asked(state: &State, client: &Application, redirect_uri: &str, parameters: &Parameters) -> Result<AuthorizationRequest, Refusal> {
    for (parameter, error) in [("request", "request_not_supported"), ("request_uri", "request_uri_not_supported")] {
        if parameters.one(parameter)?.is_some() {
            return Err(Refusal::new(error, format!("{parameter} parameter provided but not supported")));
        }
    }
    match parameters.required("response_type")? {
        "code" => {}
        _ => return Err(Refusal::new("unsupported_response_type", "unsupported response_type requested")),
    }
    if parameters.one("response_mode")?.is_some_and(|mode| mode != "query") {
        return Err(Refusal::new("unsupported_response_mode", "unsupported response_mode requested"));
    }
    let prompt = prompt(parameters.one("prompt")?)?;
    let challenge = challenge(client, parameters)?;
    let resources = resources(state, parameters)?;
    let mut scopes = requested_scopes(client, prompt, kept(parameters, "scope")?.as_deref().unwrap_or_default())?;
    // What nobody has cannot be given, and is not kept either.
    let tenant = state.tenant();
    let known =
        |scope: &str| resources.iter().filter_map(|indicator| tenant.resource(indicator)).any(|resource| resource.scope(scope).is_some());
    scopes.retain(|scope| OPENID_SCOPES.contains(&scope.as_str()) || known(scope));
    drop(tenant);
    let max_age = parameters.one("max_age")?.map(|seconds| seconds.parse::<u32>().map(i64::from));
    let max_age_seconds = max_age.transpose().map_err(|_| Refusal::invalid_request("invalid max_age parameter value"))?;
    Ok(AuthorizationRequest {
        client_id: client.id.clone(),
        redirect_uri: redirect_uri.to_owned(),
        state: kept(parameters, "state")?,
        nonce: kept(parameters, "nonce")?,
        scopes,
        resources,
        challenge,
        prompt,
        max_age_seconds,
    })
}

fn kept(parameters: &Parameters, name: &str) -> Result<Option<String>, Refusal> {
    match parameters.one(name)? {
        Some(value) if value.len() > PARAMETER_BYTES_MAX => {
            Err(Refusal::invalid_request(format!("'{name}' must not be longer than {PARAMETER_BYTES_MAX} bytes")))
        }
        value => Ok(value.map(str::to_owned)),
    }
}

fn prompt(value: Option<&str>) -> Result<Prompt, Refusal> {
    let mut prompt = Prompt::default();
    for word in value.unwrap_or_default().split_ascii_whitespace() {
        match word {
            "none" => prompt.none = true,
            "login" => prompt.login = true,
            "consent" => prompt.consent = true,
            _ => return Err(Refusal::invalid_request("unsupported prompt value requested")),
        }
    }
    if prompt.none && (prompt.login || prompt.consent) {
        return Err(Refusal::invalid_request("prompt none must only be used alone"));
    }
    Ok(prompt)
}

/// RFC 7636 §4.3. A public client has nothing else that proves that the code is its own.
fn challenge(client: &Application, parameters: &Parameters) -> Result<Option<String>, Refusal> {
    let method = parameters.one("code_challenge_method")?;
    let Some(challenge) = parameters.one("code_challenge")? else {
        return match (method, client.kind.is_confidential()) {
            (Some(_), _) => Err(Refusal::invalid_request("code_challenge must be provided with code_challenge_method")),
            (None, true) => Ok(None),
            (None, false) => Err(Refusal::invalid_request("Authorization Server policy requires PKCE to be used for this request")),
        };
    };
    // Without a method it would be `plain`, which whoever sees the request could answer.
    if method != Some("S256") {
        return Err(Refusal::invalid_request("not supported value of code_challenge_method"));
    }
    let is_digest = challenge.len() == 43 && challenge.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    match is_digest {
        true => Ok(Some(challenge.to_owned())),
        false => Err(Refusal::invalid_request("code_challenge must be a string with a minimum length of 43 characters")),
    }
}

/// RFC 8707 §2: each must be one of the tenant's.
fn resources(state: &State, parameters: &Parameters) -> Result<Vec<String>, Refusal> {
    let mut resources: Vec<String> = Vec::new();
    for indicator in parameters.all("resource") {
        if resources.len() == RESOURCES_MAX || state.tenant().resource(indicator).is_none() {
            return Err(Refusal::invalid_target());
        }
        if !resources.iter().any(|known| known == indicator) {
            resources.push(indicator.to_owned());
        }
    }
    Ok(resources)
}

fn requested_scopes(client: &Application, prompt: Prompt, value: &str) -> Result<Vec<String>, Refusal> {
    let mut asked: Vec<String> = Vec::new();
    for scope in value.split_ascii_whitespace() {
        // OpenID Connect Core §11: without asking for consent there is no access while the user is away.
        let counts = scope != "offline_access" || prompt.consent;
        if counts && !asked.iter().any(|known| known == scope) {
            asked.push(scope.to_owned());
        }
    }
    match scopes::forbidden(client, &asked) {
        Some(scope) => {
            let scope = Some(scope.clone());
            Err(Refusal { scope, ..Refusal::new("invalid_scope", "requested scope is not allowed") })
        }
        None => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use super::super::visitor::{self, CALLBACK, Fields, Page, SECOND, Visitor, WEATHER, encoded, exchange, question, start};
    use super::*;

    #[tokio::test]
    async fn who_is_not_known_is_told_here_and_sent_nowhere() {
        let issuer = start().await;
        let mut visitor = Visitor::of(&issuer);
        let elsewhere = [
            "http://127.0.0.1:9999/callback/",
            "http://127.0.0.1:9999/CALLBACK",
            "http://127.0.0.1:9999/callback?x",
            "javascript:alert(1)",
        ];
        let mut cases = vec![
            ("nope", "redirect_uri", CALLBACK, "invalid_client"),
            ("", "redirect_uri", CALLBACK, "invalid_request"),
            ("official", "redirect_uri", "", "invalid_request"),
            // It has no address at all.
            ("cron", "redirect_uri", CALLBACK, "invalid_redirect_uri"),
        ];
        cases.extend(elsewhere.map(|address| ("official", "redirect_uri", address, "invalid_redirect_uri")));
        for (client, parameter, value, error) in cases {
            let page = visitor.authorize(client, &[(parameter, value)]).await;
            let body = page.json();
            assert_eq!(
                (page.status, body["error"].as_str(), body["iss"].as_str()),
                (400, Some(error), Some(issuer.url())),
                "{client} {value}"
            );
            assert!(page.headers.get("location").is_none());
        }
        let twice = visitor.authorize("official", &[("redirect_uri", CALLBACK), ("redirect_uri", CALLBACK)]).await;
        assert_eq!(twice.status, 400);
    }

    #[tokio::test]
    async fn what_can_be_refused_is_refused_before_anybody_signs_in() {
        let issuer = start().await;
        let mut visitor = Visitor::of(&issuer);
        let long = "x".repeat(PARAMETER_BYTES_MAX + 1);
        let cases: &[(&str, Fields<'_>, &str)] = &[
            ("official", &[("response_type", "token")], "unsupported_response_type"),
            ("official", &[("response_type", "code id_token")], "unsupported_response_type"),
            ("official", &[("response_type", "")], "invalid_request"),
            ("official", &[("response_mode", "fragment")], "unsupported_response_mode"),
            ("official", &[("request", "x.y.z")], "request_not_supported"),
            ("official", &[("request_uri", "urn:x")], "request_uri_not_supported"),
            ("official", &[("resource", "https://nope.example")], "invalid_target"),
            ("official", &[("resource", "https://api.weather.example/")], "invalid_target"),
            ("official", &[("code_challenge_method", "plain")], "invalid_request"),
            ("official", &[("code_challenge_method", "")], "invalid_request"),
            ("official", &[("code_challenge", "")], "invalid_request"),
            ("official", &[("code_challenge", "short")], "invalid_request"),
            ("official", &[("prompt", "none login")], "invalid_request"),
            ("official", &[("prompt", "none consent")], "invalid_request"),
            ("official", &[("prompt", "select_account")], "invalid_request"),
            ("official", &[("prompt", "none")], "login_required"),
            ("official", &[("max_age", "-1")], "invalid_request"),
            ("official", &[("nonce", &long)], "invalid_request"),
            ("official", &[("scope", "openid"), ("scope", "profile")], "invalid_request"),
            ("spa", &[("code_challenge", ""), ("code_challenge_method", "")], "invalid_request"),
            ("own-spa", &[("code_challenge", ""), ("code_challenge_method", "")], "invalid_request"),
            ("weatherbot", &[("scope", "openid phone")], "invalid_scope"),
            ("nothing", &[("scope", "openid profile")], "invalid_scope"),
        ];
        for (client, parameters, error) in cases {
            let page = visitor.authorize(client, parameters).await;
            let told = ["error", "state", "iss", "code"].map(|name| page.answer(name));
            let expected = [Some((*error).to_owned()), Some("a state".to_owned()), Some(issuer.url().to_owned()), None];
            assert_eq!(told, expected, "{client} {parameters:?}");
            assert!(page.location().starts_with("http://127.0.0.1:9999/callback?error=") && page.answer("error_description").is_some());
        }
        assert!(visitor.cookies.is_empty());
    }

    #[tokio::test]
    async fn a_refused_scope_is_told_as_logto_tells_it() {
        let issuer = start().await;
        let page = Visitor::of(&issuer).authorize("weatherbot", &[("scope", "openid phone"), ("state", "978372505433a6d3")]).await;
        // Fixture 08-errors/third-app-phone-not-granted, but for the issuer.
        let iss = encoded(&[("iss", issuer.url())]);
        let expected = format!(
            "{CALLBACK}?error=invalid_scope&error_description=requested+scope+is+not+allowed&scope=phone&state=978372505433a6d3&{iss}"
        );
        assert_eq!(page.location(), expected);
    }

    #[tokio::test]
    async fn an_error_goes_to_the_address_with_what_it_has_in_its_query() {
        let issuer = start().await;
        let at = format!("{CALLBACK}?tenant=a");
        let page = Visitor::of(&issuer).authorize("official", &[("redirect_uri", &at), ("prompt", "none"), ("state", "")]).await;
        assert!(page.location().starts_with(&format!("{at}&error=login_required&")) && page.answer("state").is_none());
    }

    #[tokio::test]
    async fn a_question_can_be_posted() {
        let issuer = start().await;
        let url = format!("http://{}/oidc/auth", issuer.address());
        let form = visitor::client().post(&url).header("content-type", "application/x-www-form-urlencoded").body(question("official", &[]));
        assert!(Page::of(form.send().await.unwrap()).await.location().starts_with("/sign-in?interaction="));
        let json = visitor::client().post(&url).header("content-type", "application/json").body("{}");
        assert_eq!(json.send().await.unwrap().status(), 400);
    }

    #[tokio::test]
    async fn each_prompt_does_what_it_says() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        alice.code("official", "alice", &[]).await;
        // Signed in, and the company's own: nothing to ask.
        for prompt in ["", "none", "consent"] {
            assert!(alice.authorize("official", &[("prompt", prompt)]).await.answer("code").is_some(), "{prompt}");
        }
        for prompt in ["login", "login consent"] {
            let at = alice.authorize("official", &[("prompt", prompt)]).await;
            assert!(at.location().starts_with("/sign-in"), "{prompt}");
            assert!(alice.sign_in(&at, "alice").await.answer("code").is_some(), "{prompt}");
        }
        let none = alice.authorize("weatherbot", &[("prompt", "none")]).await;
        assert_eq!(none.answer("error").as_deref(), Some("consent_required"));
        let at = alice.authorize("weatherbot", &[("prompt", "consent login")]).await;
        let at = alice.sign_in(&at, "alice").await;
        assert!(alice.consent(&at, "allow").await.answer("code").is_some());
        // What one session allowed, the next one asks for again.
        assert!(alice.authorize("weatherbot", &[("prompt", "none")]).await.answer("code").is_some());
        let at = alice.authorize("official", &[("prompt", "login")]).await;
        alice.sign_in(&at, "alice").await;
        assert_eq!(alice.authorize("weatherbot", &[("prompt", "none")]).await.answer("error").as_deref(), Some("consent_required"));
    }

    #[tokio::test]
    async fn a_sign_in_that_is_too_long_ago_does_not_count() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        alice.code("official", "alice", &[]).await;
        let key = alice.cookies["_session"].clone();
        issuer.0.state.sessions().get_mut(&key).unwrap().signed_in_at -= 100;
        assert!(alice.authorize("official", &[("max_age", "3600")]).await.answer("code").is_some());
        let at = alice.authorize("official", &[("max_age", "99")]).await;
        let code = alice.sign_in(&at, "alice").await.answer("code").unwrap();
        let (_, answer) = exchange(&issuer, "official", &code, &[]).await;
        assert!(visitor::part(&answer["id_token"], 1)["auth_time"].is_i64());
    }

    #[tokio::test]
    async fn what_may_not_be_given_is_dropped_without_a_word() {
        let issuer = start().await;
        let cases = [
            // Of a resource that has it, of no resource, of nobody: only the first counts.
            ("official", "alice", "openid read:weather read:second foo:bar phone", "read:weather"),
            ("official", "alice", "openid write:weather read:weather write:weather", "write:weather read:weather"),
            ("weatherbot", "alice", "openid write:weather", ""),
            ("official", "bob", "openid read:weather", ""),
            ("own-spa", "alice", "read:weather", "read:weather"),
        ];
        for (client, user, scope, expected) in cases {
            let code = Visitor::of(&issuer).code(client, user, &[("scope", scope)]).await;
            let (status, answer) = exchange(&issuer, client, &code, &[]).await;
            assert_eq!((status, answer["scope"].as_str()), (200, Some(expected)), "{client} {scope}");
            assert_eq!(answer.get("id_token").is_some(), scope.starts_with("openid"));
            assert!(answer.get("refresh_token").is_none());
        }
        // Without `prompt=consent` it is dropped too.
        let code = Visitor::of(&issuer).code("official", "alice", &[("scope", "openid offline_access")]).await;
        let (_, answer) = exchange(&issuer, "official", &code, &[("resource", "")]).await;
        assert_eq!((answer["scope"].as_str(), answer.get("refresh_token")), (Some("openid"), None));
    }

    #[tokio::test]
    async fn without_a_resource_the_token_is_opaque_and_with_several_each_has_its_own() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let code = alice.code("official", "alice", &[("resource", ""), ("nonce", "n-1"), ("scope", "openid profile read:weather")]).await;
        // Fixture 07-features/resource-only-at-token-endpoint.
        assert_eq!(exchange(&issuer, "official", &code, &[]).await.1["error"], "invalid_target");
        let (_, answer) = exchange(&issuer, "official", &code, &[("resource", "")]).await;
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!((token.len(), token.contains('.'), &answer["scope"]), (43, false, &"openid profile".into()));
        assert_eq!(visitor::part(&answer["id_token"], 1)["nonce"], "n-1");

        let both = [
            ("resource", WEATHER),
            ("resource", SECOND),
            ("scope", "openid offline_access read:weather read:second"),
            ("prompt", "consent"),
        ];
        let code = alice.code("official", "alice", &both).await;
        let (_, answer) = exchange(&issuer, "official", &code, &[("resource", "")]).await;
        assert_eq!(answer["scope"], "openid offline_access");
        let mut token = answer["refresh_token"].clone();
        for (resource, scope) in [(WEATHER, "read:weather"), (SECOND, "read:second")] {
            let (_, answer) = visitor::refresh(&issuer, "official", &token, &[("resource", resource)]).await;
            assert_eq!((&answer["scope"], &visitor::part(&answer["access_token"], 1)["aud"]), (&scope.into(), &resource.into()));
            token = answer["refresh_token"].clone();
        }
    }

    #[tokio::test]
    async fn a_public_client_is_known_by_its_name_and_its_proof() {
        let issuer = start().await;
        for client in ["spa", "own-spa"] {
            let code = Visitor::of(&issuer).code(client, "alice", &[]).await;
            let (status, _) = exchange(&issuer, client, &code, &[("code_verifier", "")]).await;
            assert_eq!(status, 400);
            let (status, answer) = exchange(&issuer, client, &code, &[("client_secret", "x")]).await;
            assert_eq!((status, &answer["error"]), (401, &"invalid_client".into()));
            let (status, answer) = exchange(&issuer, client, &code, &[]).await;
            assert_eq!((status, &visitor::part(&answer["access_token"], 1)["client_id"]), (200, &client.into()));
        }
        let (status, answer) =
            visitor::call(&issuer, "/token", "spa", &[("grant_type", "client_credentials"), ("resource", WEATHER)]).await;
        assert_eq!((status, &answer["error"]), (400, &"unauthorized_client".into()));
    }
}
