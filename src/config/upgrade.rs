//! The upgrade as the operator writes of it: where a new process finds the running one, and how long it may take.

use schemars::JsonSchema;
use serde::Deserialize;

use super::units::Span;

/// How a new process takes over from a running one, without losing a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// The Unix socket at which the running process hands over its listeners: an absolute path. Only its own user may connect.
    pub socket: String,
    /// How long the new process may take until it is ready to serve. The old one goes on if it takes longer.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
}

fn default_timeout() -> Span {
    Span::seconds(30)
}
