//! What the Management API speaks of, as far as it is needed here. Members that are not named are left alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::Secret;

/// An API resource.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    pub id: String,
    pub name: String,
    pub indicator: String,
    #[serde(default)]
    pub access_token_ttl: Option<u64>,
}

/// A permission of an API resource.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    /// Missing where the resource is named beside it.
    #[serde(default)]
    pub resource_id: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    /// `User` or `MachineToMachine`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum ApplicationKind {
    Traditional,
    #[serde(rename = "SPA")]
    Spa,
    Native,
    MachineToMachine,
    /// `Protected`, `SAML`, and what is to come.
    #[serde(other)]
    Other,
}

impl ApplicationKind {
    /// RFC 6749 §2.1: whether it can keep a secret.
    pub fn is_confidential(self) -> bool {
        matches!(self, Self::Traditional | Self::MachineToMachine)
    }
}

/// A client of Logto (RFC 6749 §2); its id is the `client_id`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(rename = "type")]
    pub kind: ApplicationKind,
    #[serde(default)]
    pub is_third_party: bool,
    #[serde(default)]
    pub oidc_client_metadata: ClientMetadata,
    /// Where marks of ours stand, under `wicketgate`.
    #[serde(default)]
    pub custom_data: Map<String, Value>,
    /// In milliseconds.
    #[serde(default)]
    pub created_at: Option<u64>,
}

/// Written back whole, since a change replaces all of it: what is not known here stays as it was.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientMetadata {
    pub redirect_uris: Vec<String>,
    pub post_logout_redirect_uris: Vec<String>,
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// The member of `customData` that is ours.
pub(super) const MARK: &str = "wicketgate";

/// The name in our mark that says that an agent registered the application itself, and when.
pub const REGISTERED: &str = "registered";

impl Application {
    /// Its `customData` with more in our mark. What others keep there stays.
    pub fn marked(&self, marks: Map<String, Value>) -> Map<String, Value> {
        let mut data = self.custom_data.clone();
        let known = data.entry(MARK).or_insert_with(|| Value::Object(Map::new()));
        if !known.is_object() {
            *known = Value::Object(Map::new());
        }
        if let Some(known) = known.as_object_mut() {
            known.extend(marks);
        }
        data
    }

    /// What stands in our mark under this name.
    pub fn mark(&self, name: &str) -> Option<&Value> {
        self.custom_data.get(MARK)?.get(name)
    }
}

/// An application to be made.
#[derive(Debug, Clone)]
pub struct NewApplication {
    pub name: String,
    pub description: Option<String>,
    pub kind: ApplicationKind,
    pub third_party: bool,
    pub redirect_uris: Vec<String>,
    /// What our mark says beside the number of its making.
    pub marks: Map<String, Value>,
}

impl NewApplication {
    /// The body of the call. `making` is unique to this one, so that it is found again when the answer is lost.
    pub(super) fn body(&self, making: &str) -> Value {
        let mut mark = self.marks.clone();
        mark.insert(MAKING.to_owned(), making.into());
        let mut body = json!({
            "name": self.name,
            "type": self.kind,
            "isThirdParty": self.third_party,
            "oidcClientMetadata": { "redirectUris": self.redirect_uris, "postLogoutRedirectUris": [] },
            "customData": { MARK: mark },
        });
        if let Some(description) = &self.description {
            body["description"] = description.as_str().into();
        }
        body
    }
}

/// Which making an application is of.
pub(super) const MAKING: &str = "making";

/// An application's secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secrets {
    pub name: String,
    pub value: Secret,
    /// In milliseconds; `None` for never.
    #[serde(default)]
    pub expires_at: Option<u64>,
}

/// What a third-party application may ask users for at all, by name and id.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsentedScopes {
    pub user_scopes: Vec<String>,
    pub resource_scopes: Vec<ResourceScopes>,
}

impl ConsentedScopes {
    /// Whether all of these are among them.
    pub fn has(&self, scopes: &ConsentScopes) -> bool {
        let held = |id: &String| self.resource_scopes.iter().any(|held| held.scopes.iter().any(|scope| scope.id == *id));
        scopes.resource_scopes.iter().all(held) && scopes.user_scopes.iter().all(|scope| self.user_scopes.contains(scope))
    }
}

/// A resource and some of its scopes.
#[derive(Debug, Clone, Deserialize)]
pub struct ResourceScopes {
    pub resource: NamedResource,
    pub scopes: Vec<Scope>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct NamedResource {
    pub id: String,
    pub indicator: String,
}

/// What a third-party application should be allowed to ask for, beside what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsentScopes {
    pub user_scopes: Vec<String>,
    /// By id.
    pub resource_scopes: Vec<String>,
}

impl ConsentScopes {
    pub fn is_empty(&self) -> bool {
        self.user_scopes.is_empty() && self.resource_scopes.is_empty()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub id: String,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub primary_email: Option<String>,
    #[serde(default)]
    pub is_suspended: bool,
}

/// What a user consented to for a client, in one session; the same pair may have many.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    pub id: String,
    pub payload: GrantPayload,
    /// In milliseconds.
    #[serde(default)]
    pub expires_at: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantPayload {
    pub client_id: String,
    pub account_id: String,
    /// In seconds.
    #[serde(default)]
    pub exp: Option<i64>,
    /// Scopes by resource indicator, separated by spaces.
    #[serde(default)]
    pub resources: BTreeMap<String, String>,
    #[serde(default)]
    pub rejected: Rejected,
}

/// What the user saw and did not grant.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Rejected {
    pub resources: BTreeMap<String, String>,
}

impl Grant {
    /// The scopes of a resource that it holds. Expiry is the caller's to compare: it knows the time.
    pub fn scopes(&self, indicator: &str) -> impl Iterator<Item = &str> {
        let of = |map: &'_ BTreeMap<String, String>| map.get(indicator).cloned().unwrap_or_default();
        let rejected = of(&self.payload.rejected.resources);
        let granted = self.payload.resources.get(indicator).map(String::as_str).unwrap_or_default();
        let granted = granted.split(' ').filter(|scope| !scope.is_empty());
        granted.filter(move |scope| !rejected.split(' ').any(|rejected| rejected == *scope))
    }
}
