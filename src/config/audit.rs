//! What the operator writes about the audit trail: which decisions are recorded, and where the records go.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shapes::{OneOrMany, short_or_long};
use super::units::Size;

/// The audit trail: one JSON record for each decision that is worth one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// Which decisions are recorded: `writes`, `reads`, `refusals`, or `all`.
    #[serde(default = "default_records")]
    pub records: OneOrMany<AuditRecords>,
    /// Where the records go. It has no default: an audit trail to nowhere is none.
    pub to: AuditTo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditRecords {
    /// Requests that were let through with a method other than GET, HEAD and OPTIONS, and WebSockets.
    Writes,
    /// Requests that were let through with GET, HEAD or OPTIONS.
    Reads,
    /// Requests that the gate refused, or would have refused in report mode.
    Refusals,
    /// All of these.
    All,
}

/// What a route says of the audit trail for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteAudit {
    /// Every request is recorded.
    Always,
    /// No request is recorded.
    Never,
}

/// Where the records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTo {
    Stdout,
    Elsewhere(AuditToKeys),
}

/// A file or a syslog server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditToKeys {
    /// A file to append to: an absolute path. It is made with mode 0600.
    #[serde(default)]
    pub file: Option<String>,
    /// The size from which the file is renamed and a new one begun. `0B` leaves that to others (logrotate).
    #[serde(default)]
    pub rotate: Option<Size>,
    /// How many renamed files are kept: `file.1` is the youngest.
    #[serde(default)]
    pub keep: Option<u32>,
    /// A syslog server: `unix:/dev/log`, `udp://host:port` or `tcp://host:port` (RFC 5424).
    #[serde(default)]
    pub syslog: Option<String>,
    /// The syslog facility.
    #[serde(default)]
    pub facility: Option<Facility>,
}

/// A syslog facility for messages about who did what (RFC 5424 §6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Facility {
    User = 1,
    Daemon = 3,
    Auth = 4,
    #[default]
    Authpriv = 10,
    Local0 = 16,
    Local1 = 17,
    Local2 = 18,
    Local3 = 19,
    Local4 = 20,
    Local5 = 21,
    Local6 = 22,
    Local7 = 23,
}

short_or_long!(
    AuditTo,
    AuditToKeys,
    "`stdout`, or a map with file, rotate, keep, or a map with syslog, facility",
    |text: &str| match text {
        "stdout" => Ok(AuditTo::Stdout),
        _ => Err("no place for records; write stdout, { file: /absolute/path } or { syslog: unix:/dev/log }".to_owned()),
    },
    |keys| Ok::<_, String>(AuditTo::Elsewhere(keys))
);

fn default_records() -> OneOrMany<AuditRecords> {
    OneOrMany(vec![AuditRecords::Writes, AuditRecords::Refusals])
}
