//! Reading what a tenant holds, and making the steps of a plan.

use serde_json::{Map, Value};

use super::client::ManagementApi;
use super::error::LogtoError;
use super::model::{Application, ConsentScopes, NewApplication, REGISTERED};
use super::plan::{APPLIED, Actual, Known, Plan, kind_of};
use super::step::Step;
use crate::policy::{ScopeOf, Tenant};

impl ManagementApi {
    /// What stands in the tenant, as far as the configuration speaks of it. Nothing is changed.
    pub async fn read(&self, tenant: &Tenant) -> Result<Actual, LogtoError> {
        let mut actual = Actual::default();
        for resource in self.resources().await? {
            if tenant.resources.iter().any(|wanted| wanted.indicator == resource.indicator) {
                let scopes = self.scopes(&resource.id).await?;
                actual.resources.push((resource, scopes));
            }
        }
        if !tenant.roles.is_empty() {
            for role in self.roles().await? {
                if tenant.roles.iter().any(|wanted| wanted.name == role.name) {
                    let scopes = self.role_scopes(&role.id).await?;
                    actual.roles.push((role, scopes));
                }
            }
        }
        for application in self.third_party_applications().await? {
            // An app that an agent registered may have any name, and must not get what another of that name is to have.
            if application.mark(REGISTERED).is_some() {
                continue;
            }
            let named = tenant.third_party_apps.iter().any(|wanted| wanted.name == application.name);
            if named || application.mark(APPLIED).is_some() {
                let consented = self.consent_scopes(&application.id).await?;
                actual.applications.push((application, consented));
            }
        }
        Ok(actual)
    }
}

/// A plan on its way: each step is made by itself, and what it made is known to the next.
#[derive(Debug)]
pub struct Progress<'a> {
    api: &'a ManagementApi,
    known: Known,
}

impl<'a> Progress<'a> {
    pub fn new(api: &'a ManagementApi, plan: &Plan) -> Self {
        Self { api, known: plan.known.clone() }
    }

    /// Makes one step. A step that was made already does no harm when it is made again. The application that it made,
    /// if it made one.
    pub async fn make(&mut self, step: &Step) -> Result<Option<Application>, LogtoError> {
        let api = self.api;
        match step {
            Step::CreateResource { indicator, name, access_token_ttl } => {
                let made = api.create_resource(name, indicator, *access_token_ttl).await?;
                self.known.resources.insert(indicator.clone(), made.id);
            }
            Step::SetTtl { indicator, to, .. } => api.set_access_token_ttl(self.resource(indicator)?, *to).await?,
            Step::CreateScope { scope, description } => {
                let made = api.create_scope(self.resource(&scope.indicator)?, &scope.name, description).await?;
                self.known.scopes.insert(scope.clone(), made.id);
            }
            Step::DescribeScope { scope, to, .. } => {
                api.describe_scope(self.resource(&scope.indicator)?, self.scope(scope)?, to).await?;
            }
            Step::CreateRole { role, kind, description, scopes } => {
                let made = api.create_role(role, description, *kind, &self.scope_ids(scopes)?).await?;
                self.known.roles.insert(role.clone(), made.id);
            }
            Step::DescribeRole { role, to, .. } => api.describe_role(self.role(role)?, to).await?,
            Step::AddRoleScopes { role, scopes } => api.add_role_scopes(self.role(role)?, &self.scope_ids(scopes)?).await?,
            Step::CreateApp { app, kind, redirect_uris } => {
                let new = NewApplication {
                    name: app.clone(),
                    description: None,
                    kind: kind_of(*kind),
                    third_party: true,
                    redirect_uris: redirect_uris.clone(),
                    marks: Map::from_iter([(APPLIED.to_owned(), Value::Bool(true))]),
                };
                let made = api.create_application(&new).await?;
                self.known.applications.insert(app.clone(), made.clone());
                return Ok(Some(made));
            }
            Step::AddRedirectUris { app, uris } => {
                let more = uris.clone();
                self.set_redirect_uris(app, |known| known.into_iter().chain(more).collect()).await?;
            }
            Step::AllowApp { app, scopes, user_scopes } => {
                let scopes = ConsentScopes { user_scopes: user_scopes.clone(), resource_scopes: self.scope_ids(scopes)? };
                api.add_consent_scopes(&self.application(app)?.id, &scopes).await?;
            }
            Step::RemoveRoleScope { role, scope } => api.remove_role_scope(self.role(role)?, self.scope(scope)?).await?,
            Step::RemoveRedirectUris { app, uris } => {
                self.set_redirect_uris(app, |known| known.into_iter().filter(|uri| !uris.contains(uri)).collect()).await?;
            }
            Step::ForbidScope { app, scope } => api.remove_consent_scope(&self.application(app)?.id, self.scope(scope)?).await?,
            Step::ForbidUserScope { app, scope } => api.remove_consent_user_scope(&self.application(app)?.id, scope).await?,
            Step::DeleteApp { id, .. } => api.delete_application(id).await?,
            Step::DeleteScope { scope } => api.delete_scope(self.resource(&scope.indicator)?, self.scope(scope)?).await?,
        }
        Ok(None)
    }

    async fn set_redirect_uris(&mut self, app: &str, change: impl FnOnce(Vec<String>) -> Vec<String>) -> Result<(), LogtoError> {
        let mut application = self.application(app)?.clone();
        let uris = change(application.oidc_client_metadata.redirect_uris.clone());
        self.api.set_redirect_uris(&application, &uris).await?;
        application.oidc_client_metadata.redirect_uris = uris;
        self.known.applications.insert(app.to_owned(), application);
        Ok(())
    }

    fn resource(&self, indicator: &str) -> Result<&str, LogtoError> {
        self.known.resources.get(indicator).map(String::as_str).ok_or_else(|| unknown(indicator))
    }

    fn scope(&self, scope: &ScopeOf) -> Result<&str, LogtoError> {
        self.known.scopes.get(scope).map(String::as_str).ok_or_else(|| unknown(&scope.name))
    }

    fn scope_ids(&self, scopes: &[ScopeOf]) -> Result<Vec<String>, LogtoError> {
        scopes.iter().map(|scope| self.scope(scope).map(str::to_owned)).collect()
    }

    fn role(&self, name: &str) -> Result<&str, LogtoError> {
        self.known.roles.get(name).map(String::as_str).ok_or_else(|| unknown(name))
    }

    fn application(&self, name: &str) -> Result<&Application, LogtoError> {
        self.known.applications.get(name).ok_or_else(|| unknown(name))
    }
}

/// A step names only what stands there or what a step before it made.
fn unknown(name: &str) -> LogtoError {
    LogtoError::Unexpected { call: "the plan".to_owned(), reason: format!("it names {name} before that is there") }
}
