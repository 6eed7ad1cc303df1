//! What the issuer publishes: its metadata and its key set, each with the headers that Logto sends.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::State;
use super::faults::Fault;
use super::scopes::OPENID_SCOPES;
use crate::demo::server::{self, Reply};

pub const ALL: [&str; 3] = ["/oidc/.well-known/openid-configuration", "/oidc/.well-known/oauth-authorization-server", "/oidc/jwks"];
const CORS: HeaderValue = HeaderValue::from_static("*");

/// A document as it is served.
pub struct Document {
    pub content_type: &'static str,
    cache_control: Option<&'static str>,
    pub body: Bytes,
}

/// OpenID Connect Discovery 1.0 §3 and RFC 8414 §2; Logto serves one body under both names. It lists what is served
/// here and no more: a client that believes it must not run into a 404.
pub fn metadata(state: &State, fault: Option<Fault>) -> Document {
    let url = &state.url;
    let issuer = match fault {
        Some(Fault::WrongIssuer) => "https://other.example/oidc",
        _ => url,
    };
    let body = json!({
        "issuer": issuer,
        "jwks_uri": format!("{url}/jwks"),
        "authorization_endpoint": format!("{url}/auth"),
        "authorization_response_iss_parameter_supported": true,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": ["none", "login", "consent"],
        "claims_parameter_supported": false,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "token_endpoint": format!("{url}/token"),
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "introspection_endpoint": format!("{url}/token/introspection"),
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "revocation_endpoint": format!("{url}/token/revocation"),
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "userinfo_endpoint": format!("{url}/me"),
        "end_session_endpoint": format!("{url}/session/end"),
        "scopes_supported": OPENID_SCOPES,
        "claims_supported": [
            "sub", "name", "preferred_username", "username", "picture", "created_at", "updated_at",
            "email", "email_verified", "sid", "auth_time", "nonce", "iss",
        ],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [state.keys.current().algorithm.name()],
    });
    Document::new("application/json; charset=utf-8", None, &body)
}

/// Logto asks for the key set never to be cached, so a gate that obeyed to the letter would fetch it for each request.
pub fn key_set(state: &State, fault: Option<Fault>) -> Document {
    let body = match fault {
        Some(Fault::EmptyKeySet) => json!({ "keys": [] }),
        _ => state.keys.published(),
    };
    Document::new("application/jwk-set+json; charset=utf-8", Some("no-cache, max-age=0, must-revalidate"), &body)
}

/// What a browser asks before it lets a program of another origin call an endpoint for programs.
pub fn preflight() -> Reply {
    let mut reply = Reply::new(server::full(Bytes::new()));
    *reply.status_mut() = StatusCode::NO_CONTENT;
    let headers = reply.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, CORS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET,POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization,Content-Type"));
    reply
}

impl Document {
    fn new(content_type: &'static str, cache_control: Option<&'static str>, body: &Value) -> Self {
        Self { content_type, cache_control, body: Bytes::from(body.to_string()) }
    }

    /// The answer to a GET with these headers: 304 when the caller has this very document (RFC 9110 §13.1.2).
    pub fn reply(self, asked: &HeaderMap) -> Reply {
        let etag = format!("\"{:x}-{}\"", self.body.len(), BASE64_STANDARD_NO_PAD.encode(digest(&SHA256, &self.body)));
        let mut reply = match has(asked, &etag) {
            false => server::reply(StatusCode::OK, self.content_type, self.body),
            true => {
                let mut reply = Reply::new(server::full(Bytes::new()));
                *reply.status_mut() = StatusCode::NOT_MODIFIED;
                reply
            }
        };
        let headers = reply.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, CORS);
        headers.extend(HeaderValue::from_str(&etag).ok().map(|etag| (header::ETAG, etag)));
        headers.extend(self.cache_control.map(|rule| (header::CACHE_CONTROL, HeaderValue::from_static(rule))));
        reply
    }
}

fn has(asked: &HeaderMap, etag: &str) -> bool {
    let tags = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    tags.flat_map(|tags| tags.split(',')).map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::super::visitor::{Page, client, start};
    use super::*;

    #[tokio::test]
    async fn every_endpoint_that_the_metadata_name_is_served() {
        let issuer = start().await;
        let url = format!("{}/.well-known/openid-configuration", issuer.url());
        let metadata = Page::of(client().get(url).send().await.unwrap()).await.json();
        let endpoints = metadata.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_endpoint") || *name == "jwks_uri");
        let mut count = 0;
        for (name, address) in endpoints {
            let get = client().get(address.as_str().unwrap()).send().await.unwrap().status();
            let post = client().post(address.as_str().unwrap()).send().await.unwrap().status();
            assert!(get != StatusCode::NOT_FOUND || post != StatusCode::NOT_FOUND, "{name}");
            count += 1;
        }
        assert_eq!(count, 7);
        assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
        assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
        assert!(metadata.get("registration_endpoint").is_none());
    }

    #[tokio::test]
    async fn a_program_in_a_browser_may_call_what_is_for_programs_and_no_page() {
        let issuer = start().await;
        let ask = |path: &str| client().request(http::Method::OPTIONS, format!("http://{}{path}", issuer.address())).send();
        for path in ["/oidc/token", "/oidc/me", "/oidc/jwks", "/oidc/.well-known/openid-configuration"] {
            let answer = ask(path).await.unwrap();
            assert_eq!((answer.status().as_u16(), &answer.headers()["access-control-allow-origin"]), (204, &CORS), "{path}");
        }
        for path in ["/oidc/auth", "/sign-in", "/consent", "/oidc/session/end"] {
            let answer = ask(path).await.unwrap();
            assert!(answer.status() == 404 && answer.headers().get("access-control-allow-origin").is_none(), "{path}");
        }
    }
}
