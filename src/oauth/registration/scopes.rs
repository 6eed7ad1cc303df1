//! What a registered app may ask users for: what it named, as far as the operator's ceiling goes.

use crate::policy::{Grant, Registration, ScopeOf, Scopes};

/// Scopes between client and issuer that need nobody's permission (OpenID Connect Core 1.0 §3.1.2.1, §11).
const FREE: [&str; 2] = ["openid", "offline_access"];

/// What an app is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    pub scopes: Vec<ScopeOf>,
    pub user_scopes: Vec<String>,
    /// All of them by name, as the answer's `scope` has them.
    pub names: Vec<String>,
}

/// RFC 7591 §2 lets a server choose when nothing is named: the ceiling is what the operator chose.
pub fn granted(registration: &Registration, requested: Option<&Scopes>) -> Granted {
    let wanted = |name: &str| match (registration.grant, requested) {
        (Grant::Ceiling, _) | (Grant::Requested, None) => true,
        (Grant::Requested, Some(requested)) => requested.contains(name),
    };
    let free = requested.into_iter().flat_map(Scopes::iter).filter(|name| FREE.contains(name));
    Granted {
        scopes: registration.ceiling.iter().filter(|scope| wanted(&scope.name)).cloned().collect(),
        user_scopes: registration.user_scopes.iter().filter(|name| wanted(name)).cloned().collect(),
        names: registration.ceiling_names().filter(|name| wanted(name)).chain(free).map(str::to_owned).collect(),
    }
}
