//! What the Management API says no with: status, code and message as Logto words them.

use http::StatusCode;
use serde_json::{Value, json};

use crate::demo::server::{self, Reply};

/// A refusal. Logto's own have a code; what its framework refuses is plain text.
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    data: Option<Value>,
    details: Option<String>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), data: None, details: None }
    }

    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn unauthorized(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    pub fn unprocessable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    pub fn with(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// An address without a route.
    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "", "Not Found")
    }

    /// A body that could not be read, or is too large.
    pub fn unreadable(status: StatusCode) -> Self {
        Self::new(status, "", status.canonical_reason().unwrap_or_default())
    }

    /// An entity that is looked for by its id, in a table of this name.
    pub fn unknown_id(table: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "entity.not_exists_with_id", format!("The {table} with ID `{id}` does not exist."))
    }

    /// An entity that is to be deleted, or a user.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "entity.not_found", "The resource does not exist.")
    }

    /// An input that is not of its form. `kind` is `body`, `query` or the like; `issue` is one of zod's, with its path.
    pub fn invalid_input(kind: &str, issue: Value) -> Self {
        let keys: Vec<String> = issue["path"].as_array().into_iter().flatten().map(plain).collect();
        let told = match (&issue["expected"], &issue["received"]) {
            (Value::String(expected), Value::String(received)) => format!("Expected {expected} but received {received}."),
            _ => plain(&issue["message"]),
        };
        let details = format!("Error in key path \"{}\": ({}) {told}", keys.join("."), plain(&issue["code"]));
        let refusal = Self::bad_request("guard.invalid_input", format!("The request {kind} is invalid."));
        Self { details: Some(details), ..refusal.with(json!({ "issues": [issue], "name": "ZodError" })) }
    }

    pub fn malformed(details: String) -> Self {
        let refusal = Self::bad_request("guard.invalid_input", "The request body is invalid.");
        Self { details: Some(details), ..refusal }
    }

    /// More of them than the issuer keeps. In Logto it is the plan that sets such a limit.
    pub fn too_many(kind: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "subscription.limit_exceeded", format!("The limit of {kind} is reached."))
    }

    pub fn reply(self) -> Reply {
        if self.code.is_empty() {
            return server::reply(self.status, "text/plain; charset=utf-8", self.message.into());
        }
        let mut body = json!({ "code": self.code, "message": self.message });
        if let Some(data) = self.data {
            body["data"] = data;
        }
        if let Some(details) = self.details {
            body["details"] = Value::from(details);
        }
        server::json(self.status, &body)
    }
}

/// A text without its quotes, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
