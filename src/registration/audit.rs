//! One record for each app that is made, changed or taken away: who came, and what it was given.

use std::net::IpAddr;

use serde::Serialize;

use crate::clock;
use crate::observe::{AuditKind, AuditTrail};

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

/// An app, as far as the audit trail names it. The name is what users read; it has no control characters.
pub struct Entry<'a> {
    pub client_id: &'a str,
    pub name: &'a str,
    pub redirect_uris: &'a [String],
    pub scope: &'a str,
    pub address: Option<IpAddr>,
    pub request_id: Option<&'a str>,
}

/// As it stands in the trail. It is recorded whatever `audit.records` says.
#[derive(Serialize)]
struct Registration<'a> {
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    agent: Agent<'a>,
    redirect_uris: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
}

#[derive(Serialize)]
struct Agent<'a> {
    client_id: &'a str,
    name: &'a str,
}

impl AuditKind for Registration<'_> {
    const NAME: &'static str = "registration";
}

/// Into the trail; where there is none, into the log, since nobody makes an app unseen.
pub fn write(trail: &AuditTrail, happened: Happened, entry: &Entry<'_>) {
    let &Entry { client_id, name, redirect_uris, scope, address, request_id } = entry;
    let change = happened.label();
    if trail.is_on() {
        let agent = Agent { client_id, name };
        let record = Registration { change, request_id, peer: address, agent, redirect_uris, scope };
        return trail.write(&record, clock::wall_now());
    }
    tracing::info!(
        target: "audit",
        event = "client_registration",
        change,
        client_id,
        client_name = name,
        redirect_uris = redirect_uris.join(" "),
        scope,
        peer = address.map(tracing::field::display),
        request_id,
    );
}
