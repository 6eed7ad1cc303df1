//! Where clients connect, and how each listener speaks with them.

use std::net::SocketAddr;
use std::path::PathBuf;

pub use crate::config::Spoken;

/// Where a listener is bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A socket that whoever started the process passed on, by its name or by the number of its descriptor.
    Inherited(String),
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(name) => write!(f, "fd:{name}"),
        }
    }
}

/// A listener. All but its address can change while it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: Listen,
    pub tls: bool,
    pub protocol: Spoken,
    pub proxy_protocol: bool,
    /// The permissions of a Unix socket; those of the process's umask without it.
    pub mode: Option<u32>,
    /// The port to which every request is sent away.
    pub redirect_to_https: Option<u16>,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}
