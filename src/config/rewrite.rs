//! What the operator writes about changes on the way: path, host and headers of requests and of answers.

use schemars::JsonSchema;
use serde::Deserialize;

use super::cors::Cors;
use super::secret::Secret;
use super::shapes::{Entries, OneOrMany};

/// How path and host change on the way to the upstream. The decision is made before, on what the client sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Whole segments that are taken from the front of the path.
    #[serde(default)]
    pub strip_prefix: Option<String>,
    /// Whole segments that are put in front of what is left.
    #[serde(default)]
    pub add_prefix: Option<String>,
    /// The `Host` that the upstream gets: `preserve` for the client's, `upstream` for the upstream's own, or a name.
    #[serde(default)]
    pub host: Option<String>,
    /// Lead `Location`, `Content-Location` and `Refresh` of answers back to what the client knows.
    #[serde(default)]
    pub location: Option<bool>,
    /// Lead `Path` and `Domain` of cookies that the upstream sets back to what the client knows.
    #[serde(default)]
    pub cookies: Option<bool>,
}

/// Headers that the upstream gets beside those of the client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestHeaders {
    /// Names and values; what the client sent under these names does not pass.
    #[serde(default)]
    pub set: Option<Entries<Secret>>,
    /// Names and files that hold the values.
    #[serde(default)]
    pub set_file: Option<Entries<String>>,
    /// Names and values, as one line more beside those of the client.
    #[serde(default)]
    pub add: Option<Entries<Secret>>,
    /// Names that do not pass.
    #[serde(default)]
    pub remove: Option<OneOrMany<String>>,
}

/// Headers that the client gets beside those of the upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseHeaders {
    /// Names and values, in place of the upstream's; also on the gate's own answers, where those do not have the name.
    #[serde(default)]
    pub set: Option<Entries<String>>,
    /// Names and values, as one line more beside those of the upstream; also on the gate's own answers.
    #[serde(default)]
    pub add: Option<Entries<String>>,
    /// Names of the upstream's that do not pass.
    #[serde(default)]
    pub remove: Option<OneOrMany<String>>,
}

/// What one route says of all this; each key that is there replaces that of its service, whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteRewrite {
    pub rewrite: Option<Rewrite>,
    pub request_headers: Option<RequestHeaders>,
    pub response_headers: Option<ResponseHeaders>,
    pub cors: Option<Cors>,
}
