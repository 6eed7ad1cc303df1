//! From an address to an issuer: the metadata of a resource (RFC 9728) and of an authorization server (RFC 8414).

use http::{Request, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::exchange::{Http, may_be_asked};
use super::{Trouble, said};
use crate::demo::wire::{Party, Wire};

const RESOURCE_PATH: &str = "/.well-known/oauth-protected-resource";
const ISSUER_PATH: &str = "/.well-known/oauth-authorization-server";
const OPENID_PATH: &str = "/.well-known/openid-configuration";

/// What a protected resource says of itself.
#[derive(Debug, Deserialize)]
pub struct ResourceMetadata {
    /// Its identifier, which a token request names and a token carries as its audience.
    pub resource: String,
    #[serde(default)]
    pub authorization_servers: Vec<String>,
    #[serde(default)]
    pub scopes_supported: Vec<String>,
}

/// What an issuer says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct IssuerMetadata {
    pub issuer: String,
    pub authorization_endpoint: String,
    pub token_endpoint: String,
    pub revocation_endpoint: Option<String>,
    pub end_session_endpoint: Option<String>,
    pub scopes_supported: Option<Vec<String>>,
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    pub code_challenge_methods_supported: Option<Vec<String>>,
    /// RFC 9207: then an answer without `iss` is none of this issuer's.
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

impl IssuerMetadata {
    /// An issuer that lists its scopes refuses others, or ignores them.
    pub fn knows_scope(&self, scope: &str) -> bool {
        self.scopes_supported.as_ref().is_none_or(|known| known.iter().any(|known| known == scope))
    }

    /// Basic is what every issuer must take (RFC 6749 §2.3.1) and what a missing list means (RFC 8414 §2).
    pub fn takes_secret_in_the_body_only(&self) -> bool {
        let listed =
            |method: &str| self.token_endpoint_auth_methods_supported.as_ref().is_some_and(|known| known.iter().any(|m| m == method));
        listed("client_secret_post") && !listed("client_secret_basic")
    }
}

/// Fetches the metadata of the resource that refused a request to `called`, and believes it only if it can be of that
/// resource.
pub async fn resource_metadata(http: &Http, wire: &mut Wire, address: Option<&str>, called: &Url) -> Result<ResourceMetadata, Trouble> {
    let address = match address {
        Some(address) => Url::parse(address).map_err(|_| Trouble::distrusted("the challenge names no address of metadata"))?,
        // RFC 9728 §3.1, for a challenge that names none: at the well-known path of the host.
        None => called.join(RESOURCE_PATH).map_err(|_| Trouble::distrusted("the address has no host"))?,
    };
    let why = "The metadata of the resource tell its identifier and which issuer gives tokens for it (RFC 9728).";
    if address.origin() != called.origin() {
        // A gate that could point to another host's document could make a client ask for that host's tokens.
        return Err(Trouble::distrusted("the challenge names metadata on another host"));
    }
    let found = fetch(http, wire, Party::Gate, why, &address).await?;
    let Fetched::Document(metadata) = found else { return Err(Trouble::distrusted("there are no metadata of the resource")) };
    check_resource(&metadata, &address, called)?;
    Ok(metadata)
}

/// RFC 9728 §3.3: the document is of the resource from whose identifier its address was made, or it MUST NOT be used; and
/// what was called must lie within that resource.
fn check_resource(metadata: &ResourceMetadata, address: &Url, called: &Url) -> Result<(), Trouble> {
    let origin = address.origin().ascii_serialization();
    let below = address
        .path()
        .strip_prefix(RESOURCE_PATH)
        .ok_or_else(|| Trouble::distrusted("the metadata are not at their well-known address"))?;
    let query = address.query().map(|query| format!("?{query}")).unwrap_or_default();
    let derived = format!("{origin}{below}{query}");
    // The slash of an empty path is taken away when the address is made, so it may have been there.
    let is_it = metadata.resource == derived || (below.is_empty() && metadata.resource == format!("{origin}/"));
    if !is_it {
        return Err(Trouble::Distrusted(format!("the metadata at this address are of another resource: {}", said(&metadata.resource))));
    }
    let within = called
        .path()
        .strip_prefix(below)
        .is_some_and(|rest| below.is_empty() || below.ends_with('/') || rest.is_empty() || rest.starts_with('/'));
    match within {
        true => Ok(()),
        false => Err(Trouble::Distrusted(format!("the metadata are of {}, which is not what was called", said(&metadata.resource)))),
    }
}

/// Fetches the metadata of an issuer. Of the two places where they may be, the second is asked only if the first has none.
pub async fn issuer_metadata(http: &Http, wire: &mut Wire, issuer: &str) -> Result<IssuerMetadata, Trouble> {
    let attempts = [
        "The metadata of the issuer tell its endpoints: first where RFC 8414 has them, between host and path.",
        "Nothing there: OpenID Connect has them after the path, and so has Logto.",
    ];
    for (address, why) in issuer_addresses(issuer)?.iter().zip(attempts) {
        if let Fetched::Document(metadata) = fetch(http, wire, Party::Issuer, why, address).await? {
            check_issuer(&metadata, issuer)?;
            return Ok(metadata);
        }
    }
    Err(Trouble::distrusted("the issuer publishes no metadata"))
}

/// RFC 8414 §3.1, and OpenID Connect Discovery 1.0 §4.1.
fn issuer_addresses(issuer: &str) -> Result<[Url; 2], Trouble> {
    let url = Url::parse(issuer).map_err(|_| Trouble::distrusted("the issuer is no address"))?;
    let origin = url.origin().ascii_serialization();
    let path = url.path().trim_end_matches('/');
    let addresses = [format!("{origin}{ISSUER_PATH}{path}"), format!("{origin}{path}{OPENID_PATH}")];
    let [first, second] = addresses.map(|address| Url::parse(&address));
    first.and_then(|first| Ok([first, second?])).map_err(|_| Trouble::distrusted("the issuer is no address"))
}

/// RFC 8414 §3.3: metadata whose `issuer` is another MUST NOT be used. And a client without PKCE is not safe (RFC 9700 §2.1.1).
fn check_issuer(metadata: &IssuerMetadata, issuer: &str) -> Result<(), Trouble> {
    if metadata.issuer != issuer {
        return Err(Trouble::Distrusted(format!("the metadata are of another issuer: {}", said(&metadata.issuer))));
    }
    let endpoints = [Some(&metadata.authorization_endpoint), Some(&metadata.token_endpoint)];
    let optional = [metadata.revocation_endpoint.as_ref(), metadata.end_session_endpoint.as_ref()];
    for endpoint in endpoints.into_iter().chain(optional).flatten() {
        if !Url::parse(endpoint).is_ok_and(|url| may_be_asked(&url)) {
            return Err(Trouble::Distrusted(format!("an endpoint is neither https nor on this machine: {}", said(endpoint))));
        }
    }
    match &metadata.code_challenge_methods_supported {
        Some(methods) if !methods.iter().any(|method| method == "S256") => {
            Err(Trouble::distrusted("the issuer does not know PKCE with S256"))
        }
        _ => Ok(()),
    }
}

enum Fetched<T> {
    Document(T),
    Nothing,
}

async fn fetch<T: DeserializeOwned>(http: &Http, wire: &mut Wire, from: Party, why: &str, address: &Url) -> Result<Fetched<T>, Trouble> {
    let request = Request::get(address.as_str()).header(header::ACCEPT, "application/json").body(Vec::new());
    let request = request.map_err(|_| Trouble::distrusted("the metadata have no address"))?;
    let answer = http.exchange(wire, from, why, request).await?;
    match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body)
            .map(Fetched::Document)
            .map_err(|_| Trouble::distrusted("what was answered are no metadata")),
        status if status.is_client_error() => Ok(Fetched::Nothing),
        status => Err(Trouble::Distrusted(format!("the metadata were answered with status {}", status.as_u16()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn of(resource: &str) -> ResourceMetadata {
        ResourceMetadata { resource: resource.to_owned(), authorization_servers: Vec::new(), scopes_supported: Vec::new() }
    }

    /// RFC 9728 §3.3.
    #[test]
    fn metadata_are_believed_only_of_the_resource_that_their_address_was_made_from() {
        for (resource, address, called, good) in [
            ("http://a:1", "http://a:1/.well-known/oauth-protected-resource", "http://a:1/forecast/oslo", true),
            ("http://a:1/", "http://a:1/.well-known/oauth-protected-resource", "http://a:1/forecast/oslo", true),
            ("http://a:1/mcp", "http://a:1/.well-known/oauth-protected-resource/mcp", "http://a:1/mcp", true),
            ("http://a:1/mcp", "http://a:1/.well-known/oauth-protected-resource/mcp", "http://a:1/mcp/x", true),
            ("http://a:1/mcp", "http://a:1/.well-known/oauth-protected-resource/mcp", "http://a:1/mcp-evil", false),
            ("http://a:1/mcp/", "http://a:1/.well-known/oauth-protected-resource/mcp", "http://a:1/mcp", false),
            ("http://bank.example", "http://a:1/.well-known/oauth-protected-resource", "http://a:1/", false),
            ("http://a:1", "http://a:1/metadata.json", "http://a:1/", false),
            ("http://A:1", "http://a:1/.well-known/oauth-protected-resource", "http://a:1/", false),
        ] {
            assert_eq!(check_resource(&of(resource), &url(address), &url(called)).is_ok(), good, "{resource} at {address}");
        }
    }

    #[tokio::test]
    async fn metadata_on_another_host_are_not_even_fetched() {
        let (http, mut wire) = (Http::new().unwrap(), Wire::default());
        let address = Some("http://127.0.0.1:9/.well-known/oauth-protected-resource");
        let refused = resource_metadata(&http, &mut wire, address, &url("http://127.0.0.1:8/forecast/oslo")).await.unwrap_err();
        assert_eq!(refused.to_string(), "the challenge names metadata on another host");
        assert!(wire.steps().is_empty());
    }

    #[test]
    fn an_issuers_metadata_have_two_places() {
        let [first, second] = issuer_addresses("https://t.logto.app/oidc").unwrap();
        assert_eq!(first.as_str(), "https://t.logto.app/.well-known/oauth-authorization-server/oidc");
        assert_eq!(second.as_str(), "https://t.logto.app/oidc/.well-known/openid-configuration");
        let [first, second] = issuer_addresses("https://id.example").unwrap();
        assert_eq!(first.as_str(), "https://id.example/.well-known/oauth-authorization-server");
        assert_eq!(second.as_str(), "https://id.example/.well-known/openid-configuration");
    }

    fn metadata(change: impl Fn(&mut serde_json::Value)) -> IssuerMetadata {
        let mut document = serde_json::json!({
            "issuer": "https://id.example",
            "authorization_endpoint": "https://id.example/auth",
            "token_endpoint": "https://id.example/token",
        });
        change(&mut document);
        serde_json::from_value(document).unwrap()
    }

    /// RFC 8414 §3.3.
    #[test]
    fn metadata_of_another_issuer_are_not_used() {
        assert!(check_issuer(&metadata(|_| {}), "https://id.example").is_ok());
        assert!(check_issuer(&metadata(|_| {}), "https://id.example/").is_err());
        assert!(check_issuer(&metadata(|m| m["token_endpoint"] = "http://id.example/token".into()), "https://id.example").is_err());
        assert!(
            check_issuer(&metadata(|m| m["code_challenge_methods_supported"] = serde_json::json!(["plain"])), "https://id.example")
                .is_err()
        );
    }

    #[test]
    fn a_list_of_scopes_or_of_methods_is_heeded_if_there_is_one() {
        let silent = metadata(|_| {});
        assert!(silent.knows_scope("offline_access") && !silent.takes_secret_in_the_body_only());
        let strict = metadata(|m| {
            m["scopes_supported"] = serde_json::json!(["openid"]);
            m["token_endpoint_auth_methods_supported"] = serde_json::json!(["client_secret_post"]);
        });
        assert!(!strict.knows_scope("offline_access") && strict.takes_secret_in_the_body_only());
    }
}
