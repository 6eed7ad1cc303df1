//! Revocations as the operator writes of them: how long each is kept, and how many.

use schemars::JsonSchema;
use serde::Deserialize;

use super::units::Span;

/// Revocations, by `POST /revocations` of the admin listener and by Logto's webhook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Revocations {
    /// How long one is kept unless it says sooner: at least as long as the longest access token lives.
    pub token_life: Span,
    /// How many are kept at a time. One more is refused; none is forgotten.
    pub entries: u32,
}

impl Default for Revocations {
    fn default() -> Self {
        Self { token_life: Span::seconds(24 * 3600), entries: 100_000 }
    }
}
