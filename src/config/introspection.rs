//! Opaque tokens as the operator writes of them: whether and how a service asks the issuer about them (RFC 7662).

use schemars::JsonSchema;
use serde::Deserialize;

use super::secret::Secret;
use super::units::Span;

/// How the issuer is asked about opaque access tokens. Without it they are refused.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Introspection {
    /// The gate's own app at the issuer, a confidential one.
    pub client_id: String,
    /// Its secret; better by `client_secret_file` or `${NAME}`.
    #[serde(default)]
    pub client_secret: Option<Secret>,
    /// A file that holds the secret.
    #[serde(default)]
    pub client_secret_file: Option<String>,
    /// How the credentials are sent: in the `Authorization` header, or in the form.
    #[serde(default)]
    pub auth: ClientAuth,
    /// Where to ask; `introspection_endpoint` of the issuer's metadata by default.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Which issuer's tokens they are, where the service has several.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Whether an answer must say for which resource the token is. One that says another is refused either way.
    #[serde(default)]
    pub audience: AudienceCheck,
    /// How long an answer counts: for so long a revoked token still passes. Never beyond the token's own end.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
    /// How long it counts that a token is not active.
    #[serde(default = "default_negative_max_age")]
    pub negative_max_age: Span,
    /// How long one question may take, waiting for its turn included.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How many active tokens' answers are kept. 0 keeps none.
    #[serde(default = "default_remembered")]
    pub remembered: u32,
    /// Questions at a time. Tokens that were active before have as many of their own.
    #[serde(default = "default_in_flight")]
    pub in_flight: u32,
    /// Questions a second. Tokens that were active before have as many of their own.
    #[serde(default = "default_per_second")]
    pub per_second: u32,
}

/// How a client proves to the issuer who it is (RFC 6749 §2.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    #[default]
    Basic,
    Post,
}

/// What is asked of the `aud` of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AudienceCheck {
    /// It is there and names this service's resource.
    #[default]
    Required,
    /// It names this service's resource, or is not there. For issuers that send none, such as Logto.
    IfPresent,
}

fn default_max_age() -> Span {
    Span::seconds(60)
}

fn default_negative_max_age() -> Span {
    Span::seconds(5)
}

fn default_timeout() -> Span {
    Span::seconds(5)
}

fn default_remembered() -> u32 {
    10_000
}

fn default_in_flight() -> u32 {
    32
}

fn default_per_second() -> u32 {
    100
}
