//! How the issuer says no to a program: an error response (RFC 6749 §5.2) as Logto words it.

use aws_lc_rs::error::Unspecified;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::demo::server::{self, Reply};

#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub error: &'static str,
    pub description: String,
    /// The scope that is at fault.
    pub scope: Option<String>,
}

impl Refusal {
    pub fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description: description.into(), scope: None }
    }

    pub fn invalid_request(description: impl Into<String>) -> Self {
        Self::new("invalid_request", description)
    }

    pub fn missing(parameter: &str) -> Self {
        Self::invalid_request(format!("missing required parameter '{parameter}'"))
    }

    /// For a code or refresh token that is unknown, expired, used, revoked, or another client's: the caller is not told
    /// which.
    pub fn invalid_grant() -> Self {
        Self::new("invalid_grant", "grant request is invalid")
    }

    pub fn invalid_target() -> Self {
        Self::new("invalid_target", "resource indicator is missing, or unknown")
    }

    pub fn unknown_client(id: &str) -> Self {
        Self::new("invalid_client", format!("invalid client {id}"))
    }

    /// For an address that the issuer does not have.
    pub fn unknown_route(method: &str, path: &str) -> Self {
        let path = path.strip_prefix("/oidc").unwrap_or(path);
        let description = format!("unrecognized route or not allowed method ({method} on {path})");
        Self { status: StatusCode::NOT_FOUND, ..Self::invalid_request(description) }
    }

    pub fn reply(&self, issuer: &str) -> Reply {
        let Self { status, error, description, .. } = self;
        let mut reply = server::json(*status, &self.body());
        if *status == StatusCode::UNAUTHORIZED {
            let challenge = format!(r#"Basic realm="{issuer}", error="{error}", error_description="{description}""#);
            reply.headers_mut().extend(HeaderValue::from_str(&challenge).ok().map(|value| (header::WWW_AUTHENTICATE, value)));
        }
        reply
    }

    pub fn body(&self) -> Value {
        let Self { error, description, scope, .. } = self;
        let code = format!("oidc.{error}");
        let message = match *error {
            "invalid_request" => "Request is invalid.",
            "invalid_target" => "Invalid resource indicator.",
            "invalid_grant" => "Grant request is invalid.",
            "invalid_token" => "Invalid token provided.",
            "invalid_redirect_uri" => "`redirect_uri` did not match any of the client's registered `redirect_uris`.",
            // Logto forgets to fill in its own template.
            "invalid_scope" => "Invalid scope: {{error_description}}.",
            _ => &format!("An OIDC error occurred: {code}."),
        };
        let mut body = json!({ "code": code, "message": message, "error": error, "error_description": description });
        if *error == "invalid_grant" {
            body["error_uri"] = Value::from("https://openid.sh/debug/invalid_grant");
        }
        if let Some(scope) = scope {
            body["scope"] = Value::from(scope.as_str());
        }
        body
    }
}

impl From<Unspecified> for Refusal {
    fn from(_: Unspecified) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..Self::new("server_error", "no random number or signature could be made") }
    }
}
