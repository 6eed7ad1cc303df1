//! The audit trail's rules: which decisions are worth a record, and where records go.

use std::path::PathBuf;

use http::{Method, StatusCode};

pub use crate::config::{Facility, RouteAudit};

/// What is recorded, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub writes: bool,
    pub reads: bool,
    pub refusals: bool,
    pub to: AuditTo,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTo {
    Stdout,
    File {
        path: PathBuf,
        /// 0: never.
        rotate_bytes: u64,
        keep: u32,
    },
    Syslog {
        server: SyslogServer,
        facility: Facility,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogServer {
    Unix(PathBuf),
    /// Host and port.
    Udp(String),
    Tcp(String),
}

/// What became of a request, as far as it matters for whether it is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Decided<'r> {
    /// The rules said no, or what was sent could not be judged at all.
    pub refused: bool,
    /// It reached the upstream, or would have if the upstream had been there. In report mode it can be both.
    pub let_through: bool,
    pub method: &'r Method,
    pub status: StatusCode,
}

impl Audit {
    /// Whether a request is worth a record: what its route says, else what its kind says.
    pub fn wants(&self, route: Option<RouteAudit>, decided: Decided<'_>) -> bool {
        match route {
            Some(RouteAudit::Always) => true,
            Some(RouteAudit::Never) => false,
            None => {
                // What goes through a tunnel is not seen, so that it may change anything.
                let reads = decided.method.is_safe() && decided.status != StatusCode::SWITCHING_PROTOCOLS;
                (decided.refused && self.refusals) || (decided.let_through && if reads { self.reads } else { self.writes })
            }
        }
    }
}

impl std::fmt::Display for AuditTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Syslog { server: SyslogServer::Unix(path), .. } => write!(f, "syslog unix:{}", path.display()),
            Self::Syslog { server: SyslogServer::Udp(address), .. } => write!(f, "syslog udp://{address}"),
            Self::Syslog { server: SyslogServer::Tcp(address), .. } => write!(f, "syslog tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_recorded_by_its_kind_unless_its_route_says_otherwise() {
        let permitted = |method: &'static str, status| (false, true, method, status);
        let (denied, reported) = ((true, false, "GET", 403), (true, true, "PUT", 200));
        // Recorded with: writes alone, reads alone, refusals alone.
        let table = [
            (permitted("GET", 200), [false, true, false]),
            (permitted("HEAD", 200), [false, true, false]),
            (permitted("OPTIONS", 204), [false, true, false]),
            (permitted("GET", 502), [false, true, false]),
            (permitted("GET", 101), [true, false, false]),
            (permitted("POST", 200), [true, false, false]),
            (permitted("PUT", 502), [true, false, false]),
            (permitted("PATCH", 200), [true, false, false]),
            (permitted("DELETE", 404), [true, false, false]),
            (permitted("PROPFIND", 207), [true, false, false]),
            (denied, [false, false, true]),
            ((true, false, "POST", 401), [false, false, true]),
            (reported, [true, false, true]),
            ((true, true, "GET", 200), [false, true, true]),
        ];
        for ((refused, let_through, method, status), recorded) in table {
            let method = method.parse().unwrap();
            let decided = Decided { refused, let_through, method: &method, status: StatusCode::from_u16(status).unwrap() };
            let one = |i: usize| Audit { writes: i == 0, reads: i == 1, refusals: i == 2, to: AuditTo::Stdout };
            for (i, recorded) in recorded.into_iter().enumerate() {
                assert_eq!(one(i).wants(None, decided), recorded, "{decided:?} with kind {i}");
                assert!(one(i).wants(Some(RouteAudit::Always), decided));
                assert!(!one(i).wants(Some(RouteAudit::Never), decided));
            }
        }
    }
}
