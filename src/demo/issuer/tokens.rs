//! The tokens of users: opaque ones and refresh tokens, which are kept, and the answer that hands them out.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::Parameters;
use super::code::Authorization;
use super::refusal::Refusal;
use super::scopes::{self, OPENID_SCOPES};
use super::signing::random_text;
use super::{Application, Grant, Resource, State, Tenant, TokenRequest, User, id_token};
use crate::clock;
use crate::demo::kept::Kept;

/// 14 days, as in Logto.
pub const REFRESH_LIFETIME: Duration = Duration::from_secs(14 * 24 * 3600);
const TOKENS_MAX: usize = 10_000;

/// An opaque access token: good for `userinfo` and nothing else.
#[derive(Debug, Clone)]
pub struct Opaque {
    /// None for a machine's own.
    pub grant: Option<String>,
    pub subject: String,
    pub client_id: String,
    /// OpenID Connect's own, as granted.
    pub scopes: Vec<String>,
    pub issued_at: i64,
    pub expires_at: i64,
}

#[derive(Debug, Clone)]
pub struct Refresh {
    pub authorization: Authorization,
    pub issued_at: i64,
    pub expires_at: i64,
    /// Since when there is a newer one.
    pub rotated_at: Option<Instant>,
}

pub struct Tokens {
    pub opaque: Kept<Opaque>,
    pub refresh: Kept<Refresh>,
}

impl Tokens {
    pub fn new(opaque_lifetime: Duration) -> Self {
        Self { opaque: Kept::new(opaque_lifetime, TOKENS_MAX), refresh: Kept::new(REFRESH_LIFETIME, TOKENS_MAX) }
    }
}

/// A token response, and what there is to say about it without the secrets.
pub struct Issued {
    pub response: Value,
    pub user: String,
    scope: String,
}

impl Issued {
    pub fn decision(&self) -> String {
        match self.scope.as_str() {
            "" => "a token without scopes".to_owned(),
            scope => format!("a token with {scope}"),
        }
    }

    pub fn reason(&self, client: &Application, resource: Option<&Resource>) -> String {
        match resource {
            Some(Resource { indicator, .. }) if client.third_party => {
                format!("what {} allowed, within the roles and the app's ceiling, for {indicator}", self.user)
            }
            Some(Resource { indicator, .. }) => format!("what the roles of {} give the company's own app, for {indicator}", self.user),
            None => "no resource was named, so that it is opaque".to_owned(),
        }
    }
}

/// The user and the grant that an authorization rests on, if both are still good.
pub fn standing(state: &State, authorization: &Authorization) -> Result<(User, Grant), Refusal> {
    let user = state.tenant().user(&authorization.subject).filter(|user| !user.suspended).cloned();
    let grant = state.grants().get(&authorization.grant).cloned();
    user.zip(grant).ok_or_else(Refusal::invalid_grant)
}

/// The one resource that this token is for (RFC 8707 §2.2): of those in the authorization request, or none.
pub fn resource(state: &State, authorization: &Authorization, parameters: &Parameters) -> Result<Option<Resource>, Refusal> {
    let Some(indicator) = parameters.one("resource").map_err(|_| Refusal::invalid_target())? else { return Ok(None) };
    let known = authorization.resources.iter().any(|known| known == indicator);
    let resource = state.tenant().resource(indicator).filter(|_| known).cloned();
    resource.map(Some).ok_or_else(Refusal::invalid_target)
}

/// OpenID Connect's own scopes, of these, that the grant has.
pub fn openid_scopes(grant: &Grant, asked: &[String]) -> Vec<String> {
    let granted = |scope: &&String| OPENID_SCOPES.contains(&scope.as_str()) && grant.openid_scopes.contains(scope);
    asked.iter().filter(granted).cloned().collect()
}

/// The scopes of a resource, of these, that the grant has and that user, resource and ceiling still give.
pub fn resource_scopes(
    tenant: &Tenant,
    client: &Application,
    user: &User,
    grant: &Grant,
    resource: &Resource,
    asked: &[String],
) -> Vec<String> {
    let mut scopes = scopes::grantable(tenant, client, user, resource, asked);
    let granted = grant.resource_scopes.get(&resource.indicator);
    scopes.retain(|scope| granted.is_some_and(|granted| granted.contains(scope)));
    scopes
}

/// An access token for the resource, or an opaque one; with it an ID token and a refresh token, if they were asked for.
pub fn issue(
    state: &State,
    client: &Application,
    authorization: &Authorization,
    asked: &[String],
    resource: Option<&Resource>,
    nonce: Option<&str>,
) -> Result<Issued, Refusal> {
    let (user, grant) = standing(state, authorization)?;
    let openid = openid_scopes(&grant, asked);
    let (token, lifetime, scopes) = match resource {
        Some(resource) => {
            let scopes = resource_scopes(&state.tenant(), client, &user, &grant, resource, asked);
            let lifetime = state.lifetime(resource);
            let token = state.access_token(TokenRequest {
                subject: user.id.clone(),
                client_id: client.id.clone(),
                resource: resource.indicator.clone(),
                scope: Some(scopes.join(" ")).filter(|scope| !scope.is_empty()),
                expires_in: lifetime,
                ..TokenRequest::default()
            })?;
            (token, lifetime, scopes)
        }
        None => {
            let token = keep_opaque(state, Some(grant.id.clone()), &user.id, client, openid.clone())?;
            (token, state.token_lifetime_seconds, openid.clone())
        }
    };
    let scope = scopes.join(" ");
    let mut response = json!({ "access_token": token, "expires_in": lifetime, "scope": scope, "token_type": "Bearer" });
    if openid.iter().any(|scope| scope == "openid") {
        response["id_token"] = Value::from(id_token::sign(state, &user, authorization, &openid, nonce)?);
    }
    if authorization.scopes.iter().any(|scope| scope == "offline_access")
        && grant.openid_scopes.iter().any(|scope| scope == "offline_access")
    {
        response["refresh_token"] = Value::from(keep_refresh(state, authorization)?);
    }
    Ok(Issued { response, user: user.name, scope })
}

pub fn keep_opaque(
    state: &State,
    grant: Option<String>,
    subject: &str,
    client: &Application,
    scopes: Vec<String>,
) -> Result<String, Refusal> {
    let token = random_text()?;
    let issued_at = clock::unix_now();
    let expires_at = issued_at.saturating_add(state.token_lifetime_seconds);
    let opaque = Opaque { grant, subject: subject.to_owned(), client_id: client.id.clone(), scopes, issued_at, expires_at };
    state.tokens().opaque.insert(token.clone(), opaque);
    Ok(token)
}

fn keep_refresh(state: &State, authorization: &Authorization) -> Result<String, Refusal> {
    let token = random_text()?;
    let issued_at = clock::unix_now();
    let expires_at = issued_at.saturating_add_unsigned(REFRESH_LIFETIME.as_secs());
    let refresh = Refresh { authorization: authorization.clone(), issued_at, expires_at, rotated_at: None };
    state.tokens().refresh.insert(token.clone(), refresh);
    Ok(token)
}
