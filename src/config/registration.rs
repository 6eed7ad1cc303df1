//! Client registration as the operator writes of it: who may register an app, as what, and what it may then ask users for.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer};

use super::{OneOrMany, ScopeNames, Secret, Span};

/// Agents may register themselves (RFC 7591): the gate makes a third-party app in Logto for each. Off without this key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Where the endpoint stands on every host of the gate.
    #[serde(default = "default_path")]
    pub path: String,
    /// Scheme and host under which clients reach the endpoint; those of the first service by default.
    #[serde(default)]
    pub public_url: Option<String>,
    /// Whom `authorization_servers` of services names first: the issuer, or the gate, whose copy of the issuer's metadata has
    /// the registration endpoint in it. Clients that compare the two (RFC 8414 §3.3) refuse the gate.
    #[serde(default)]
    pub advertise: Advertise,
    /// The most that a registered app may ask users for.
    pub ceiling: Ceiling,
    /// What an app may ask for at all: what it named of the ceiling when it registered, or all of the ceiling.
    #[serde(default)]
    pub grant: Grant,
    /// Also register apps that keep a secret. Logto does not force PKCE upon them.
    #[serde(default)]
    pub confidential: bool,
    /// Where users may be sent back to.
    #[serde(default)]
    pub redirect: Redirect,
    /// Names that no app may have in its own, however spelled: your company's and your products'.
    #[serde(default)]
    pub reserved_names: Vec<String>,
    /// Tokens without which nobody may register (RFC 7591 §3); better by `initial_access_tokens_file`.
    #[serde(default)]
    pub initial_access_tokens: Vec<Secret>,
    /// A file with such tokens, one a line.
    #[serde(default)]
    pub initial_access_tokens_file: Option<String>,
    /// Registrations of one address in an hour, and ten times as many looks at them and changes.
    #[serde(default = "default_per_address")]
    pub per_address_per_hour: u32,
    /// Registrations of everybody in a minute, and ten times as many looks at them and changes.
    #[serde(default = "default_per_minute")]
    pub per_minute: u32,
    /// Registered apps that may exist at a time.
    #[serde(default = "default_quota")]
    pub quota: u32,
    /// When an app that was never used is deleted.
    #[serde(default = "default_expiry")]
    pub expire_unused_after: Span,
}

/// The most that a registered app may ask users for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// Scopes of services: one, a list, or a map of service to them.
    pub scopes: ScopeNames,
    /// What it may ask about the user: `profile`, `email` and their like.
    #[serde(default)]
    pub user_scopes: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Advertise {
    #[default]
    Issuer,
    Gate,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    #[default]
    Requested,
    Ceiling,
}

/// Where users may be sent back to with a code.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// To a program on the user's own machine: `http` to 127.0.0.1, [::1] and localhost.
    pub loopback: bool,
    /// Hosts to which users may be sent by `https`: a list of names, or `any`. None by default.
    pub hosts: Hosts,
    /// Schemes of programs' own (RFC 8252 §7.1), as in `com.example.agent`. None by default.
    pub schemes: Vec<String>,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { loopback: true, hosts: Hosts::Named(Vec::new()), schemes: Vec::new() }
    }
}

/// Names of hosts, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    Any,
    Named(Vec<String>),
}

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let OneOrMany(names) = OneOrMany::<String>::deserialize(deserializer)?;
        match names.as_slice() {
            [only] if only == "any" => Ok(Self::Any),
            names if names.iter().any(|name| name == "any") => Err(de::Error::custom("any beside names; write any alone, or the names")),
            _ => Ok(Self::Named(names)),
        }
    }
}

impl JsonSchema for Hosts {
    fn schema_name() -> Cow<'static, str> {
        "Hosts".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let names = generator.subschema_for::<OneOrMany<String>>();
        json_schema!({ "description": "a list of host names, or the word any", "anyOf": [names] })
    }
}

fn default_path() -> String {
    "/register".to_owned()
}

fn default_per_address() -> u32 {
    10
}

fn default_per_minute() -> u32 {
    30
}

fn default_quota() -> u32 {
    200
}

fn default_expiry() -> Span {
    Span::seconds(30 * 24 * 3600)
}
