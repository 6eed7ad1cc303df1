//! Which scopes a user can give an application: what was asked, and of that what resource, user and ceiling allow.

use std::collections::BTreeMap;

use super::authorize::AuthorizationRequest;
use super::{Application, Grant, Resource, Tenant, User};

/// What is served of OpenID Connect's own scopes.
pub const OPENID_SCOPES: [&str; 4] = ["openid", "offline_access", "profile", "email"];

/// The user scopes that Logto knows. A third-party application may ask only for those in its ceiling.
const USER_SCOPES: [&str; 11] = [
    "profile",
    "email",
    "phone",
    "address",
    "custom_data",
    "identities",
    "roles",
    "urn:logto:scope:organizations",
    "urn:logto:scope:organization_roles",
    "urn:logto:scope:sessions",
    "urn:logto:scope:trusted_devices",
];

/// The first user scope among these that the application may not ask for.
pub fn forbidden<'s>(client: &Application, asked: &'s [String]) -> Option<&'s String> {
    let outside = |scope: &&String| USER_SCOPES.contains(&scope.as_str()) && !client.ceiling.user_scopes.contains(scope);
    asked.iter().filter(|_| client.third_party).find(outside)
}

/// Of the scopes asked for, those that this resource has, that the user's roles give, and that the application may ask
/// for. The others are dropped without a word.
pub fn grantable(tenant: &Tenant, client: &Application, user: &User, resource: &Resource, asked: &[String]) -> Vec<String> {
    let may = |name: &&String| resource.scope(name).is_some_and(|scope| client.may_ask_for(scope) && tenant.user_has(user, scope));
    asked.iter().filter(may).cloned().collect()
}

/// What a user can give an application that asked for this.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    pub openid_scopes: Vec<String>,
    /// By resource indicator; a resource of which nothing can be given is not here.
    pub resource_scopes: BTreeMap<String, Vec<String>>,
}

impl Offer {
    pub fn of(tenant: &Tenant, asked: &AuthorizationRequest, client: &Application, user: &User) -> Self {
        let served = asked.scopes.iter().filter(|scope| OPENID_SCOPES.contains(&scope.as_str()));
        let resources = asked.resources.iter().filter_map(|indicator| tenant.resource(indicator));
        let scopes = resources.map(|resource| (resource.indicator.clone(), grantable(tenant, client, user, resource, &asked.scopes)));
        Self { openid_scopes: served.cloned().collect(), resource_scopes: scopes.filter(|(_, scopes)| !scopes.is_empty()).collect() }
    }

    /// Whether all of it is allowed already.
    pub fn is_within(&self, grant: &Grant) -> bool {
        let within = |scopes: &[String], known: &[String]| scopes.iter().all(|scope| known.contains(scope));
        let known = |resource: &str| grant.resource_scopes.get(resource).map(Vec::as_slice).unwrap_or_default();
        within(&self.openid_scopes, &grant.openid_scopes)
            && self.resource_scopes.iter().all(|(resource, scopes)| within(scopes, known(resource)))
    }

    /// Only what the other one has too.
    pub fn and(mut self, other: &Self) -> Self {
        self.openid_scopes.retain(|scope| other.openid_scopes.contains(scope));
        for (resource, scopes) in &mut self.resource_scopes {
            let known = other.resource_scopes.get(resource);
            scopes.retain(|scope| known.is_some_and(|known| known.contains(scope)));
        }
        self.resource_scopes.retain(|_, scopes| !scopes.is_empty());
        self
    }

    /// The names of all of it, in one line.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.openid_scopes.iter().chain(self.resource_scopes.values().flatten()).map(String::as_str).collect();
        names.join(" ")
    }
}
