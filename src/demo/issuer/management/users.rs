//! `/api/users`: who can sign in, and what they allowed applications.

use http::StatusCode;
use serde_json::{Value, json};

use super::input::Paging;
use super::refusal::Refusal;
use super::{Call, make_room, milliseconds, no_content, ok, or_null, roles};
use crate::demo::issuer::grants::Grant;
use crate::demo::issuer::tenant::{Application, User, new_id};
use crate::demo::server::Reply;

/// Characters of the id of a user, fewer than any other's.
const ID_LENGTH: usize = 12;

pub fn answer(call: &Call<'_>, path: &[&str]) -> Result<Reply, Refusal> {
    match (call.method, path) {
        ("GET", []) => {
            // The newest first.
            let users = call.tenant().users.iter().rev().map(shown).collect();
            call.page(Paging::Always, users)
        }
        ("POST", []) => create(call),
        ("GET", [id]) => Ok(ok(&shown(call.tenant().user(id).ok_or_else(Refusal::not_found)?))),
        ("DELETE", [id]) => delete(call, id),
        ("PATCH", [id, "is-suspended"]) => suspend(call, id),
        ("GET", [id, "grants"]) => grants(call, id),
        ("DELETE", [id, "grants", grant]) => revoke(call, id, grant),
        (_, [id, "roles", rest @ ..]) => roles::of_user(call, id, rest),
        _ => Err(Refusal::no_route()),
    }
}

pub fn shown(user: &User) -> Value {
    json!({
        "id": user.id,
        "username": or_null(&user.username),
        "primaryEmail": or_null(&user.email),
        "primaryPhone": null,
        "name": or_null(&user.name),
        "avatar": null,
        "customData": {},
        "identities": {},
        "lastSignInAt": null,
        "createdAt": milliseconds(user.created_at),
        "updatedAt": milliseconds(user.updated_at),
        "profile": {},
        "applicationId": null,
        "cimdClientId": null,
        "isSuspended": user.suspended,
        "hasPassword": !user.password.is_empty(),
    })
}

fn create(call: &Call<'_>) -> Result<Reply, Refusal> {
    let text = |name: &str| Ok(call.input.text(name)?.unwrap_or_default());
    let (username, name, email, password) = (text("username")?, text("name")?, text("primaryEmail")?, text("password")?);
    let id: String = new_id().chars().take(ID_LENGTH).collect();
    let user = User { id, email: email.to_owned(), ..User::new(username, name, password, &[]) };
    let mut tenant = call.tenant();
    if !username.is_empty() && tenant.users.iter().any(|user| user.username == username) {
        return Err(Refusal::unprocessable("user.username_already_in_use", "This username is already in use."));
    }
    if !email.is_empty() && tenant.users.iter().any(|user| user.email == email) {
        return Err(Refusal::unprocessable("user.email_already_in_use", "This email is associated with an existing account."));
    }
    make_room(&tenant.users, "users")?;
    let reply = ok(&shown(&user));
    tenant.users.push(user);
    Ok(reply)
}

fn delete(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    match call.state.end_user(id) {
        true => Ok(no_content()),
        false => Err(Refusal::not_found()),
    }
}

fn suspend(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let suspended = call.input.boolean("isSuspended")?;
    let suspended = suspended.ok_or_else(|| super::input::mistyped(vec![json!("isSuspended")], "boolean", None))?;
    match call.state.suspend(id, suspended) {
        true => Ok(ok(&shown(call.tenant().user(id).ok_or_else(Refusal::not_found)?))),
        false => Err(Refusal::not_found()),
    }
}

/// Of applications that are still there. Nobody looks whether the user is: the grants of a deleted one stay in the list.
fn grants(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let third_party = call.query.either("appType", ["thirdParty", "firstParty"])?;
    let grants = call.state.grants().of_user(id);
    let tenant = call.tenant();
    let shown = grants.iter().filter_map(|grant| {
        let application = tenant.application(&grant.client_id)?;
        third_party.is_none_or(|third_party| third_party == application.third_party).then(|| shown_grant(grant, application))
    });
    let shown: Vec<Value> = shown.collect();
    Ok(ok(&json!({ "grants": shown })))
}

fn shown_grant(grant: &Grant, application: &Application) -> Value {
    let mut payload = json!({
        "exp": grant.expires_at,
        "iat": grant.issued_at,
        "jti": grant.id,
        "kind": "Grant",
        "clientId": grant.client_id,
        "accountId": grant.subject,
        "openid": { "scope": grant.openid_scopes.join(" ") },
    });
    if !grant.resource_scopes.is_empty() {
        let resources = grant.resource_scopes.iter().map(|(indicator, scopes)| (indicator.clone(), Value::from(scopes.join(" "))));
        payload["resources"] = resources.collect();
        // The consent page says what is rejected, which is nothing; the company's own applications have none.
        if application.third_party {
            payload["rejected"] = json!({});
        }
    }
    json!({
        "id": grant.id,
        "payload": payload,
        "expiresAt": milliseconds(grant.expires_at),
        "application": { "id": application.id, "name": application.name },
    })
}

fn revoke(call: &Call<'_>, id: &str, grant: &str) -> Result<Reply, Refusal> {
    let mut grants = call.state.grants();
    let is_theirs = grants.get(grant).is_some_and(|grant| grant.subject == id);
    match is_theirs.then(|| grants.revoke(grant)) {
        Some(_) => Ok(no_content()),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, "oidc.invalid_grant", "Grant request is invalid.")),
    }
}
