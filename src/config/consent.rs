//! Live consent as the operator writes of it: whether Logto is asked if a user's consent still stands.

use schemars::JsonSchema;
use serde::Deserialize;

use super::units::Span;

/// Whether third-party apps need their users' consent as it is now. Needs `logto`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// `live` asks Logto for the user's grants; `token` takes the token's word until it expires.
    #[serde(default)]
    pub check: ConsentCheck,
    /// How long a grant that was seen counts: for so long a withdrawn consent still passes. Whole seconds.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
    /// How long it counts that there is none. A token that was issued later is asked about at once. Whole seconds.
    #[serde(default = "default_negative_max_age")]
    pub negative_max_age: Span,
    /// What to do while Logto cannot be asked and what is known is older than `max_age`.
    #[serde(default)]
    pub on_error: OnError,
    /// With `on_error: allow`: consent that was last known to stand so long ago counts no more. Whole seconds.
    #[serde(default = "default_max_stale")]
    pub max_stale: Span,
    /// How long a request waits for an answer.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How many answers are kept: one a user and app, one an app.
    #[serde(default = "default_remembered")]
    pub remembered: u32,
    /// Questions at a time. Users and apps that were asked about before have as many of their own.
    #[serde(default = "default_in_flight")]
    pub in_flight: u32,
    /// Questions a second. Users and apps that were asked about before have as many of their own.
    #[serde(default = "default_per_second")]
    pub per_second: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsentCheck {
    #[default]
    Live,
    Token,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Refuse with 503.
    #[default]
    Deny,
    /// Go by what was known last, up to `max_stale`.
    Allow,
}

fn default_max_age() -> Span {
    Span::seconds(60)
}

fn default_negative_max_age() -> Span {
    Span::seconds(5)
}

fn default_max_stale() -> Span {
    Span::seconds(600)
}

fn default_timeout() -> Span {
    Span::seconds(2)
}

fn default_remembered() -> u32 {
    100_000
}

fn default_in_flight() -> u32 {
    16
}

fn default_per_second() -> u32 {
    50
}
