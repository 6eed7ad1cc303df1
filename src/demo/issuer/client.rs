//! Who calls an endpoint for programs: its parameters, and the authentication of the client (RFC 6749 §2.3).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use url::form_urlencoded;

use super::refusal::Refusal;
use super::{Application, State};
use crate::demo::server;

/// The parameters of a request to the authorization server.
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// RFC 6749 §3.1 and §3.2: no parameter twice, and one without a value is as if left out.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self.0.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let first = values.next();
        match values.next() {
            Some(_) => Err(Refusal::invalid_request(format!("'{name}' parameter must not be provided twice"))),
            None => Ok(first.filter(|value| !value.is_empty())),
        }
    }

    pub fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.one(name)?.ok_or_else(|| Refusal::missing(name))
    }

    /// For `resource`, which may come more than once (RFC 8707 §2).
    pub fn all<'p>(&'p self, name: &str) -> impl Iterator<Item = &'p str> {
        self.0.iter().filter(move |(found, value)| found == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }
}

/// The form that was posted, and what stood above it.
pub async fn read(request: Request<Incoming>) -> Result<(Parts, Parameters), Refusal> {
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")) {
        let path = head.uri.path();
        let path = path.strip_prefix("/oidc").unwrap_or(path);
        let only = format!("only application/x-www-form-urlencoded content-type bodies are supported on POST {path}");
        return Err(Refusal::invalid_request(only));
    }
    let body = server::read_body(body).await.map_err(|status| Refusal { status, ..Refusal::invalid_request("failed to read the body") })?;
    Ok((head, Parameters::parse(&body)))
}

/// The application that calls. A confidential one shows its secret; a public one only says who it is, and proves with
/// PKCE that it is the one that asked.
pub fn authenticate(state: &State, headers: &HeaderMap, parameters: &Parameters) -> Result<Application, Refusal> {
    let basic = headers.get(header::AUTHORIZATION).map(basic_credentials).transpose()?;
    let posted = parameters.one("client_secret")?;
    let (id, secret) = match (basic, parameters.one("client_id")?, posted) {
        (Some(_), _, Some(_)) => {
            return Err(Refusal::invalid_request("client authentication must only be provided using one mechanism"));
        }
        (Some((basic, _)), Some(id), None) if basic != id => {
            return Err(Refusal::invalid_request("mismatch in body and authorization client ids"));
        }
        (Some((id, secret)), _, None) => (id, Some(secret)),
        (None, Some(id), secret) => (id.to_owned(), secret.map(str::to_owned)),
        (None, None, _) => return Err(Refusal::invalid_request("no client authentication mechanism provided")),
    };
    let client = state.tenant().application(&id).cloned().ok_or_else(|| Refusal::unknown_client(&id))?;
    let known = match (client.kind.is_confidential(), secret) {
        (true, Some(secret)) => client.has_secret(&secret),
        (false, secret) => secret.is_none(),
        (true, None) => false,
    };
    if !known {
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
