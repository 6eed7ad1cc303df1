//! What the browser brings back from the issuer, and whether it belongs to what this very browser was sent off with.

use super::{Pending, said};
use crate::demo::page::{Form, same_secret};

/// What the issuer answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered {
    Code(String),
    /// An error response (RFC 6749 §4.1.2.1), such as `access_denied`.
    Refused {
        error: String,
        description: String,
    },
    /// Nothing at all: so Logto's consent page comes back when it is cancelled.
    Cancelled,
}

/// Why a callback is no answer to anything.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackFault {
    #[error("Nothing was asked of the issuer from this browser, or its answer was used already.")]
    NothingPending,
    #[error("The answer has no state, or that of another request. It may have been slipped to this browser by somebody else.")]
    StateWrong,
    #[error("The answer names another issuer than the one that was asked (RFC 9207).")]
    IssuerWrong,
    #[error("The answer does not name its issuer, though this issuer always does (RFC 9207).")]
    IssuerMissing,
    #[error("The answer holds neither one code nor an error.")]
    CodeMissing,
    /// For a party that can do nothing about the error.
    #[error("The issuer answered with an error: {error}. {description}")]
    Refused { error: String, description: String },
}

/// Checks a callback against what is pending in the session of the browser that brought it.
pub fn check(pending: Option<&Pending>, query: &Form) -> Result<Answered, CallbackFault> {
    let pending = pending.ok_or(CallbackFault::NothingPending)?;
    let has = |name: &str| query.all(name).next().is_some();
    if !["code", "error", "state", "iss"].into_iter().any(has) {
        return Ok(Answered::Cancelled);
    }
    if !same_secret(&pending.state, query.one("state")) {
        return Err(CallbackFault::StateWrong);
    }
    // RFC 9207 §2.4: compared whenever it is there, and demanded of who says that it always is.
    match query.one("iss") {
        Some(issuer) if issuer == pending.issuer.issuer => {}
        None if !has("iss") && !pending.issuer.authorization_response_iss_parameter_supported => {}
        None if !has("iss") => return Err(CallbackFault::IssuerMissing),
        _ => return Err(CallbackFault::IssuerWrong),
    }
    match (query.one("code"), query.one("error")) {
        (None, Some(error)) => {
            Ok(Answered::Refused { error: said(error), description: said(query.one("error_description").unwrap_or_default()) })
        }
        (Some(code), None) if !has("error") && !code.is_empty() => Ok(Answered::Code(code.to_owned())),
        _ => Err(CallbackFault::CodeMissing),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::IssuerMetadata;
    use super::*;

    fn pending(issuer_is_always_named: bool) -> Pending {
        let issuer: IssuerMetadata = serde_json::from_value(serde_json::json!({
            "issuer": "https://id.example/oidc",
            "authorization_endpoint": "https://id.example/oidc/auth",
            "token_endpoint": "https://id.example/oidc/token",
            "authorization_response_iss_parameter_supported": issuer_is_always_named,
        }))
        .unwrap();
        Pending::new(Arc::new(issuer), "https://api.example", vec!["read".to_owned()])
    }

    fn asked(pending: Option<&Pending>, query: &str) -> Result<Answered, CallbackFault> {
        let state = pending.map_or("none", |pending| pending.state.as_str());
        check(pending, &Form::parse(query.replace("STATE", state).as_bytes()))
    }

    #[test]
    fn a_code_counts_with_the_state_and_the_issuer_that_it_was_asked_with() {
        let (named, unnamed) = (pending(true), pending(false));
        let good = "code=c&state=STATE&iss=https://id.example/oidc";
        assert_eq!(asked(Some(&named), good), Ok(Answered::Code("c".to_owned())));
        assert_eq!(asked(Some(&unnamed), "code=c&state=STATE"), Ok(Answered::Code("c".to_owned())));
        for (query, fault) in [
            ("code=c&iss=https://id.example/oidc", CallbackFault::StateWrong),
            ("code=c&state=other&iss=https://id.example/oidc", CallbackFault::StateWrong),
            ("code=c&state=STATE&state=STATE&iss=https://id.example/oidc", CallbackFault::StateWrong),
            ("code=c&state=&iss=https://id.example/oidc", CallbackFault::StateWrong),
            ("code=c&state=STATE", CallbackFault::IssuerMissing),
            ("code=c&state=STATE&iss=https://evil.example", CallbackFault::IssuerWrong),
            ("code=c&state=STATE&iss=https://id.example/oidc&iss=https://id.example/oidc", CallbackFault::IssuerWrong),
            ("state=STATE&iss=https://id.example/oidc", CallbackFault::CodeMissing),
            ("code=&state=STATE&iss=https://id.example/oidc", CallbackFault::CodeMissing),
            ("code=c&code=d&state=STATE&iss=https://id.example/oidc", CallbackFault::CodeMissing),
            ("code=c&error=x&error=y&state=STATE&iss=https://id.example/oidc", CallbackFault::CodeMissing),
        ] {
            assert_eq!(asked(Some(&named), query), Err(fault), "{query}");
        }
        assert_eq!(asked(Some(&unnamed), "code=c&state=STATE&iss=https://evil.example"), Err(CallbackFault::IssuerWrong));
        assert_eq!(asked(None, good), Err(CallbackFault::NothingPending));
    }

    #[test]
    fn an_error_and_a_bare_return_are_answers_too() {
        let pending = pending(true);
        let refused = asked(Some(&pending), "error=access_denied&error_description=no%0Athanks&state=STATE&iss=https://id.example/oidc");
        assert_eq!(refused, Ok(Answered::Refused { error: "access_denied".to_owned(), description: "no thanks".to_owned() }));
        assert_eq!(asked(Some(&pending), "error=access_denied&iss=https://id.example/oidc"), Err(CallbackFault::StateWrong));
        assert_eq!(asked(Some(&pending), ""), Ok(Answered::Cancelled));
    }
}
