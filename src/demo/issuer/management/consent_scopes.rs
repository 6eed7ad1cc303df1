//! `/api/applications/:id/user-consent-scopes`: the ceiling of what a third-party application may ask users for.

use serde_json::{Value, json};

use super::refusal::Refusal;
use super::{Call, applications, created_silently, find, no_content, ok};
use crate::demo::issuer::tenant::{MANAGEMENT_API, Tenant};
use crate::demo::server::Reply;

/// All that Logto knows.
const USER_SCOPES: [&str; 10] = [
    "profile",
    "email",
    "phone",
    "address",
    "custom_data",
    "identities",
    "roles",
    "urn:logto:scope:organizations",
    "urn:logto:scope:organization_roles",
    "urn:logto:scope:sessions",
];

pub fn answer(call: &Call<'_>, id: &str, path: &[&str]) -> Result<Reply, Refusal> {
    match (call.method, path) {
        ("POST", []) => add(call, id),
        ("GET", []) => show(call, id),
        ("DELETE", [kind, scope]) => take_away(call, id, kind, scope),
        _ => Err(Refusal::no_route()),
    }
}

fn add(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let list = |name: &str| Ok(call.input.texts(name)?.unwrap_or_default());
    let (user_scopes, resource_scopes) = (list("userScopes")?, list("resourceScopes")?);
    if let Some(i) = user_scopes.iter().position(|scope| !USER_SCOPES.contains(&scope.as_str())) {
        return Err(call.input.wrong_element("userScopes", i, "invalid_enum_value", "Invalid enum value."));
    }
    let (organization_scopes, organization_resource_scopes) = (list("organizationScopes")?, list("organizationResourceScopes")?);
    let mut tenant = call.tenant();
    if !tenant.application(id).ok_or_else(|| applications::unknown(id))?.third_party {
        let message = "The feature is only available for third-party applications.";
        return Err(Refusal::unprocessable("application.third_party_application_only", message));
    }
    let unknown: Vec<&String> = resource_scopes.iter().filter(|id| scope(&tenant, id).is_none()).collect();
    // There are no organizations here, so that none of their scopes exists.
    if !unknown.is_empty() || !organization_scopes.is_empty() || !organization_resource_scopes.is_empty() {
        let refusal = Refusal::unprocessable("application.user_consent_scopes_not_found", "Invalid user consent scopes.");
        return Err(refusal.with(json!({
            "invalidOrganizationScopes": organization_scopes,
            "invalidResourceScopes": unknown,
            "invalidOrganizationResourceScopes": organization_resource_scopes,
        })));
    }
    if resource_scopes.iter().any(|id| scope(&tenant, id).is_some_and(|(indicator, _)| indicator == MANAGEMENT_API)) {
        let code = "application.consent_management_api_scopes_not_allowed";
        return Err(Refusal::unprocessable(code, "Management API scopes are not allowed."));
    }
    let application = find(&mut tenant.applications, |application| application.id == id).ok_or_else(|| applications::unknown(id))?;
    let ceiling = &mut application.ceiling;
    for (known, more) in [(&mut ceiling.user_scopes, user_scopes), (&mut ceiling.resource_scopes, resource_scopes)] {
        // What is there already is there once.
        for scope in more {
            if !known.contains(&scope) {
                known.push(scope);
            }
        }
    }
    Ok(created_silently())
}

/// The indicator of its resource, and the scope as it is shown here.
fn scope<'t>(tenant: &'t Tenant, id: &str) -> Option<(&'t str, Value)> {
    let mut all = tenant.resources.iter().flat_map(|resource| resource.scopes.iter().map(move |scope| (resource, scope)));
    let (resource, scope) = all.find(|(_, scope)| scope.id == id)?;
    Some((&resource.indicator, json!({ "id": scope.id, "name": scope.name, "description": super::or_null(&scope.description) })))
}

fn show(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let tenant = call.tenant();
    let ceiling = &tenant.application(id).ok_or_else(|| applications::unknown(id))?.ceiling;
    let mut by_resource: Vec<Value> = Vec::new();
    for resource in &tenant.resources {
        let ids = ceiling.resource_scopes.iter().filter(|id| resource.scopes.iter().any(|scope| scope.id == **id));
        let scopes: Vec<Value> = ids.filter_map(|id| scope(&tenant, id)).map(|(_, scope)| scope).collect();
        if !scopes.is_empty() {
            let shown = json!({ "id": resource.id, "name": resource.name, "indicator": resource.indicator });
            by_resource.push(json!({ "resource": shown, "scopes": scopes }));
        }
    }
    let mut user_scopes = ceiling.user_scopes.clone();
    user_scopes.sort();
    Ok(ok(&json!({
        "organizationScopes": [],
        "resourceScopes": by_resource,
        "organizationResourceScopes": [],
        "userScopes": user_scopes,
    })))
}

fn take_away(call: &Call<'_>, id: &str, kind: &str, scope: &str) -> Result<Reply, Refusal> {
    let mut tenant = call.tenant();
    let application = find(&mut tenant.applications, |application| application.id == id).ok_or_else(|| applications::unknown(id))?;
    let scopes = match kind {
        "user-scopes" => &mut application.ceiling.user_scopes,
        "resource-scopes" => &mut application.ceiling.resource_scopes,
        "organization-scopes" | "organization-resource-scopes" => return Err(Refusal::not_found()),
        _ => {
            let issue = json!({ "received": kind, "code": "invalid_enum_value", "path": ["scopeType"], "message": "Invalid enum value." });
            return Err(Refusal::invalid_input("params", issue));
        }
    };
    let i = scopes.iter().position(|known| known == scope).ok_or_else(Refusal::not_found)?;
    scopes.remove(i);
    Ok(no_content())
}
