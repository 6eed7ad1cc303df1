//! The authorization endpoint (RFC 6749 §3.1): reads what an application asks, and refuses it before anybody is bothered.

use http::{HeaderMap, HeaderValue, Method, Request, header};
use hyper::body::Incoming;
use url::Url;

use super::client::{self, Parameters};
use super::refusal::Refusal;
use super::scopes;
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
    let scopes = requested_scopes(client, prompt, kept(parameters, "scope")?.as_deref().unwrap_or_default())?;
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
