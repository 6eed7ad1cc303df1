//! What a tenant should hold against what it holds: the steps from one to the other, in a safe order. Pure.

use std::collections::HashMap;

use super::model::{Application, ApplicationKind, ConsentedScopes, Resource, Role, Scope};
use super::step::Step;
use crate::policy::{AppKind, RoleKind, ScopeOf, Tenant, TenantApp, TenantResource, TenantRole};

/// The name in our mark that says that `apply` made an application.
pub(super) const APPLIED: &str = "applied";

/// What stands in the tenant, as far as the configuration speaks of it.
#[derive(Debug, Clone, Default)]
pub struct Actual {
    pub resources: Vec<(Resource, Vec<Scope>)>,
    pub roles: Vec<(Role, Vec<Scope>)>,
    /// Third-party applications: those that the configuration names, and those that `apply` made.
    pub applications: Vec<(Application, ConsentedScopes)>,
}

/// The steps, and what they need to know.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What is missing or differs, in the order in which it is made so.
    pub steps: Vec<Step>,
    /// What stands there and the configuration does not name: left alone, or taken away by `--prune`.
    pub extra: Vec<Step>,
    /// What no step can make so.
    pub conflicts: Vec<String>,
    pub(super) known: Known,
}

/// Ids and things by the names that steps use.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub resources: HashMap<String, String>,
    pub scopes: HashMap<ScopeOf, String>,
    pub roles: HashMap<String, String>,
    pub applications: HashMap<String, Application>,
}

/// Compares. Safe means: nothing is named before it is there, and what is taken away is taken away last, first from
/// those who hold it.
pub fn plan(tenant: &Tenant, actual: &Actual) -> Plan {
    let mut plan = Plan::default();
    let mut extra_scopes = Vec::new();
    for resource in &tenant.resources {
        plan.resource(resource, actual, &mut extra_scopes);
    }
    for role in &tenant.roles {
        plan.role(role, actual);
    }
    for app in &tenant.third_party_apps {
        plan.application(app, tenant, actual);
    }
    let unnamed = actual.applications.iter().filter(|(known, _)| !tenant.third_party_apps.iter().any(|app| app.name == known.name));
    for (application, consented) in unnamed {
        // Of those that apply made: another gate's stay, and what can ask for anything else, too.
        let indicators: Vec<&String> = consented.resource_scopes.iter().map(|held| &held.resource.indicator).collect();
        let own = |indicator: &&String| tenant.resources.iter().any(|resource| resource.indicator == **indicator);
        if application.mark(APPLIED).is_some() && !indicators.is_empty() && indicators.iter().all(own) {
            plan.extra.push(Step::DeleteApp { app: application.name.clone(), id: application.id.clone() });
        }
    }
    plan.extra.append(&mut extra_scopes);
    plan
}

impl Plan {
    fn resource(&mut self, wanted: &TenantResource, actual: &Actual, extra: &mut Vec<Step>) {
        let indicator = &wanted.indicator;
        let found = actual.resources.iter().find(|(resource, _)| resource.indicator == *indicator);
        match found {
            None => self.steps.push(Step::CreateResource {
                indicator: indicator.clone(),
                name: wanted.name.clone(),
                access_token_ttl: wanted.access_token_ttl,
            }),
            Some((resource, _)) => {
                self.known.resources.insert(indicator.clone(), resource.id.clone());
                if let Some(to) = wanted.access_token_ttl.filter(|ttl| resource.access_token_ttl != Some(*ttl)) {
                    self.steps.push(Step::SetTtl { indicator: indicator.clone(), from: resource.access_token_ttl, to });
                }
            }
        }
        let held = found.map_or(&[][..], |(_, scopes)| scopes);
        for scope in &wanted.scopes {
            let of = ScopeOf { indicator: indicator.clone(), name: scope.name.clone() };
            let Some(known) = held.iter().find(|known| known.name == scope.name) else {
                let description = scope.description.clone().unwrap_or_else(|| scope.name.clone());
                self.steps.push(Step::CreateScope { scope: of, description });
                continue;
            };
            let from = known.description.clone().unwrap_or_default();
            if let Some(to) = scope.description.clone().filter(|to| *to != from) {
                self.steps.push(Step::DescribeScope { scope: of, from, to });
            }
        }
        for known in held {
            let of = ScopeOf { indicator: indicator.clone(), name: known.name.clone() };
            self.known.scopes.insert(of.clone(), known.id.clone());
            if !wanted.scopes.iter().any(|scope| scope.name == known.name) {
                extra.push(Step::DeleteScope { scope: of });
            }
        }
    }

    fn role(&mut self, wanted: &TenantRole, actual: &Actual) {
        let name = &wanted.name;
        let Some((role, held)) = actual.roles.iter().find(|(role, _)| role.name == *name) else {
            self.steps.push(Step::CreateRole {
                role: name.clone(),
                kind: wanted.kind,
                description: wanted.description.clone().unwrap_or_else(|| name.clone()),
                scopes: wanted.scopes.clone(),
            });
            return;
        };
        let kind = kind_name(wanted.kind);
        if let Some(other) = role.kind.as_deref().filter(|found| *found != kind) {
            self.conflicts
                .push(format!("the role '{name}' is for {other} in Logto, not for {kind}; it cannot be changed: rename one of them"));
            return;
        }
        self.known.roles.insert(name.clone(), role.id.clone());
        let from = role.description.clone().unwrap_or_default();
        if let Some(to) = wanted.description.clone().filter(|to| *to != from) {
            self.steps.push(Step::DescribeRole { role: name.clone(), from, to });
        }
        let has = |scope: &ScopeOf| self.known.scopes.get(scope).is_some_and(|id| held.iter().any(|held| held.id == *id));
        let missing: Vec<ScopeOf> = wanted.scopes.iter().filter(|scope| !has(scope)).cloned().collect();
        // Scopes of other resources are somebody else's matter.
        let mut extra: Vec<ScopeOf> =
            self.known.scopes.keys().filter(|scope| has(scope) && !wanted.scopes.contains(scope)).cloned().collect();
        extra.sort();
        if !missing.is_empty() {
            self.steps.push(Step::AddRoleScopes { role: name.clone(), scopes: missing });
        }
        self.extra.extend(extra.into_iter().map(|scope| Step::RemoveRoleScope { role: name.clone(), scope }));
    }

    fn application(&mut self, wanted: &TenantApp, tenant: &Tenant, actual: &Actual) {
        let name = &wanted.name;
        let mut named = actual.applications.iter().filter(|(application, _)| application.name == *name);
        let (scopes, user_scopes) = (&wanted.scopes, &wanted.user_scopes);
        let allow = |scopes: Vec<ScopeOf>, user_scopes: Vec<String>| Step::AllowApp { app: name.clone(), scopes, user_scopes };
        let Some((application, consented)) = named.next() else {
            self.steps.push(Step::CreateApp { app: name.clone(), kind: wanted.kind, redirect_uris: wanted.redirect_uris.clone() });
            if !scopes.is_empty() || !user_scopes.is_empty() {
                self.steps.push(allow(scopes.clone(), user_scopes.clone()));
            }
            return;
        };
        if named.next().is_some() {
            self.conflicts.push(format!("several third-party apps are called '{name}' in Logto; rename or delete all but one"));
            return;
        }
        if application.kind != kind_of(wanted.kind) {
            let (found, wanted) = (application.kind, kind_of(wanted.kind));
            self.conflicts
                .push(format!("the app '{name}' is {found:?} in Logto, not {wanted:?}; it cannot be changed: rename or delete it there"));
            return;
        }
        self.known.applications.insert(name.clone(), application.clone());
        let uris = &application.oidc_client_metadata.redirect_uris;
        let missing: Vec<String> = wanted.redirect_uris.iter().filter(|uri| !uris.contains(uri)).cloned().collect();
        let extra: Vec<String> = uris.iter().filter(|uri| !wanted.redirect_uris.contains(uri)).cloned().collect();
        if !missing.is_empty() {
            self.steps.push(Step::AddRedirectUris { app: name.clone(), uris: missing });
        }
        if !extra.is_empty() {
            self.extra.push(Step::RemoveRedirectUris { app: name.clone(), uris: extra });
        }
        let held = || {
            let scopes = |resource: &super::model::ResourceScopes| -> Vec<ScopeOf> {
                let indicator = &resource.resource.indicator;
                resource.scopes.iter().map(|scope| ScopeOf { indicator: indicator.clone(), name: scope.name.clone() }).collect()
            };
            consented.resource_scopes.iter().flat_map(scopes)
        };
        let missing: Vec<ScopeOf> = scopes.iter().filter(|scope| !held().any(|held| held == **scope)).cloned().collect();
        let missing_user: Vec<String> = user_scopes.iter().filter(|name| !consented.user_scopes.contains(name)).cloned().collect();
        if !missing.is_empty() || !missing_user.is_empty() {
            self.steps.push(allow(missing, missing_user));
        }
        let own = |scope: &ScopeOf| tenant.resources.iter().any(|resource| resource.indicator == scope.indicator);
        let extra = held().filter(|held| own(held) && !scopes.contains(held));
        self.extra.extend(extra.map(|scope| Step::ForbidScope { app: name.clone(), scope }));
        let extra = consented.user_scopes.iter().filter(|held| !user_scopes.contains(held)).cloned();
        self.extra.extend(extra.map(|scope| Step::ForbidUserScope { app: name.clone(), scope }));
    }
}

pub(super) fn kind_name(kind: RoleKind) -> &'static str {
    match kind {
        RoleKind::User => "User",
        RoleKind::MachineToMachine => "MachineToMachine",
    }
}

pub(super) fn kind_of(kind: AppKind) -> ApplicationKind {
    match kind {
        AppKind::Traditional => ApplicationKind::Traditional,
        AppKind::Spa => ApplicationKind::Spa,
        AppKind::Native => ApplicationKind::Native,
    }
}
