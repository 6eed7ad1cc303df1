//! What the operator writes about an issuer: whose tokens count, and where its keys are.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shapes::{OneOrMany, short_or_long};

/// An issuer with everything that can be said of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerKeys {
    /// The issuer identifier, exactly as it stands in the `iss` claim.
    pub url: String,
    /// The metadata document, when it is not at a well-known place under `url`.
    #[serde(default)]
    pub discovery_url: Option<String>,
    /// The JWK Set, when no metadata document should be asked for.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// A file with the JWK Set, when nothing should be asked over the network.
    #[serde(default)]
    pub jwks_file: Option<String>,
    /// Signature algorithms that are accepted. All asymmetric ones by default.
    #[serde(default)]
    pub algorithms: Option<OneOrMany<String>>,
    /// Values of the `typ` header that are accepted; `none` also admits tokens without one.
    #[serde(default)]
    pub token_types: Option<OneOrMany<String>>,
    /// Allow `http` to hosts other than this one. Only for issuers inside a private network.
    #[serde(default)]
    pub allow_http: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer(pub IssuerKeys);

short_or_long!(
    Issuer,
    IssuerKeys,
    "an issuer URL, or a map with url, discovery_url, jwks_uri, jwks_file, algorithms, token_types, allow_http",
    |text: &str| Ok::<_, String>(Issuer(IssuerKeys {
        url: text.to_owned(),
        discovery_url: None,
        jwks_uri: None,
        jwks_file: None,
        algorithms: None,
        token_types: None,
        allow_http: false,
    })),
    |keys| Ok::<_, String>(Issuer(keys))
);
