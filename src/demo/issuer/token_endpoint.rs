//! The token endpoint (RFC 6749 §3.2): authenticates a client and gives it an access token, with Logto's words for every no.

use aws_lc_rs::error::Unspecified;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::signing::random_text;
use super::{Application, Resource, State, Tenant, TokenRequest};
use crate::demo::server::{self, Reply};

pub async fn answer(state: &State, request: Request<Incoming>) -> Reply {
    let mut reply = match grant(state, request).await {
        Ok(granted) => server::json(StatusCode::OK, &granted),
        Err(refusal) => refusal.reply(&state.url),
    };
    let headers = reply.headers_mut();
    // RFC 6749 §5.1.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("WWW-Authenticate"));
    reply
}

async fn grant(state: &State, request: Request<Incoming>) -> Result<Value, Refusal> {
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")) {
        return Err(Refusal::invalid_request("only application/x-www-form-urlencoded content-type bodies are supported on POST /token"));
    }
    let body = server::read_body(body).await.map_err(|status| Refusal { status, ..Refusal::invalid_request("failed to read the body") })?;
    let form = Form(form_urlencoded::parse(&body).into_owned().collect());
    let client = authenticate(state, &head.headers, &form)?;
    match form.one("grant_type")? {
        Some("client_credentials") => client_credentials(state, &client, &form),
        Some(_) => Err(Refusal::new("unsupported_grant_type", "unsupported grant_type requested")),
        None => Err(Refusal::invalid_request("missing required parameter 'grant_type'")),
    }
}

/// RFC 6749 §4.4, for a machine that acts for itself.
fn client_credentials(state: &State, client: &Application, form: &Form) -> Result<Value, Refusal> {
    let Some(resource) = form.one("resource")? else {
        // Logto itself refuses a machine that names no resource (`invalid_target`) and gives this token to users'
        // applications only. Here it is had without signing in, since a gate must be tried with one.
        return Ok(json!({ "access_token": random_text()?, "expires_in": state.token_lifetime_seconds, "token_type": "Bearer" }));
    };
    let requested = form.one("scope")?.unwrap_or_default();
    let granted = {
        let tenant = state.tenant();
        tenant.resource(resource).map(|resource| (resource.clone(), granted_scope(&tenant, client, resource, requested)))
    };
    let (resource, scope) = granted.ok_or_else(|| Refusal::new("invalid_target", "resource indicator is missing, or unknown"))?;
    let lifetime = state.lifetime(&resource);
    let token = state.access_token(TokenRequest {
        subject: client.id.clone(),
        client_id: client.id.clone(),
        resource: resource.indicator.clone(),
        scope: scope.clone(),
        expires_in: lifetime,
        ..TokenRequest::default()
    })?;
    let mut granted = json!({ "access_token": token, "expires_in": lifetime, "token_type": "Bearer" });
    if let Some(scope) = scope {
        granted["scope"] = Value::from(scope);
    }
    Ok(granted)
}

/// Those of the requested scopes that the resource has and the client was given. The others are dropped without a word.
fn granted_scope(tenant: &Tenant, client: &Application, resource: &Resource, requested: &str) -> Option<String> {
    let mut granted: Vec<&str> = Vec::new();
    for scope in requested.split_ascii_whitespace() {
        let given = resource.scope(scope).is_some_and(|scope| tenant.machine_has(client, scope));
        if given && !granted.contains(&scope) {
            granted.push(scope);
        }
    }
    (!granted.is_empty()).then(|| granted.join(" "))
}

fn authenticate(state: &State, headers: &HeaderMap, form: &Form) -> Result<Application, Refusal> {
    let basic = headers.get(header::AUTHORIZATION).map(basic_credentials).transpose()?;
    let posted = form.one("client_secret")?;
    let (id, secret) = match (basic, form.one("client_id")?, posted) {
        (Some(_), _, Some(_)) => {
            return Err(Refusal::invalid_request("client authentication must only be provided using one mechanism"));
        }
        (Some((basic, _)), Some(id), None) if basic != id => {
            return Err(Refusal::invalid_request("mismatch in body and authorization client ids"));
        }
        (Some(credentials), _, None) => credentials,
        (None, Some(id), Some(secret)) => (id.to_owned(), secret.to_owned()),
        (None, _, _) => return Err(Refusal::invalid_request("no client authentication mechanism provided")),
    };
    let client = state.tenant().application(&id).cloned();
    let client = client.ok_or_else(|| Refusal::new("invalid_client", format!("invalid client {id}")))?;
    if !client.has_secret(&secret) {
        return Err(Refusal { status: StatusCode::UNAUTHORIZED, ..Refusal::new("invalid_client", "client authentication failed") });
    }
    Ok(client)
}

/// RFC 6749 §2.3.1: both are form-encoded before they become user-id and password.
fn basic_credentials(value: &HeaderValue) -> Result<(String, String), Refusal> {
    let malformed = || Refusal::invalid_request("invalid authorization header value format");
    let (scheme, encoded) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(malformed)?;
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"));
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(malformed)?;
    let (id, secret) = decoded.split_once(':').ok_or_else(malformed)?;
    Ok((form_decode(id), form_decode(secret)))
}

fn form_decode(component: &str) -> String {
    // Who forgot to encode may have left an `&`, which would end a form's value.
    let pair = format!("value={}", component.replace('&', "%26"));
    form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

struct Form(Vec<(String, String)>);

impl Form {
    /// RFC 6749 §3.2: no parameter twice, and one without a value is as if left out.
    fn one(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self.0.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let first = values.next();
        match values.next() {
            Some(_) => Err(Refusal::invalid_request(format!("'{name}' parameter must not be provided twice"))),
            None => Ok(first.filter(|value| !value.is_empty())),
        }
    }
}

/// An error response (RFC 6749 §5.2) as Logto words it.
pub struct Refusal {
    status: StatusCode,
    error: &'static str,
    description: String,
}

impl Refusal {
    fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description: description.into() }
    }

    fn invalid_request(description: impl Into<String>) -> Self {
        Self::new("invalid_request", description)
    }

    /// For an address that the issuer does not have.
    pub fn unknown_route(method: &str, path: &str) -> Self {
        let path = path.strip_prefix("/oidc").unwrap_or(path);
        let description = format!("unrecognized route or not allowed method ({method} on {path})");
        Self { status: StatusCode::NOT_FOUND, ..Self::invalid_request(description) }
    }

    pub fn reply(&self, issuer: &str) -> Reply {
        let Self { status, error, description } = self;
        let code = format!("oidc.{error}");
        let message = match *error {
            "invalid_request" => "Request is invalid.".to_owned(),
            "invalid_target" => "Invalid resource indicator.".to_owned(),
            _ => format!("An OIDC error occurred: {code}."),
        };
        let body = json!({ "code": code, "message": message, "error": error, "error_description": description });
        let mut reply = server::json(*status, &body);
        if *status == StatusCode::UNAUTHORIZED {
            let challenge = format!(r#"Basic realm="{issuer}", error="{error}", error_description="{description}""#);
            reply.headers_mut().extend(HeaderValue::from_str(&challenge).ok().map(|value| (header::WWW_AUTHENTICATE, value)));
        }
        reply
    }
}

impl From<Unspecified> for Refusal {
    fn from(_: Unspecified) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..Self::new("server_error", "no token could be made") }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use reqwest::RequestBuilder;

    use super::*;
    use crate::demo::issuer::{Issuer, Settings};

    const WEATHER: &str = "https://api.weather.example";

    async fn start() -> Issuer {
        let settings = Settings {
            resources: vec![Resource::new(WEATHER, &[("read:weather", "See the forecast"), ("write:weather", "Change the forecast")])],
            applications: vec![Application::machine("cron", "s3cret &:é", &["read:weather"]), Application::machine("public", "", &[])],
            ..Settings::default()
        };
        Issuer::start(SocketAddr::from(([127, 0, 0, 1], 0)), settings).await.unwrap()
    }

    fn post(issuer: &Issuer, form: &str) -> RequestBuilder {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.post(format!("{}/token", issuer.url())).header("content-type", "application/x-www-form-urlencoded").body(form.to_owned())
    }

    fn as_cron(issuer: &Issuer, form: &str) -> RequestBuilder {
        post(issuer, form).basic_auth("cron", Some("s3cret+%26%3A%C3%A9"))
    }

    async fn ask(request: RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        (response.status().as_u16(), serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    fn claims(answer: &Value) -> Value {
        let token = answer["access_token"].as_str().unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_machine_gets_what_it_was_given_of_what_it_asks() {
        let issuer = start().await;
        let form = "grant_type=client_credentials&resource=https://api.weather.example&scope=write:weather+read:weather+read:weather";
        let (status, answer) = ask(as_cron(&issuer, form)).await;
        assert_eq!((status, &answer["scope"], &answer["expires_in"]), (200, &json!("read:weather"), &json!(3600)));
        let claims = claims(&answer);
        assert_eq!([&claims["sub"], &claims["client_id"], &claims["aud"], &claims["scope"]], ["cron", "cron", WEATHER, "read:weather"]);
        assert_eq!(issuer.counts().token, 1);
    }

    #[tokio::test]
    async fn a_machine_that_asks_for_no_scope_gets_a_token_without_the_claim() {
        let issuer = start().await;
        let form = "grant_type=client_credentials&resource=https://api.weather.example&client_id=cron&client_secret=s3cret+%26:%C3%A9";
        let (status, answer) = ask(post(&issuer, form)).await;
        assert_eq!((status, answer.get("scope"), claims(&answer).get("scope")), (200, None, None));
    }

    #[tokio::test]
    async fn without_a_resource_the_token_is_opaque() {
        let issuer = start().await;
        let (status, answer) = ask(as_cron(&issuer, "grant_type=client_credentials")).await;
        let token = answer["access_token"].as_str().unwrap();
        assert_eq!((status, token.len(), token.contains('.')), (200, 43, false));
    }

    #[tokio::test]
    async fn each_refusal_has_its_error() {
        let issuer = start().await;
        let good = "grant_type=client_credentials&resource=https://api.weather.example";
        let as_json = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let cases = [
            (as_cron(&issuer, "grant_type=client_credentials&resource=https://api.weather.example/"), 400, "invalid_target"),
            (as_cron(&issuer, "grant_type=password"), 400, "unsupported_grant_type"),
            (as_cron(&issuer, "grant_type="), 400, "invalid_request"),
            (as_cron(&issuer, &format!("{good}&scope=a&scope=b")), 400, "invalid_request"),
            (as_cron(&issuer, &format!("{good}&client_secret=x")), 400, "invalid_request"),
            (as_cron(&issuer, &format!("{good}&client_id=public")), 400, "invalid_request"),
            (as_cron(&issuer, &format!("{good}&x={}", "x".repeat(server::BODY_BYTES_MAX))), 413, "invalid_request"),
            (as_cron(&issuer, good).headers(as_json), 400, "invalid_request"),
            (post(&issuer, good), 400, "invalid_request"),
            (post(&issuer, good).bearer_auth("x"), 400, "invalid_request"),
            (post(&issuer, good).basic_auth("nobody", Some("x")), 400, "invalid_client"),
            (post(&issuer, good).basic_auth("cron", Some("x")), 401, "invalid_client"),
            (post(&issuer, good).basic_auth("public", Some("")), 401, "invalid_client"),
        ];
        for (i, (request, status, error)) in cases.into_iter().enumerate() {
            let (found, answer) = ask(request).await;
            assert_eq!((found, answer["error"].as_str()), (status, Some(error)), "case {i}");
        }
    }

    #[tokio::test]
    async fn a_refusal_has_the_shape_that_logto_gives_it() {
        let issuer = start().await;
        let response = post(&issuer, "grant_type=client_credentials").basic_auth("cron", Some("wrong")).send().await.unwrap();
        let challenge =
            format!(r#"Basic realm="{}", error="invalid_client", error_description="client authentication failed""#, issuer.url());
        assert_eq!(response.headers()["www-authenticate"], challenge);
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        let expected = json!({
            "code": "oidc.invalid_client",
            "message": "An OIDC error occurred: oidc.invalid_client.",
            "error": "invalid_client",
            "error_description": "client authentication failed",
        });
        assert_eq!(body, expected);
    }
}
