//! What the operator's Logto tenant should hold, for `wicketgate logto`: resources, scopes, roles and apps, each by name.

use std::time::Duration;

use crate::config::{AppKind, RoleKind, Secret};

/// How to reach the Management API, and what should stand there.
#[derive(Debug, Clone)]
pub struct Logto {
    pub access: LogtoAccess,
    pub tenant: Tenant,
    pub webhook: Option<Webhook>,
}

/// How Logto's webhooks are taken.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub signing_key: Secret,
    pub path: String,
    /// Whose users they are about; `None` where no service takes tokens of the tenant.
    pub issuer: Option<String>,
}

impl PartialEq for Webhook {
    fn eq(&self, other: &Self) -> bool {
        let Self { signing_key, path, issuer } = self;
        (signing_key.expose(), path, issuer) == (other.signing_key.expose(), &other.path, &other.issuer)
    }
}

/// Where the Management API is, and the credentials for it.
#[derive(Debug, Clone)]
pub struct LogtoAccess {
    /// Without a closing slash.
    pub endpoint: String,
    /// The indicator of the Management API.
    pub management_api: String,
    pub app_id: String,
    pub app_secret: Secret,
    /// For one attempt.
    pub timeout: Duration,
    /// For a call with all its attempts.
    pub deadline: Duration,
}

impl PartialEq for LogtoAccess {
    fn eq(&self, other: &Self) -> bool {
        let Self { endpoint, management_api, app_id, app_secret, timeout, deadline } = self;
        *endpoint == other.endpoint
            && *management_api == other.management_api
            && *app_id == other.app_id
            && app_secret.expose() == other.app_secret.expose()
            && (*timeout, *deadline) == (other.timeout, other.deadline)
    }
}

/// What the tenant should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenant {
    pub resources: Vec<TenantResource>,
    pub roles: Vec<TenantRole>,
    pub third_party_apps: Vec<TenantApp>,
}

/// An API resource, found by its indicator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantResource {
    pub indicator: String,
    /// What it is called when it has to be made.
    pub name: String,
    /// In seconds; whatever Logto has when nothing is said.
    pub access_token_ttl: Option<u64>,
    pub scopes: Vec<TenantScope>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantScope {
    pub name: String,
    /// Whatever Logto has when nothing is said.
    pub description: Option<String>,
}

/// A scope of a resource, by their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeOf {
    pub indicator: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRole {
    pub name: String,
    pub kind: RoleKind,
    pub description: Option<String>,
    pub scopes: Vec<ScopeOf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantApp {
    pub name: String,
    pub kind: AppKind,
    pub redirect_uris: Vec<String>,
    pub scopes: Vec<ScopeOf>,
    pub user_scopes: Vec<String>,
}
