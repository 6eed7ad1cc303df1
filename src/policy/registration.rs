//! How agents register themselves, compiled.

use std::num::NonZeroU32;
use std::time::Duration;

use super::ScopeOf;
use crate::config::{Advertise, Grant};

/// Who may register an app, as what, and what it may then ask users for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Without a closing slash.
    pub path: String,
    /// The address of the endpoint, for everyone who is told of it.
    pub endpoint: String,
    /// Scheme and host of the endpoint: where the derived metadata stands.
    pub origin: String,
    /// The tenant's, an index into the policy's issuers.
    pub issuer: usize,
    pub issuer_url: String,
    /// Where the issuer's own metadata may stand.
    pub metadata_urls: Vec<String>,
    pub advertise: Advertise,
    pub ceiling: Vec<ScopeOf>,
    pub user_scopes: Vec<String>,
    pub grant: Grant,
    pub confidential: bool,
    pub redirect: RedirectRules,
    /// As they are written, those of the tenant's own apps among them.
    pub reserved_names: Vec<String>,
    /// SHA-256 of each; with none of them everybody may register.
    pub initial_access_tokens: Vec<[u8; 32]>,
    pub per_address_per_hour: NonZeroU32,
    pub per_minute: NonZeroU32,
    pub quota: usize,
    pub expire_unused_after: Duration,
}

/// Where users may be sent back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectRules {
    pub loopback: bool,
    /// In lower case; `None` for all of them.
    pub hosts: Option<Vec<String>>,
    /// In lower case.
    pub schemes: Vec<String>,
}

impl Registration {
    /// The names of scopes that an app can have, each once.
    pub fn ceiling_names(&self) -> impl Iterator<Item = &str> {
        let names = self.ceiling.iter().map(|scope| scope.name.as_str());
        let mut known: Vec<&str> = Vec::new();
        names.chain(self.user_scopes.iter().map(String::as_str)).filter(move |name| {
            let fresh = !known.contains(name);
            known.extend(fresh.then_some(*name));
            fresh
        })
    }
}

/// The gate's own endpoints for registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnEndpoint {
    /// The issuer's metadata with the registration endpoint added.
    IssuerMetadata,
    /// RFC 7591.
    Register,
    /// RFC 7592: one app, named by the path.
    Client,
}

impl std::fmt::Display for OwnEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::IssuerMetadata => "the issuer's metadata with the registration endpoint",
            Self::Register => "client registration",
            Self::Client => "a registered client's own configuration",
        })
    }
}
