//! What the operator writes about pages of other origins: which may call, and what they may read (CORS).

use schemars::JsonSchema;
use serde::Deserialize;

use super::shapes::OneOrMany;
use super::units::Span;

/// Which pages may call from a browser. The gate answers for the service: preflights never reach it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins, as in `https://app.example`; `https://*.app.example` for one label more, `"*"` for all. `[]` for none.
    pub origins: Vec<String>,
    /// Methods that pages may use; those of each route by default.
    #[serde(default)]
    pub methods: Option<OneOrMany<String>>,
    /// Request headers that pages may send; `"*"` for all.
    #[serde(default = "default_headers")]
    pub headers: OneOrMany<String>,
    /// Response headers that pages may read, beside those that the gate always shows; `"*"` for all.
    #[serde(default)]
    pub expose: Vec<String>,
    /// Whether pages may send cookies along.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
}

fn default_headers() -> OneOrMany<String> {
    OneOrMany(vec!["Authorization".to_owned(), "Content-Type".to_owned()])
}

fn default_max_age() -> Span {
    Span::seconds(600)
}
