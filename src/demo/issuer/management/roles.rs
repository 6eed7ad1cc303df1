//! `/api/roles`: sets of permissions, and the users and machines that have them.

use serde_json::{Value, json};

use super::input::Paging;
use super::refusal::Refusal;
use super::{Call, applications, created, created_silently, find, make_room, no_content, ok, resources, users};
use crate::demo::issuer::tenant::{Application, ApplicationKind, MANAGEMENT_API_SCOPE, Role, RoleKind, Tenant, new_id};
use crate::demo::server::Reply;

const KINDS: [&str; 2] = ["User", "MachineToMachine"];
/// How many users and applications a list shows of each role.
const FEATURED: usize = 3;

pub fn answer(call: &Call<'_>, path: &[&str]) -> Result<Reply, Refusal> {
    match (call.method, path) {
        ("GET", []) => list(call),
        ("POST", []) => create(call),
        ("GET", [id]) => Ok(ok(&shown(with_id(&call.tenant(), id)?))),
        ("PATCH", [id]) => change(call, id),
        ("DELETE", [id]) => delete(call, id),
        ("GET", [id, "scopes"]) => scopes(call, id),
        ("POST", [id, "scopes"]) => add_scopes(call, id),
        ("DELETE", [id, "scopes", scope]) => {
            let mut tenant = call.tenant();
            let role = find(&mut tenant.roles, |role| role.id == *id).ok_or_else(Refusal::not_found)?;
            take(&mut role.scopes, scope)
        }
        ("GET", [id, "users"]) => {
            let tenant = call.tenant();
            with_id(&tenant, id)?;
            let having = tenant.users.iter().filter(|user| user.roles.iter().any(|role| role == id));
            call.page(Paging::Always, having.map(users::shown).collect())
        }
        ("GET", [id, "applications"]) => {
            let tenant = call.tenant();
            with_id(&tenant, id)?;
            let having = tenant.applications.iter().filter(|machine| machine.roles.iter().any(|role| role == id));
            call.page(Paging::Always, having.map(applications::shown).collect())
        }
        ("POST", [id, "users"]) => assign(call, id, "userIds", RoleKind::User),
        ("POST", [id, "applications"]) => assign(call, id, "applicationIds", RoleKind::MachineToMachine),
        ("DELETE", [id, "users", user]) => of_user(call, user, &[id]),
        ("DELETE", [id, "applications", application]) => of_application(call, application, &[id]),
        _ => Err(Refusal::no_route()),
    }
}

/// `/api/users/:id/roles`.
pub fn of_user(call: &Call<'_>, id: &str, path: &[&str]) -> Result<Reply, Refusal> {
    let mut tenant = call.tenant();
    let mut held = tenant.user(id).ok_or_else(Refusal::not_found)?.roles.clone();
    let reply = match (call.method, path) {
        ("GET", []) => call.page(Paging::Always, tenant.roles.iter().filter(|role| held.contains(&role.id)).map(shown).collect())?,
        ("POST", []) => {
            let asked = call.input.required_texts("roleIds")?;
            let mut added = Vec::new();
            for role in &asked {
                // What the user has already is left out without a word.
                if held.contains(role) || added.contains(role) {
                    continue;
                }
                if with_id(&tenant, role)?.kind != RoleKind::User {
                    let message = "Invalid role type. Cannot assign machine-to-machine role to user.";
                    return Err(Refusal::unprocessable("user.invalid_role_type", message));
                }
                added.push(role.clone());
            }
            held.extend(added.iter().cloned());
            created(&json!({ "roleIds": asked, "addedRoleIds": added }))
        }
        ("DELETE", [role]) => take(&mut held, role)?,
        _ => return Err(Refusal::no_route()),
    };
    let user = find(&mut tenant.users, |user| user.id == id).ok_or_else(Refusal::not_found)?;
    user.roles = held;
    Ok(reply)
}

/// `/api/applications/:id/roles`, of machines alone.
pub fn of_application(call: &Call<'_>, id: &str, path: &[&str]) -> Result<Reply, Refusal> {
    let mut tenant = call.tenant();
    let application = tenant.application(id).ok_or_else(|| applications::unknown(id))?;
    if application.kind != ApplicationKind::MachineToMachine {
        let message = "Only machine to machine applications can have associated roles.";
        return Err(Refusal::unprocessable("application.invalid_type", message));
    }
    let mut held = application.roles.clone();
    let reply = match (call.method, path) {
        ("GET", []) => call.page(Paging::Always, tenant.roles.iter().filter(|role| held.contains(&role.id)).map(shown).collect())?,
        ("POST", []) => {
            for role in call.input.required_texts("roleIds")? {
                if held.contains(&role) {
                    let message = format!("The role id {role} is already been added to this application.");
                    return Err(Refusal::unprocessable("application.role_exists", message));
                }
                if with_id(&tenant, &role)?.kind != RoleKind::MachineToMachine {
                    let message = "Can not assign user type role to machine to machine application.";
                    return Err(Refusal::unprocessable("application.invalid_role_type", message));
                }
                held.push(role);
            }
            created_silently()
        }
        ("DELETE", [role]) => take(&mut held, role)?,
        _ => return Err(Refusal::no_route()),
    };
    let application = find(&mut tenant.applications, |application| application.id == id).ok_or_else(|| applications::unknown(id))?;
    application.roles = held;
    Ok(reply)
}

fn shown(role: &Role) -> Value {
    json!({
        "tenantId": "default",
        "id": role.id,
        "name": role.name,
        "description": role.description,
        "type": role.kind.name(),
        "isDefault": false,
    })
}

fn with_id<'t>(tenant: &'t Tenant, id: &str) -> Result<&'t Role, Refusal> {
    tenant.roles.iter().find(|role| role.id == id).ok_or_else(|| Refusal::unknown_id("roles", id))
}

fn list(call: &Call<'_>) -> Result<Reply, Refusal> {
    let tenant = call.tenant();
    let machines = call.query.either("type", ["MachineToMachine", "User"])?;
    let wanted = tenant.roles.iter().rev().filter(|role| machines.is_none_or(|machines| machines == (role.kind != RoleKind::User)));
    let all = wanted.map(|role| {
        let users: Vec<_> = tenant.users.iter().filter(|user| user.roles.contains(&role.id)).collect();
        let machines: Vec<_> = tenant.applications.iter().filter(|machine| machine.roles.contains(&role.id)).collect();
        let user = users.iter().take(FEATURED).map(|user| json!({ "id": user.id, "avatar": null, "name": super::or_null(&user.name) }));
        let machine = machines.iter().take(FEATURED);
        let machine = machine.map(|machine| json!({ "id": machine.id, "name": machine.name, "type": machine.kind.name() }));
        let mut one = shown(role);
        one["usersCount"] = Value::from(users.len());
        one["featuredUsers"] = user.collect();
        one["applicationsCount"] = Value::from(machines.len());
        one["featuredApplications"] = machine.collect();
        one
    });
    call.page(Paging::Always, all.collect())
}

fn create(call: &Call<'_>) -> Result<Reply, Refusal> {
    let (name, description) = (call.input.required_text("name")?, call.input.required_text("description")?);
    let kind = call.input.word("type", &KINDS, RoleKind::parse)?.unwrap_or(RoleKind::User);
    let scopes = each_once(call.input.texts("scopeIds")?.unwrap_or_default());
    let mut tenant = call.tenant();
    check_name(&tenant, name, None)?;
    check_scopes(&tenant, kind, &scopes)?;
    make_room(&tenant.roles, "roles")?;
    let role = Role { id: new_id(), name: name.to_owned(), description: description.to_owned(), kind, scopes };
    let reply = ok(&shown(&role));
    tenant.roles.push(role);
    Ok(reply)
}

fn change(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let required = |name: &str| call.input.text(name)?.map(|_| call.input.required_text(name)).transpose();
    let (name, description) = (required("name")?, required("description")?);
    let mut tenant = call.tenant();
    with_id(&tenant, id)?;
    name.map_or(Ok(()), |name| check_name(&tenant, name, Some(id)))?;
    let role = find(&mut tenant.roles, |role| role.id == id).ok_or_else(Refusal::not_found)?;
    role.name = name.unwrap_or(&role.name).to_owned();
    role.description = description.unwrap_or(&role.description).to_owned();
    Ok(ok(&shown(role)))
}

fn delete(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let mut tenant = call.tenant();
    with_id(&tenant, id)?;
    tenant.roles.retain(|role| role.id != id);
    tenant.users.iter_mut().for_each(|user| user.roles.retain(|role| role != id));
    tenant.applications.iter_mut().for_each(|application| application.roles.retain(|role| role != id));
    Ok(no_content())
}

fn scopes(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let tenant = call.tenant();
    let found = scopes_of(call, &tenant, with_id(&tenant, id)?, true);
    call.page(Paging::Optional, found)
}

fn scopes_of(call: &Call<'_>, tenant: &Tenant, role: &Role, with_resource: bool) -> Vec<Value> {
    let all = tenant.resources.iter().flat_map(|resource| resource.scopes.iter().map(move |scope| (resource, scope)));
    let held = all.filter(|(_, scope)| role.scopes.contains(&scope.id));
    let shown = held.map(|(resource, scope)| {
        let mut one = resources::shown_scope(&resource.id, scope);
        if with_resource {
            one["resource"] = resources::shown(call.state, resource);
        }
        one
    });
    shown.collect()
}

fn add_scopes(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let more = each_once(call.input.required_texts("scopeIds")?);
    let mut tenant = call.tenant();
    let role = with_id(&tenant, id)?;
    if let Some(scope) = more.iter().find(|scope| role.scopes.contains(scope)) {
        let message = format!("The scope id {scope} has already been added to this role");
        return Err(Refusal::unprocessable("role.scope_exists", message));
    }
    check_scopes(&tenant, role.kind, &more)?;
    let role = find(&mut tenant.roles, |role| role.id == id).ok_or_else(Refusal::not_found)?;
    role.scopes.extend(more);
    let role = role.clone();
    Ok(created(&Value::from(scopes_of(call, &tenant, &role, false))))
}

/// `POST /api/roles/:id/users` and `/applications`: all of them, or none.
fn assign(call: &Call<'_>, id: &str, member: &str, kind: RoleKind) -> Result<Reply, Refusal> {
    let asked = call.input.required_texts(member)?;
    let mut tenant = call.tenant();
    if with_id(&tenant, id)?.kind != kind {
        // Logto leaves this to its database.
        return Err(Refusal::unprocessable("entity.db_constraint_violated", "Database constraint violated."));
    }
    for one in &asked {
        let (held, code, what) = match kind {
            RoleKind::User => (&tenant.user(one).ok_or_else(Refusal::not_found)?.roles, "role.user_exists", "user"),
            RoleKind::MachineToMachine => {
                let application = tenant.application(one).ok_or_else(|| applications::unknown(one))?;
                (&application.roles, "role.application_exists", "application")
            }
        };
        if held.iter().any(|role| role == id) {
            return Err(Refusal::unprocessable(code, format!("The {what} id {one} is already been added to this role")));
        }
    }
    for user in tenant.users.iter_mut().filter(|user| kind == RoleKind::User && asked.contains(&user.id)) {
        user.roles.push(id.to_owned());
    }
    let is_asked = |application: &&mut Application| kind == RoleKind::MachineToMachine && asked.contains(&application.id);
    for application in tenant.applications.iter_mut().filter(is_asked) {
        application.roles.push(id.to_owned());
    }
    Ok(created_silently())
}

fn each_once(ids: Vec<String>) -> Vec<String> {
    let mut once: Vec<String> = Vec::new();
    for id in ids {
        if !once.contains(&id) {
            once.push(id);
        }
    }
    once
}

fn take(list: &mut Vec<String>, id: &str) -> Result<Reply, Refusal> {
    let i = list.iter().position(|known| known == id).ok_or_else(Refusal::not_found)?;
    list.remove(i);
    Ok(no_content())
}

fn check_name(tenant: &Tenant, name: &str, except: Option<&str>) -> Result<(), Refusal> {
    match tenant.roles.iter().any(|role| role.name == name && Some(role.id.as_str()) != except) {
        true => Err(Refusal::unprocessable("role.name_in_use", format!("This role name {name} is already in use"))),
        false => Ok(()),
    }
}

fn check_scopes(tenant: &Tenant, kind: RoleKind, scopes: &[String]) -> Result<(), Refusal> {
    for id in scopes {
        if !tenant.resources.iter().flat_map(|resource| &resource.scopes).any(|scope| scope.id == *id) {
            return Err(Refusal::unknown_id("scopes", id));
        }
        if kind == RoleKind::User && id == MANAGEMENT_API_SCOPE {
            let message = "Cannot assign management API scopes to a user role.";
            return Err(Refusal::bad_request("role.management_api_scopes_not_assignable_to_user_role", message));
        }
    }
    Ok(())
}
