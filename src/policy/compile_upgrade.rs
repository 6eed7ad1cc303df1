//! Compiles how a new process takes over from a running one.

use std::path::PathBuf;
use std::time::Duration;

use super::compile::{Compiler, at_least, trail};
use crate::config::Config;

/// The kernel takes 107 bytes for the name of a Unix socket; the rest is for a name in the making beside it.
const SOCKET_BYTES_MAX: usize = 90;

/// Compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    pub socket: PathBuf,
    pub timeout: Duration,
}

pub(super) fn compile(c: &mut Compiler<'_>, config: &Config) -> Option<Upgrade> {
    let written = config.upgrade.as_ref()?;
    let at = || trail(&[&"upgrade", &"socket"]);
    let path = &written.socket;
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        c.fault(at(), path, "no absolute path", "write it as in /run/wicketgate/upgrade.sock");
    } else if path.len() > SOCKET_BYTES_MAX {
        c.fault(at(), path, "too long for the name of a Unix socket", format!("write {SOCKET_BYTES_MAX} bytes at most"));
    } else if config.listen.0.iter().any(|listen| listen.0.address.strip_prefix("unix:") == Some(path)) {
        c.fault(at(), path, "clients connect there", "give it a path of its own");
    }
    let timeout = at_least(c, &["upgrade", "timeout"], written.timeout, 1_000);
    Some(Upgrade { socket: PathBuf::from(path), timeout })
}
