//! A registration request, read (RFC 7591 §2): each member that is known is checked, all others are left alone, and what
//! the app becomes in Logto follows from them.

use serde_json::{Map, Value};

use super::name;
use super::redirect::{Landing, landing};
use super::refusal::Refusal;
use super::scopes::{Granted, granted};
use crate::logto::ApplicationKind;
use crate::policy::{Registration, Scopes};

const REDIRECT_URIS_MAX: usize = 10;
const LIST_ITEMS_MAX: usize = 20;
const SCOPE_BYTES_MAX: usize = 4096;

/// What is registered of `grant_types`. Anything else that a client names is left out of the answer (RFC 7591 §3.2.1).
const GRANT_TYPES: [&str; 2] = ["authorization_code", "refresh_token"];

/// Members that a client must not send when it changes its registration (RFC 7592 §2.2).
const NOT_THE_CLIENTS: [&str; 4] =
    ["registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"];

/// How a client proves who it is at the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    None,
    Basic,
    Post,
}

impl AuthMethod {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic => "client_secret_basic",
            Self::Post => "client_secret_post",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Basic, Self::Post].into_iter().find(|method| method.name() == text)
    }
}

/// An app as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub kind: ApplicationKind,
    pub redirect_uris: Vec<String>,
    pub auth_method: AuthMethod,
    pub grant_types: Vec<&'static str>,
    pub granted: Granted,
}

/// Reads a registration.
pub fn read(registration: &Registration, body: &[u8]) -> Result<Wanted, Refusal> {
    wanted(registration, &members(body)?)
}

/// Reads a change of one (RFC 7592 §2.2), with the secret that the client may show in it.
pub fn read_change(registration: &Registration, client_id: &str, body: &[u8]) -> Result<(Wanted, Option<String>), Refusal> {
    let members = members(body)?;
    if NOT_THE_CLIENTS.iter().any(|name| members.contains_key(*name)) {
        return Err(Refusal::Metadata("registration_access_token and its like are not the client's to send (RFC 7592 section 2.2)"));
    }
    if text(&members, "client_id", "client_id is no text")? != Some(client_id) {
        return Err(Refusal::Metadata("client_id is not the one of this address"));
    }
    let secret = text(&members, "client_secret", "client_secret is no text")?.map(str::to_owned);
    Ok((wanted(registration, &members)?, secret))
}

fn members(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    serde_json::from_slice(body).map_err(|_| Refusal::Metadata("the body is no JSON object"))
}

fn wanted(registration: &Registration, members: &Map<String, Value>) -> Result<Wanted, Refusal> {
    statement(members)?;
    let auth_method = auth_method(registration, members)?;
    let (redirect_uris, landings) = redirect_uris(registration, members)?;
    response_types(members)?;
    let grant_types = grant_types(members)?;
    let name = app_name(registration, members, &redirect_uris)?;
    let requested = match text(members, "scope", "scope is no text")? {
        Some(scope) if scope.len() > SCOPE_BYTES_MAX => return Err(Refusal::Metadata("scope is longer than 4096 bytes")),
        scope => scope.map(Scopes::parse),
    };
    let native = match text(members, "application_type", "application_type is no text")? {
        None => None,
        Some("native") => Some(true),
        Some("web") => Some(false),
        Some(_) => return Err(Refusal::Metadata("application_type is neither web nor native")),
    };
    Ok(Wanted {
        name,
        kind: kind(auth_method, &landings, native),
        redirect_uris,
        auth_method,
        grant_types,
        granted: granted(registration, requested.as_ref()),
    })
}

/// A public app is `Native` where it runs on the user's machine: of such Logto compares a loopback redirect without its
/// port (RFC 8252 §7.3), which a program only knows when it starts.
fn kind(auth_method: AuthMethod, landings: &[Landing], native: Option<bool>) -> ApplicationKind {
    let local = landings.iter().any(|landing| *landing != Landing::Web);
    match auth_method {
        AuthMethod::Basic | AuthMethod::Post => ApplicationKind::Traditional,
        AuthMethod::None if local || native == Some(true) => ApplicationKind::Native,
        AuthMethod::None => ApplicationKind::Spa,
    }
}

/// RFC 7591 §2.3: a statement is a JWT by somebody whom the server trusts. Nobody is.
fn statement(members: &Map<String, Value>) -> Result<(), Refusal> {
    match members.get("software_statement") {
        None => Ok(()),
        Some(Value::String(statement)) if statement.split('.').count() == 3 => Err(Refusal::StatementRefused),
        Some(_) => Err(Refusal::StatementInvalid),
    }
}

/// Without a word it is `client_secret_basic` (RFC 7591 §2).
fn auth_method(registration: &Registration, members: &Map<String, Value>) -> Result<AuthMethod, Refusal> {
    let text = text(members, "token_endpoint_auth_method", "token_endpoint_auth_method is no text")?;
    let method = match text {
        None => AuthMethod::Basic,
        Some(text) => AuthMethod::parse(text)
            .ok_or(Refusal::Metadata("token_endpoint_auth_method is none of none, client_secret_basic and client_secret_post"))?,
    };
    match method == AuthMethod::None || registration.confidential {
        true => Ok(method),
        false => Err(Refusal::SecretNotGiven),
    }
}

fn redirect_uris(registration: &Registration, members: &Map<String, Value>) -> Result<(Vec<String>, Vec<Landing>), Refusal> {
    let uris = texts(members, "redirect_uris").map_err(|()| Refusal::RedirectUri("redirect_uris is no list of texts"))?;
    if uris.is_empty() {
        return Err(Refusal::RedirectUri("redirect_uris is empty or missing"));
    }
    if uris.len() > REDIRECT_URIS_MAX {
        return Err(Refusal::RedirectUri("there are more than 10 redirect URIs"));
    }
    let mut landings = Vec::new();
    for uri in &uris {
        landings.push(landing(&registration.redirect, uri).map_err(Refusal::RedirectUri)?);
    }
    let mut unique: Vec<String> = Vec::new();
    for uri in uris {
        if !unique.iter().any(|known| known == uri) {
            unique.push(uri.to_owned());
        }
    }
    Ok((unique, landings))
}

/// RFC 7591 §2.1: the two must fit; `code` goes with `authorization_code`.
fn response_types(members: &Map<String, Value>) -> Result<(), Refusal> {
    let types = texts(members, "response_types").map_err(|()| Refusal::Metadata("response_types is no list of texts"))?;
    match types.is_empty() || types.contains(&"code") {
        true => Ok(()),
        false => Err(Refusal::Metadata("response_types has no code")),
    }
}

fn grant_types(members: &Map<String, Value>) -> Result<Vec<&'static str>, Refusal> {
    let named = texts(members, "grant_types").map_err(|()| Refusal::Metadata("grant_types is no list of texts"))?;
    if named.is_empty() {
        return Ok(vec![GRANT_TYPES[0]]);
    }
    match named.contains(&GRANT_TYPES[0]) {
        true => Ok(GRANT_TYPES.into_iter().filter(|known| named.contains(known)).collect()),
        false => Err(Refusal::Metadata("grant_types has no authorization_code")),
    }
}

/// The name that users read. An app without one is called after where it sends them.
fn app_name(registration: &Registration, members: &Map<String, Value>, redirect_uris: &[String]) -> Result<String, Refusal> {
    let name = match text(members, "client_name", "client_name is no text")? {
        Some(text) => name::shown(text).map_err(Refusal::Metadata)?,
        None => {
            let first = redirect_uris.first().and_then(|uri| url::Url::parse(uri).ok());
            let place = first.as_ref().and_then(|url| url.host_str().or_else(|| Some(url.scheme())));
            format!("App at {}", place.unwrap_or("an unknown place"))
        }
    };
    match name::is_reserved(&registration.reserved_names, &name) {
        true => Err(Refusal::NameReserved),
        false => Ok(name),
    }
}

fn text<'m>(members: &'m Map<String, Value>, name: &str, otherwise: &'static str) -> Result<Option<&'m str>, Refusal> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::Metadata(otherwise)),
    }
}

fn texts<'m>(members: &'m Map<String, Value>, name: &str) -> Result<Vec<&'m str>, ()> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= LIST_ITEMS_MAX => items.iter().map(|item| item.as_str().ok_or(())).collect(),
        Some(_) => Err(()),
    }
}
