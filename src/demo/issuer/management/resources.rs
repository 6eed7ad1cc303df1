//! `/api/resources`: API resources and their scopes.

use serde_json::{Value, json};

use super::input::Paging;
use super::refusal::Refusal;
use super::{Call, created, find, make_room, milliseconds, no_content, ok, or_null};
use crate::demo::issuer::State;
use crate::demo::issuer::tenant::{MANAGEMENT_API, Resource, Scope, Tenant};
use crate::demo::server::Reply;

pub fn answer(call: &Call<'_>, path: &[&str]) -> Result<Reply, Refusal> {
    match (call.method, path) {
        ("GET", []) => list(call),
        ("POST", []) => create(call),
        ("GET", [id]) => Ok(ok(&shown(call.state, &with_id(call, id)?))),
        ("PATCH", [id]) => change(call, id),
        ("DELETE", [id]) => delete(call, id),
        ("GET", [id, "scopes"]) => {
            // Logto looks for no resource here: one that is not there has no scopes.
            let scopes = with_id(call, id).map(|resource| resource.scopes.iter().map(|scope| shown_scope(id, scope)).collect());
            call.page(Paging::Optional, scopes.unwrap_or_default())
        }
        ("POST", [id, "scopes"]) => create_scope(call, id),
        ("PATCH", [id, "scopes", scope]) => change_scope(call, id, scope),
        ("DELETE", [id, "scopes", scope]) => delete_scope(call, id, scope),
        _ => Err(Refusal::no_route()),
    }
}

pub fn shown(state: &State, resource: &Resource) -> Value {
    json!({
        "tenantId": "default",
        "id": resource.id,
        "name": resource.name,
        "indicator": resource.indicator,
        "isDefault": false,
        "accessTokenTtl": state.lifetime(resource),
    })
}

pub fn shown_scope(resource: &str, scope: &Scope) -> Value {
    json!({
        "tenantId": "default",
        "id": scope.id,
        "resourceId": resource,
        "name": scope.name,
        "description": or_null(&scope.description),
        "createdAt": milliseconds(scope.created_at),
    })
}

fn unknown(id: &str) -> Refusal {
    Refusal::unknown_id("resources", id)
}

fn with_id(call: &Call<'_>, id: &str) -> Result<Resource, Refusal> {
    call.tenant().resources.iter().find(|resource| resource.id == id).cloned().ok_or_else(|| unknown(id))
}

/// The resource, to change it. The Management API's own stays as it is.
fn changeable<'t>(tenant: &'t mut Tenant, id: &str) -> Result<&'t mut Resource, Refusal> {
    let resource = find(&mut tenant.resources, |resource| resource.id == id).ok_or_else(|| unknown(id))?;
    match resource.indicator == MANAGEMENT_API {
        true => Err(Refusal::bad_request("resource.cannot_modify_management_api", "Cannot modify Logto management API.")),
        false => Ok(resource),
    }
}

fn list(call: &Call<'_>) -> Result<Reply, Refusal> {
    let with_scopes = call.query.get("includeScopes").is_some_and(|word| ["1", "true", "y", "yes", "yep", "yeah"].contains(&word));
    let resources = call.tenant().resources.clone();
    let all = resources.iter().map(|resource| {
        let mut one = shown(call.state, resource);
        if with_scopes {
            one["scopes"] = resource.scopes.iter().map(|scope| shown_scope(&resource.id, scope)).collect();
        }
        one
    });
    call.page(Paging::Optional, all.collect())
}

fn create(call: &Call<'_>) -> Result<Reply, Refusal> {
    let (name, indicator) = (call.input.required_text("name")?, call.input.required_text("indicator")?);
    let access_token_ttl = call.input.number("accessTokenTtl")?;
    let mut tenant = call.tenant();
    if tenant.resource(indicator).is_some() {
        let message = format!("The API identifier {indicator} is already in use");
        return Err(Refusal::unprocessable("resource.resource_identifier_in_use", message));
    }
    make_room(&tenant.resources, "resources")?;
    let resource = Resource { access_token_ttl, ..Resource::new(indicator, &[]).named(name) };
    let mut one = shown(call.state, &resource);
    one["scopes"] = json!([]);
    tenant.resources.push(resource);
    Ok(created(&one))
}

/// The indicator cannot be changed: it is left out without a word.
fn change(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let name = call.input.text("name")?.map(|_| call.input.required_text("name")).transpose()?;
    let access_token_ttl = call.input.number("accessTokenTtl")?;
    let mut tenant = call.tenant();
    let resource = changeable(&mut tenant, id)?;
    resource.name = name.unwrap_or(&resource.name).to_owned();
    resource.access_token_ttl = access_token_ttl.or(resource.access_token_ttl);
    Ok(ok(&shown(call.state, resource)))
}

fn delete(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let mut tenant = call.tenant();
    let resource = tenant.resources.iter().find(|resource| resource.id == id).ok_or_else(|| unknown(id))?;
    if resource.indicator == MANAGEMENT_API {
        return Err(Refusal::bad_request("resource.cannot_delete_management_api", "Cannot delete Logto management API."));
    }
    let scopes: Vec<String> = resource.scopes.iter().map(|scope| scope.id.clone()).collect();
    tenant.resources.retain(|resource| resource.id != id);
    tenant.forget_scopes(&scopes);
    Ok(no_content())
}

fn create_scope(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let name = call.input.required_text("name")?;
    let description = call.input.nullable_text("description")?.flatten().unwrap_or_default();
    check_name(name)?;
    let mut tenant = call.tenant();
    let resource = changeable(&mut tenant, id)?;
    if resource.scope(name).is_some() {
        return Err(name_exists(name));
    }
    make_room(&resource.scopes, "scopes")?;
    let scope = Scope::new(name, description);
    let reply = created(&shown_scope(id, &scope));
    resource.scopes.push(scope);
    Ok(reply)
}

fn change_scope(call: &Call<'_>, id: &str, scope: &str) -> Result<Reply, Refusal> {
    let name = call.input.text("name")?.map(|_| call.input.required_text("name")).transpose()?;
    let description = call.input.nullable_text("description")?.map(Option::unwrap_or_default);
    let mut tenant = call.tenant();
    let resource = changeable(&mut tenant, id)?;
    if let Some(name) = name {
        check_name(name)?;
        if resource.scope(name).is_some_and(|other| other.id != scope) {
            return Err(name_exists(name));
        }
    }
    let found = find(&mut resource.scopes, |known| known.id == scope).ok_or_else(|| Refusal::unknown_id("scope", scope))?;
    found.name = name.unwrap_or(&found.name).to_owned();
    found.description = description.unwrap_or(&found.description).to_owned();
    Ok(ok(&shown_scope(id, found)))
}

fn delete_scope(call: &Call<'_>, id: &str, scope: &str) -> Result<Reply, Refusal> {
    let mut tenant = call.tenant();
    let resource = changeable(&mut tenant, id)?;
    let i = resource.scopes.iter().position(|known| known.id == scope).ok_or_else(Refusal::not_found)?;
    resource.scopes.remove(i);
    tenant.forget_scopes(&[scope.to_owned()]);
    Ok(no_content())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    match name.contains(char::is_whitespace) {
        true => Err(Refusal::bad_request("scope.name_with_space", "The name of the scope cannot contain any spaces.")),
        false => Ok(()),
    }
}

fn name_exists(name: &str) -> Refusal {
    Refusal::unprocessable("scope.name_exists", format!("The scope name {name} is already in use"))
}
