//! Every way in which a request can fail on the wire, one row each: the client sent nonsense or too much, or the
//! upstream refused, was slow, or broke off.

// A new failure is a compile error wherever failures are told apart.
#![deny(clippy::wildcard_enum_match_arm)]

use http::StatusCode;

use crate::observe::Limit;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    HostInvalid,
    TargetInvalid,
    TargetTooLong,
    HeadTooLarge,
    LengthsConflict,
    TransferCodingUnknown,
    MethodRefused,
    ProtocolUnknown,
    ExpectationUnknown,
    BodyTooLarge,
    BodyTooSlow,
    BodyTrickles,
    BodyBroken,
    Loop,
    Overloaded,
    CertificateLost,
    GoingDown,
    UpstreamRefused,
    UpstreamSlow,
    UpstreamBroken,
    UpstreamOverloaded,
    DeadlineExceeded,
    CallIdle,
    UpstreamCircuitOpen,
    UpgradeInvalid,
    UpgradeUnavailable,
    WebhookUnsigned,
    WebhookStale,
    WebhookMalformed,
    WebhookNotTaken,
    Panicked,
}

/// What a failure looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureRow {
    pub status: StatusCode,
    /// Stable, in the body's `code`, in the log's `reason` and in the metric's `reason`.
    pub code: &'static str,
    pub title: &'static str,
    pub cure: &'static str,
    /// Whether the connection must close, because what follows on it cannot be trusted (RFC 9112 §6.3).
    pub close: bool,
}

const fn row(status: StatusCode, code: &'static str, title: &'static str, cure: &'static str) -> FailureRow {
    FailureRow { status, code, title, cure, close: false }
}

const fn closing(status: StatusCode, code: &'static str, title: &'static str, cure: &'static str) -> FailureRow {
    FailureRow { status, code, title, cure, close: true }
}

impl Failure {
    pub const ALL: [Self; 31] = [
        Self::HostInvalid,
        Self::TargetInvalid,
        Self::TargetTooLong,
        Self::HeadTooLarge,
        Self::LengthsConflict,
        Self::TransferCodingUnknown,
        Self::MethodRefused,
        Self::ProtocolUnknown,
        Self::ExpectationUnknown,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::BodyTrickles,
        Self::BodyBroken,
        Self::Loop,
        Self::Overloaded,
        Self::CertificateLost,
        Self::GoingDown,
        Self::UpstreamRefused,
        Self::UpstreamSlow,
        Self::UpstreamBroken,
        Self::UpstreamOverloaded,
        Self::DeadlineExceeded,
        Self::CallIdle,
        Self::UpstreamCircuitOpen,
        Self::UpgradeInvalid,
        Self::UpgradeUnavailable,
        Self::WebhookUnsigned,
        Self::WebhookStale,
        Self::WebhookMalformed,
        Self::WebhookNotTaken,
        Self::Panicked,
    ];

    pub fn row(self) -> FailureRow {
        use StatusCode as S;
        match self {
            Self::HostInvalid => closing(
                S::BAD_REQUEST,
                "host_invalid",
                "The Host header is missing, repeated or malformed, or differs from the target",
                "send one Host that names the target's authority",
            ),
            Self::TargetInvalid => {
                closing(S::BAD_REQUEST, "target_invalid", "The request target is malformed", "send a path and an optional query")
            }
            Self::TargetTooLong => row(
                S::URI_TOO_LONG,
                "target_too_long",
                "The request target is too long",
                "send less in the query, or ask the operator for a higher limit",
            ),
            Self::HeadTooLarge => row(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_large",
                "The head of the request is too large, or has too many lines",
                "send fewer or shorter ones, or ask the operator for a higher limit",
            ),
            Self::LengthsConflict => closing(
                S::BAD_REQUEST,
                "lengths_conflict",
                "The length of the body is said in two ways",
                "send Content-Length or Transfer-Encoding, not both",
            ),
            Self::TransferCodingUnknown => closing(
                S::NOT_IMPLEMENTED,
                "transfer_coding_unknown",
                "A transfer coding other than one chunked",
                "send Transfer-Encoding: chunked alone",
            ),
            Self::MethodRefused => closing(
                S::METHOD_NOT_ALLOWED,
                "method_refused",
                "CONNECT, TRACE and made-up long methods are not served",
                "use another method",
            ),
            Self::ProtocolUnknown => row(
                S::NOT_IMPLEMENTED,
                "protocol_unknown",
                "Extended CONNECT to what is no WebSocket",
                "send :protocol websocket (RFC 8441), or an ordinary request",
            ),
            Self::ExpectationUnknown => row(
                S::EXPECTATION_FAILED,
                "expectation_unknown",
                "An expectation other than 100-continue",
                "send Expect: 100-continue or none",
            ),
            Self::BodyTooLarge => closing(
                S::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is too large",
                "send less, or ask the operator for a higher limit",
            ),
            Self::BodyTooSlow => {
                closing(S::REQUEST_TIMEOUT, "body_too_slow", "The body did not go on in time", "send it without long breaks")
            }
            Self::BodyTrickles => closing(
                S::REQUEST_TIMEOUT,
                "body_trickles",
                "The body came too slowly for too long",
                "send it faster, or in parts, or ask the operator for a lower least rate",
            ),
            Self::BodyBroken => closing(S::BAD_REQUEST, "body_broken", "The body broke off or was malformed", "send it whole"),
            Self::Loop => {
                row(S::LOOP_DETECTED, "loop", "The request came back to this gate", "point the upstream at the service, not at the gate")
            }
            Self::Overloaded => row(
                S::SERVICE_UNAVAILABLE,
                "overloaded",
                "The gate has as many requests as it takes at a time",
                "try again after the time that Retry-After says",
            ),
            Self::CertificateLost => closing(
                S::MISDIRECTED_REQUEST,
                "certificate_lost",
                "The client certificate of this connection counts no more",
                "connect anew, with a certificate that is valid",
            ),
            Self::GoingDown => closing(
                S::SERVICE_UNAVAILABLE,
                "going_down",
                "The gate goes down, and the service has not answered in the time that was left",
                "ask again, on a new connection",
            ),
            Self::UpstreamRefused => row(
                S::BAD_GATEWAY,
                "upstream_refused",
                "The service cannot be reached",
                "try again later; the operator sees the reason in the log",
            ),
            Self::UpstreamSlow => row(
                S::GATEWAY_TIMEOUT,
                "upstream_slow",
                "The service did not answer in time",
                "try again later, or ask the operator for a longer timeout on the route",
            ),
            Self::UpstreamBroken => row(
                S::BAD_GATEWAY,
                "upstream_broken",
                "The service broke off or answered with something that is no HTTP",
                "try again later; the operator sees the reason in the log",
            ),
            Self::UpstreamOverloaded => row(
                S::SERVICE_UNAVAILABLE,
                "upstream_overloaded",
                "The service has as many requests as it may",
                "try again after the time in Retry-After",
            ),
            Self::UpstreamCircuitOpen => row(
                S::SERVICE_UNAVAILABLE,
                "upstream_circuit_open",
                "Most requests to the service failed lately, so that none is sent for a moment",
                "try again after the time in Retry-After",
            ),
            Self::UpgradeUnavailable => row(
                S::NOT_IMPLEMENTED,
                "upgrade_unavailable",
                "The service is spoken to over HTTP/2 alone, which opens no WebSocket here",
                "ask the operator for upstream.protocol: auto",
            ),
            Self::DeadlineExceeded => row(
                S::GATEWAY_TIMEOUT,
                "deadline_exceeded",
                "The call took longer than its own grpc-timeout",
                "set a longer deadline in the client",
            ),
            Self::CallIdle => row(
                S::GATEWAY_TIMEOUT,
                "call_idle",
                "Nothing moved on the call in either direction for too long",
                "send something now and then, or ask the operator for a longer timeouts.tunnel_idle",
            ),
            Self::UpgradeInvalid => {
                row(S::BAD_GATEWAY, "upgrade_invalid", "The service changed to a protocol that was not asked for", "ask the operator")
            }
            Self::WebhookUnsigned => closing(
                S::UNAUTHORIZED,
                "webhook_unsigned",
                "The signature of the webhook is missing or wrong",
                "give the gate the signing key that Logto shows for this webhook",
            ),
            Self::WebhookStale => {
                row(S::BAD_REQUEST, "webhook_stale", "The webhook is too old, or from the future", "check the clocks of Logto and the gate")
            }
            Self::WebhookMalformed => row(
                S::BAD_REQUEST,
                "webhook_malformed",
                "The webhook says nothing that can be read",
                "point Logto's webhook here, nothing else",
            ),
            Self::WebhookNotTaken => row(
                S::SERVICE_UNAVAILABLE,
                "webhook_not_taken",
                "What the webhook says cannot be kept at the moment",
                "the operator sees the reason in the log; Logto tries again",
            ),
            Self::Panicked => closing(S::INTERNAL_SERVER_ERROR, "internal", "The gate failed", "report it with the request id"),
        }
    }
}

impl Failure {
    /// The limit that the request was over. Which one an overloaded gate has reached is known where it is refused.
    pub fn limit(self) -> Option<Limit> {
        match self {
            Self::TargetTooLong => Some(Limit::Target),
            Self::HeadTooLarge => Some(Limit::Head),
            Self::BodyTooLarge => Some(Limit::Body),
            Self::BodyTooSlow => Some(Limit::BodyTime),
            Self::BodyTrickles => Some(Limit::BodyRate),
            Self::CallIdle => Some(Limit::TunnelIdle),
            Self::HostInvalid
            | Self::TargetInvalid
            | Self::LengthsConflict
            | Self::TransferCodingUnknown
            | Self::MethodRefused
            | Self::ExpectationUnknown
            | Self::BodyBroken
            | Self::Loop
            | Self::Overloaded
            | Self::CertificateLost
            | Self::GoingDown
            | Self::UpstreamRefused
            | Self::UpstreamSlow
            | Self::UpstreamBroken
            | Self::UpstreamOverloaded
            | Self::UpstreamCircuitOpen
            | Self::ProtocolUnknown
            | Self::DeadlineExceeded
            | Self::UpgradeInvalid
            | Self::UpgradeUnavailable
            | Self::WebhookUnsigned
            | Self::WebhookStale
            | Self::WebhookMalformed
            | Self::WebhookNotTaken
            | Self::Panicked => None,
        }
    }

    /// Seconds after which it is worth to try again.
    pub fn retry_after(self) -> Option<u32> {
        matches!(self, Self::Overloaded | Self::GoingDown | Self::UpstreamOverloaded).then_some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_own_code_and_none_of_a_refusal() {
        let mut codes: Vec<&str> = Failure::ALL.iter().map(|failure| failure.row().code).collect();
        codes.extend(crate::access::Denial::examples().iter().map(|denial| denial.row().code));
        let all = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }
}
