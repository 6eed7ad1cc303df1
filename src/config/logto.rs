//! Logto's Management API: where it is, the credentials for it, and what the tenant should hold.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Entries, OneOrMany, Secret, Span};

/// Logto's Management API: credentials of a machine-to-machine app with access to it, and what the tenant should hold.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Logto {
    /// The tenant's endpoint, without `/oidc`.
    pub endpoint: String,
    /// The tenant's issuer, when it is not the endpoint with `/oidc`: where the endpoint is an address inside.
    #[serde(default)]
    pub issuer: Option<String>,
    /// The indicator of the Management API; derived from the endpoint when that is one of Logto Cloud's.
    #[serde(default)]
    pub management_api: Option<String>,
    /// Allow `http` to hosts other than this one. Only for a Logto inside a private network.
    #[serde(default)]
    pub allow_http: bool,
    /// The app's id.
    pub app_id: String,
    /// The app's secret; better by `app_secret_file` or `${NAME}`.
    #[serde(default)]
    pub app_secret: Option<Secret>,
    /// A file that holds the app's secret.
    #[serde(default)]
    pub app_secret_file: Option<String>,
    /// The signing key of a webhook of Logto's for suspended and deleted users; better by `webhook_signing_key_file` or `${NAME}`.
    #[serde(default)]
    pub webhook_signing_key: Option<Secret>,
    /// A file that holds the signing key.
    #[serde(default)]
    pub webhook_signing_key_file: Option<String>,
    /// Where the gate takes the webhook, on every host of the listeners for clients.
    #[serde(default = "default_webhook_path")]
    pub webhook_path: String,
    /// How long one attempt may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How long a call may take with all its attempts.
    #[serde(default = "default_deadline")]
    pub deadline: Span,
    /// Roles that should hold scopes. Made by `wicketgate logto apply`.
    #[serde(default)]
    pub roles: Vec<LogtoRole>,
    /// Agents that may ask users for scopes. Made by `wicketgate logto apply`.
    #[serde(default)]
    pub third_party_apps: Vec<ThirdPartyApp>,
}

/// A role that should hold scopes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogtoRole {
    /// Its name, by which it is found.
    pub name: String,
    /// For users or for machines.
    #[serde(default, rename = "type")]
    pub kind: RoleKind,
    /// What the Console shows; the name by default.
    #[serde(default)]
    pub description: Option<String>,
    /// The scopes that it holds: one, a list, or a map of service to them where two resources have a scope of one name.
    pub scopes: ScopeNames,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
pub enum RoleKind {
    #[default]
    User,
    MachineToMachine,
}

/// Another developer's app that may ask users for consent.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThirdPartyApp {
    /// Its name, by which it is found. Users read it when asked to consent.
    pub name: String,
    /// `Traditional` has a secret; `SPA` and `Native` are public.
    #[serde(default, rename = "type")]
    pub kind: AppKind,
    /// Where users are sent back to.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// The scopes that it may ask users for at all, as for roles.
    pub scopes: ScopeNames,
    /// What it may ask about the user: `profile`, `email` and their like.
    #[serde(default)]
    pub user_scopes: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
pub enum AppKind {
    #[default]
    Traditional,
    #[serde(rename = "SPA")]
    Spa,
    Native,
}

fn default_webhook_path() -> String {
    "/.well-known/wicketgate/logto-webhook".to_owned()
}

fn default_timeout() -> Span {
    Span::seconds(5)
}

fn default_deadline() -> Span {
    Span::seconds(30)
}

/// Names of scopes: alone, or by the service that they are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeNames {
    Names(Vec<String>),
    ByService(Vec<(String, Vec<String>)>),
}

impl<'de> Deserialize<'de> for ScopeNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ScopeNames;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a scope, a list of scopes, or a map of service to them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(ScopeNames::Names(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(ScopeNames::Names)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let entries: Entries<OneOrMany<String>> = Entries::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ScopeNames::ByService(entries.0.into_iter().map(|(service, names)| (service, names.0)).collect()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for ScopeNames {
    fn schema_name() -> Cow<'static, str> {
        "ScopeNames".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<String>();
        let some = generator.subschema_for::<OneOrMany<String>>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }, { "type": "object", "additionalProperties": some }] })
    }
}
