//! One line for each app that is made, changed or taken away: who came, and what it was given. The seam to the audit log.

use std::net::IpAddr;

/// What happened to an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Registered,
    Changed,
    Deleted,
    /// It was never used.
    Expired,
    /// It was half made.
    Abandoned,
}

impl Happened {
    pub fn label(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
            Self::Expired => "expired",
            Self::Abandoned => "abandoned",
        }
    }
}

/// An app, as far as the audit log names it. The name is what users read; it has no control characters.
pub struct Entry<'a> {
    pub client_id: &'a str,
    pub name: &'a str,
    pub redirect_uris: &'a [String],
    pub scope: &'a str,
    pub address: Option<IpAddr>,
    pub request_id: Option<&'a str>,
}

pub fn write(happened: Happened, entry: &Entry<'_>) {
    tracing::info!(
        target: "audit",
        event = "client_registration",
        change = happened.label(),
        client_id = entry.client_id,
        client_name = entry.name,
        redirect_uris = entry.redirect_uris.join(" "),
        scope = entry.scope,
        peer = entry.address.map(tracing::field::display),
        request_id = entry.request_id,
    );
}
