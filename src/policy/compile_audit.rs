//! Compiles the audit trail: which decisions, and a place that can be meant.

use std::path::{Path, PathBuf};

use http::uri::Authority;

use super::audit::{Audit, AuditTo, SyslogServer};
use super::compile::{Compiler, trail};
use crate::config::{self, AuditRecords, AuditToKeys, Config, RouteAudit};

const ROTATE_BYTES: u64 = 100 << 20;
/// A file that is renamed with every other record is no trail.
const ROTATE_BYTES_MIN: u64 = 64 << 10;
const KEEP: u32 = 10;
const KEEP_MAX: u32 = 1000;

pub(super) fn compile(c: &mut Compiler<'_>, config: &Config) -> Option<Audit> {
    let Some(written) = &config.audit else {
        no_route_may_ask_for_it(c, config);
        return None;
    };
    let has = |kind| written.records.0.iter().any(|record| *record == kind || *record == AuditRecords::All);
    let (writes, reads, refusals) = (has(AuditRecords::Writes), has(AuditRecords::Reads), has(AuditRecords::Refusals));
    let to = match &written.to {
        config::AuditTo::Stdout => AuditTo::Stdout,
        config::AuditTo::Elsewhere(keys) => elsewhere(c, keys)?,
    };
    Some(Audit { writes, reads, refusals, to })
}

/// Who writes `audit: always` believes that something is recorded.
fn no_route_may_ask_for_it(c: &mut Compiler<'_>, config: &Config) {
    for (i, service) in config.services.iter().enumerate() {
        for (key, _) in service.routes.0.iter().filter(|(_, route)| route.audit == Some(RouteAudit::Always)) {
            let at = trail(&[&"services", &i, &"routes", key, &"audit"]);
            c.absence(at, "always", "there is no audit trail", "add audit: { to: ... } at the top");
        }
    }
}

fn elsewhere(c: &mut Compiler<'_>, keys: &AuditToKeys) -> Option<AuditTo> {
    let at = |key: &str| trail(&[&"audit", &"to", &key]);
    let foreign = |c: &mut Compiler<'_>, key: &str, there: bool, other: &str| {
        if there {
            c.fault(at(key), "", format!("this says nothing without {other}"), "take it out");
        }
    };
    match (&keys.file, &keys.syslog) {
        (Some(path), None) => {
            foreign(c, "facility", keys.facility.is_some(), "syslog");
            file(c, keys, path)
        }
        (None, Some(server)) => {
            foreign(c, "rotate", keys.rotate.is_some(), "file");
            foreign(c, "keep", keys.keep.is_some(), "file");
            let server = syslog_server(server);
            if server.is_none() {
                let cure = "write unix:/dev/log, udp://host:port or tcp://host:port";
                c.fault(at("syslog"), keys.syslog.as_deref().unwrap_or_default(), "no syslog server", cure);
            }
            Some(AuditTo::Syslog { server: server?, facility: keys.facility.unwrap_or_default() })
        }
        _ => {
            c.fault(trail(&[&"audit", &"to"]), "", "no place, or two", "give stdout, or exactly one of file and syslog");
            None
        }
    }
}

fn file(c: &mut Compiler<'_>, keys: &AuditToKeys, path: &str) -> Option<AuditTo> {
    let at = |key: &str| trail(&[&"audit", &"to", &key]);
    if !Path::new(path).is_absolute() || path.ends_with('/') {
        c.fault(at("file"), path, "no absolute path of a file", "write it as in /var/log/wicketgate/audit.jsonl");
        return None;
    }
    if let Some(rotate) = keys.rotate.filter(|rotate| rotate.0 != 0 && rotate.0 < ROTATE_BYTES_MIN) {
        c.fault(at("rotate"), &rotate.to_string(), "too small to keep anything", "write 64KiB or more, or 0B for never");
    }
    let keep = keys.keep.unwrap_or(KEEP);
    if !(1..=KEEP_MAX).contains(&keep) {
        let cure = format!("write 1 to {KEEP_MAX}; rotate: 0B keeps everything in one file");
        c.fault(at("keep"), &keep.to_string(), "no number of files to keep", cure);
    }
    Some(AuditTo::File { path: PathBuf::from(path), rotate_bytes: keys.rotate.map_or(ROTATE_BYTES, |rotate| rotate.0), keep })
}

fn syslog_server(text: &str) -> Option<SyslogServer> {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.starts_with('/').then(|| SyslogServer::Unix(PathBuf::from(path)));
    }
    let (scheme, address) = text.split_once("://")?;
    let authority = address.parse::<Authority>().ok()?;
    if authority.port_u16().is_none_or(|port| port == 0) || address.contains('@') || authority.host().is_empty() {
        return None;
    }
    match scheme {
        "udp" => Some(SyslogServer::Udp(address.to_owned())),
        "tcp" => Some(SyslogServer::Tcp(address.to_owned())),
        _ => None,
    }
}
