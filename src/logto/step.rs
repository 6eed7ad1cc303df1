//! One step from what a tenant holds to what it should hold, and how it reads.

use std::fmt;

use serde::Serialize;

use super::error::clean;
use super::plan::{kind_name, kind_of};
use crate::policy::{AppKind, RoleKind, ScopeOf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CreateResource { indicator: String, name: String, access_token_ttl: Option<u64> },
    SetTtl { indicator: String, from: Option<u64>, to: u64 },
    CreateScope { scope: ScopeOf, description: String },
    DescribeScope { scope: ScopeOf, from: String, to: String },
    CreateRole { role: String, kind: RoleKind, description: String, scopes: Vec<ScopeOf> },
    DescribeRole { role: String, from: String, to: String },
    AddRoleScopes { role: String, scopes: Vec<ScopeOf> },
    CreateApp { app: String, kind: AppKind, redirect_uris: Vec<String> },
    AddRedirectUris { app: String, uris: Vec<String> },
    AllowApp { app: String, scopes: Vec<ScopeOf>, user_scopes: Vec<String> },
    // From here on something is taken away.
    RemoveRoleScope { role: String, scope: ScopeOf },
    RemoveRedirectUris { app: String, uris: Vec<String> },
    ForbidScope { app: String, scope: ScopeOf },
    ForbidUserScope { app: String, scope: String },
    DeleteApp { app: String, id: String },
    DeleteScope { scope: ScopeOf },
}

/// What a step does to the thing that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    Change,
    Delete,
}

/// A step as people and programs read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub action: Action,
    /// `resource`, `scope`, `role` or `app`.
    pub kind: &'static str,
    pub name: String,
    pub detail: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Create => '+',
            Action::Change => '~',
            Action::Delete => '-',
        };
        // What Logto holds may be anybody's text.
        write!(f, "{sign} {:8}  {}", self.kind, clean(&self.name))?;
        if !self.detail.is_empty() {
            write!(f, "  {}", clean(&self.detail))?;
        }
        Ok(())
    }
}

impl Step {
    pub fn line(&self) -> Line {
        use Action::{Change, Create, Delete};
        let (action, kind, name, detail) = match self {
            Self::CreateResource { indicator, name, access_token_ttl } => {
                let ttl = access_token_ttl.map_or(String::new(), |seconds| format!(", access tokens live {seconds}s"));
                (Create, "resource", indicator.clone(), format!("\"{name}\"{ttl}"))
            }
            Self::SetTtl { indicator, from, to } => {
                let from = from.map_or("unknown".to_owned(), |from| format!("{from}s"));
                (Change, "resource", indicator.clone(), format!("access tokens live {from} -> {to}s"))
            }
            Self::CreateScope { scope, description } => (Create, "scope", of(scope), format!("\"{description}\"")),
            Self::DescribeScope { scope, from, to } => (Change, "scope", of(scope), format!("\"{from}\" -> \"{to}\"")),
            Self::CreateRole { role, kind, description, scopes } => {
                let kind = kind_name(*kind);
                (Create, "role", role.clone(), format!("{kind}, \"{description}\", holds {}", names(scopes)))
            }
            Self::DescribeRole { role, from, to } => (Change, "role", role.clone(), format!("\"{from}\" -> \"{to}\"")),
            Self::AddRoleScopes { role, scopes } => (Change, "role", role.clone(), format!("holds also {}", names(scopes))),
            Self::CreateApp { app, kind, redirect_uris } => {
                let back = if redirect_uris.is_empty() { String::new() } else { format!(", back to {}", redirect_uris.join(", ")) };
                (Create, "app", app.clone(), format!("third-party, {:?}{back}", kind_of(*kind)))
            }
            Self::AddRedirectUris { app, uris } => (Change, "app", app.clone(), format!("also back to {}", uris.join(", "))),
            Self::AllowApp { app, scopes, user_scopes } => {
                let scopes = Some(names(scopes)).filter(|_| !scopes.is_empty());
                let all: Vec<String> = scopes.into_iter().chain(user_scopes.iter().cloned()).collect();
                (Change, "app", app.clone(), format!("may ask users for {}", all.join(", ")))
            }
            Self::RemoveRoleScope { role, scope } => (Delete, "role", role.clone(), format!("holds {}", of(scope))),
            Self::RemoveRedirectUris { app, uris } => (Delete, "app", app.clone(), format!("back to {}", uris.join(", "))),
            Self::ForbidScope { app, scope } => (Delete, "app", app.clone(), format!("may ask users for {}", of(scope))),
            Self::ForbidUserScope { app, scope } => (Delete, "app", app.clone(), format!("may ask users for {scope}")),
            Self::DeleteApp { app, id } => (Delete, "app", app.clone(), format!("client_id {id}, the whole app")),
            Self::DeleteScope { scope } => (Delete, "scope", of(scope), String::new()),
        };
        Line { action, kind, name, detail }
    }
}

fn of(scope: &ScopeOf) -> String {
    format!("{} of {}", scope.name, scope.indicator)
}

/// Their names alone, unless they are of several resources.
fn names(scopes: &[ScopeOf]) -> String {
    let alike = scopes.windows(2).all(|two| two[0].indicator == two[1].indicator);
    match scopes {
        [] => "nothing".to_owned(),
        scopes if alike => scopes.iter().map(|scope| scope.name.as_str()).collect::<Vec<_>>().join(", "),
        scopes => scopes.iter().map(of).collect::<Vec<_>>().join(", "),
    }
}
