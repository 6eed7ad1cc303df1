//! Headers that are the gate's to set or to take away: what a client sends under these names never passes.

use std::collections::HashSet;

use http::HeaderName;

/// Names that only mean something when a proxy wrote them, and those that some frameworks obey without asking who did
/// (`X-Original-URL`, `X-HTTP-Method-Override`).
const NAMES: [&str; 33] = [
    "authorization",
    "cf-connecting-ip",
    // RFC 9440: a service may take them for the word of whoever ended TLS.
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "connection",
    "content-length",
    "cookie2",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "remote-user",
    "te",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-remote-user",
    "x-rewrite-url",
];

/// Names that pass, or that the gate adds to, in their own spelling alone.
const OWN_SPELLING: [&str; 7] = ["content-type", "cookie", "max-forwards", "origin", "trailer", "via", "x-request-id"];

/// Prefixes of such names.
const PREFIXES: [&str; 4] = ["x-auth-", "x-forwarded-", "x-original-", "x-rewrite-"];

/// The managed names, with the operator's own identity headers among them.
#[derive(Debug)]
pub struct Managed {
    identity: HashSet<String>,
}

impl Managed {
    pub fn new<'a>(identity: impl Iterator<Item = &'a HeaderName>) -> Self {
        Self { identity: identity.map(|name| fold(name.as_str())).collect() }
    }

    /// Whether a server could take this name for a managed one: `_` reads as `-` in CGI and its heirs (WSGI, PHP, Rack).
    pub fn covers(&self, name: &str) -> bool {
        if name.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-') {
            let folded = fold(name);
            return OWN_SPELLING.contains(&folded.as_str()) || self.covers_folded(&folded);
        }
        self.covers_folded(name)
    }

    /// Whether the name means something in a head that a trailer must not say.
    pub fn covers_trailer(&self, name: &str) -> bool {
        OWN_SPELLING.contains(&name) || self.covers(name)
    }

    /// Whether the name is that of an identity header, or could become one.
    pub fn is_identity(&self, name: &str) -> bool {
        let folded = fold(name);
        folded.starts_with("x-auth-") || self.identity.contains(&folded)
    }

    fn covers_folded(&self, name: &str) -> bool {
        NAMES.binary_search(&name).is_ok() || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || self.identity.contains(name)
    }

    /// Whether an operator may use this name for an identity header.
    pub fn may_carry_identity(name: &HeaderName) -> bool {
        const OTHERS: [&str; 6] = ["trailer", "via", "date", "content-type", "content-encoding", "cookie"];
        let text = name.as_str();
        let reserved = NAMES.contains(&text) && !["x-client-ip", "remote-user", "x-remote-user"].contains(&text);
        !reserved && !OTHERS.contains(&text) && !text.starts_with("x-forwarded-")
    }
}

/// How the laxest server reads a name: lower case, and any odd character as a dash.
pub fn fold(name: &str) -> String {
    name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() as char } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_managed_name_is_covered() {
        let own = HeaderName::from_static("x-user");
        let managed = Managed::new(std::iter::once(&own));
        for name in [
            "x-auth-subject",
            "x_auth_subject",
            "x-auth_subject",
            "x.auth.subject",
            "x-auth-anything",
            "x_user",
            "x-forwarded-for",
            "authorization",
            "content_length",
            "x_real_ip",
            "x_request_id",
            "max_forwards",
            "remote_user",
        ] {
            assert!(managed.covers(name), "{name} would pass");
        }
        for name in ["x-user-agent", "user-agent", "x-request-id", "mcp-param-x", "accept", "x-authority"] {
            assert!(!managed.covers(name), "{name} would be lost");
        }
    }

    #[test]
    fn the_list_of_names_is_sorted() {
        assert!(NAMES.is_sorted());
    }
}
