//! Every way to say no to somebody who registers an app, one row each, with the error of RFC 7591 §3.2.2.

#![deny(clippy::wildcard_enum_match_arm)]

use http::StatusCode;

/// Why a registration, or a change of one, was refused. What a variant carries says which rule it was and echoes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    RedirectUri(&'static str),
    Metadata(&'static str),
    NameReserved,
    SecretNotGiven,
    StatementInvalid,
    StatementRefused,
    InitialTokenMissing,
    InitialTokenWrong,
    ClientTokenMissing,
    ClientTokenWrong,
    TooMany { seconds: u32 },
    QuotaFull,
    LogtoAway { seconds: u32 },
    IssuerAway,
}

/// What a refusal looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalRow {
    pub status: StatusCode,
    /// The `error` of the body (RFC 7591 §3.2.2), and of the challenge where there is one (RFC 6750 §3.1).
    pub error: &'static str,
    /// A challenge goes with it; with the error in it when a token was shown.
    pub challenge: Option<Option<&'static str>>,
    /// Stable, in the body's `code`, in the log's `reason` and in the metric's `reason`.
    pub code: &'static str,
    pub title: &'static str,
    pub cure: &'static str,
}

/// How many refusals there are: the length of [`Refusal::examples`].
pub const REFUSALS: usize = 14;

const fn row(status: StatusCode, error: &'static str, code: &'static str, title: &'static str, cure: &'static str) -> RefusalRow {
    RefusalRow { status, error, challenge: None, code, title, cure }
}

/// RFC 6750 §3.1: an error only when a token was shown.
const fn token(shown: bool, code: &'static str, title: &'static str, cure: &'static str) -> RefusalRow {
    let challenge = Some(if shown { Some("invalid_token") } else { None });
    RefusalRow { status: StatusCode::UNAUTHORIZED, error: "invalid_token", challenge, code, title, cure }
}

impl Refusal {
    pub fn row(self) -> RefusalRow {
        use StatusCode as S;
        match self {
            Self::RedirectUri(_) => row(
                S::BAD_REQUEST,
                "invalid_redirect_uri",
                "redirect_uri_refused",
                "A redirect URI is malformed or leads where this server sends nobody",
                "send https to a host that the operator allows, http to this machine, or a scheme that the operator allows",
            ),
            Self::Metadata(_) => row(
                S::BAD_REQUEST,
                "invalid_client_metadata",
                "client_metadata_refused",
                "The client metadata is malformed or asks for something that is not offered",
                "see error_description",
            ),
            Self::NameReserved => row(
                S::BAD_REQUEST,
                "invalid_client_metadata",
                "client_name_reserved",
                "The name looks like one that belongs to somebody else",
                "choose another client_name",
            ),
            Self::SecretNotGiven => row(
                S::BAD_REQUEST,
                "invalid_client_metadata",
                "secret_not_given",
                "Only public clients are registered here",
                "send token_endpoint_auth_method: none, and use PKCE",
            ),
            Self::StatementInvalid => row(
                S::BAD_REQUEST,
                "invalid_software_statement",
                "software_statement_invalid",
                "The software statement is no JWT",
                "leave software_statement out",
            ),
            Self::StatementRefused => row(
                S::BAD_REQUEST,
                "unapproved_software_statement",
                "software_statement_refused",
                "No software statement is approved here",
                "leave software_statement out",
            ),
            Self::InitialTokenMissing => token(
                false,
                "initial_access_token_missing",
                "An initial access token is needed to register",
                "ask the operator for one and send it as Authorization: Bearer",
            ),
            Self::InitialTokenWrong => {
                token(true, "initial_access_token_wrong", "The initial access token is unknown", "ask the operator for another")
            }
            Self::ClientTokenMissing => token(
                false,
                "registration_token_missing",
                "The registration access token of this client is needed",
                "send the one that came with the registration as Authorization: Bearer",
            ),
            Self::ClientTokenWrong => token(
                true,
                "registration_token_wrong",
                "The registration access token is not this client's, or the client is no more",
                "register anew",
            ),
            Self::TooMany { .. } => row(
                S::TOO_MANY_REQUESTS,
                "temporarily_unavailable",
                "registrations_too_many",
                "Too many registrations",
                "try again after the time in Retry-After; register once and keep what you got",
            ),
            Self::QuotaFull => row(
                S::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "registration_quota_full",
                "No more clients can be registered at the moment",
                "ask the operator; clients that nobody uses are taken away in time",
            ),
            Self::LogtoAway { .. } => row(
                S::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "registration_unavailable",
                "Clients cannot be registered or changed at the moment",
                "try again after the time in Retry-After",
            ),
            Self::IssuerAway => row(
                S::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "issuer_metadata_unavailable",
                "The issuer's metadata cannot be had at the moment",
                "try again after the time in Retry-After",
            ),
        }
    }

    /// The sentence for the client's developer: which rule it was, where a row has several.
    pub fn description(self) -> String {
        let row = self.row();
        match self {
            Self::RedirectUri(rule) | Self::Metadata(rule) => format!("{}: {rule}", row.title),
            Self::NameReserved
            | Self::SecretNotGiven
            | Self::StatementInvalid
            | Self::StatementRefused
            | Self::InitialTokenMissing
            | Self::InitialTokenWrong
            | Self::ClientTokenMissing
            | Self::ClientTokenWrong
            | Self::TooMany { .. }
            | Self::QuotaFull
            | Self::LogtoAway { .. }
            | Self::IssuerAway => format!("{}: {}", row.title, row.cure),
        }
    }

    /// What the log says beside the code.
    pub fn detail(self) -> &'static str {
        if let Self::RedirectUri(rule) | Self::Metadata(rule) = self { rule } else { "" }
    }

    /// Seconds after which the same request is worth another try, where waiting may help.
    pub fn retry_after(self) -> Option<u32> {
        const A_WHILE_SECONDS: u32 = 5;
        const LONG_SECONDS: u32 = 3600;
        if let Self::TooMany { seconds } | Self::LogtoAway { seconds } = self {
            return Some(seconds.max(1));
        }
        let away = matches!(self, Self::IssuerAway).then_some(A_WHILE_SECONDS);
        away.or(matches!(self, Self::QuotaFull).then_some(LONG_SECONDS))
    }

    /// One of each, for tables and tests.
    pub fn examples() -> [Self; REFUSALS] {
        [
            Self::RedirectUri(""),
            Self::Metadata(""),
            Self::NameReserved,
            Self::SecretNotGiven,
            Self::StatementInvalid,
            Self::StatementRefused,
            Self::InitialTokenMissing,
            Self::InitialTokenWrong,
            Self::ClientTokenMissing,
            Self::ClientTokenWrong,
            Self::TooMany { seconds: 1 },
            Self::QuotaFull,
            Self::LogtoAway { seconds: 1 },
            Self::IssuerAway,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Denial;

    #[test]
    fn every_refusal_has_its_own_code_and_none_of_a_denial() {
        let mut codes: Vec<&str> = Refusal::examples().iter().map(|refusal| refusal.row().code).collect();
        codes.extend(Denial::examples().iter().map(|denial| denial.row().code));
        let all = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }

    /// RFC 7591 §3.2.2 has four errors; `invalid_token` is RFC 6750's, `temporarily_unavailable` RFC 6749's.
    #[test]
    fn errors_are_those_of_the_standards() {
        let known = [
            "invalid_redirect_uri",
            "invalid_client_metadata",
            "invalid_software_statement",
            "unapproved_software_statement",
            "invalid_token",
            "temporarily_unavailable",
        ];
        for refusal in Refusal::examples() {
            let row = refusal.row();
            assert!(known.contains(&row.error), "{refusal:?}");
            assert_eq!(row.challenge.is_some(), row.status == StatusCode::UNAUTHORIZED, "{refusal:?}");
            let waits = matches!(row.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(refusal.retry_after().is_some(), waits, "{refusal:?}");
            assert!(refusal.description().is_ascii() && !refusal.description().contains(['"', '\\']), "{refusal:?}");
        }
    }
}
