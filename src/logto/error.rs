//! Every way in which the Management API can fail us, with what to do about it. None holds a secret, a token, or a body.

use std::time::Duration;

use thiserror::Error;

/// Why there is no answer, or not the wanted one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LogtoError {
    #[error("Logto cannot be reached: {0}; check logto.endpoint and the network, then try again")]
    Unreachable(String),
    #[error("Logto refused the credentials ({0}); check logto.app_id and logto.app_secret")]
    CredentialsRefused(String),
    #[error(
        "Logto forbids it ({0}); give the machine-to-machine app the role \"Logto Management API access\", and check logto.management_api"
    )]
    Forbidden(String),
    #[error("Logto asks for fewer calls; try again in a while")]
    RateLimited { retry_after: Option<Duration> },
    /// A 4xx of the Management API with its code: the call itself is at fault.
    #[error("Logto refused {call} with {status} {code}: {message}")]
    Refused { call: String, status: u16, code: String, message: String },
    #[error("Logto's answer to {call} makes no sense: {reason}; check that logto.endpoint is the tenant's endpoint, without /oidc")]
    Unexpected { call: String, reason: String },
}

impl LogtoError {
    /// Whether trying again later may help without anyone changing anything: what a caller is told with 503.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::RateLimited { .. })
    }

    /// How long a caller should wait, if Logto said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => *retry_after,
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// A 422 that says that a scope is no more.
    pub fn is_unknown_scope(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "application.user_consent_scopes_not_found")
    }

    /// A 422 that says that what should be made is there already.
    pub(super) fn is_conflict(&self) -> bool {
        const CODES: [&str; 4] = ["resource.resource_identifier_in_use", "scope.name_exists", "role.name_in_use", "role.scope_exists"];
        matches!(self, Self::Refused { code, .. } if CODES.contains(&code.as_str()))
    }
}

/// Text of another party's for a log or an error: of bounded length, and no control character.
pub(super) fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    clean(&text.chars().take(CHARS_MAX).collect::<String>())
}

/// Text of another party's for a terminal: whole, and no control character.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_party_says_is_cut_and_holds_no_control_character() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
        assert_eq!(printable(&"x".repeat(5000)).len(), 200);
    }

    #[test]
    fn only_what_passes_by_itself_is_a_503() {
        assert!(LogtoError::Unreachable(String::new()).is_passing());
        assert!(LogtoError::RateLimited { retry_after: None }.is_passing());
        for lasting in [LogtoError::CredentialsRefused(String::new()), LogtoError::Forbidden(String::new())] {
            assert!(!lasting.is_passing(), "{lasting}");
        }
    }
}
