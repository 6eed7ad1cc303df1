//! Refresh tokens (RFC 6749 §6): each use gives a new one, and what it gives is worked out anew.

use serde_json::Value;

use super::client::Parameters;
use super::code::Authorization;
use super::refusal::Refusal;
use super::{Application, State, tokens};
use crate::clock;
use crate::demo::event::event;

/// `grant_type=refresh_token`.
///
/// Logto gives a new one to public clients and lets confidential ones keep theirs until most of its time has passed;
/// here everybody gets a new one, which is the stricter of the two and the one that an application must be able to bear.
pub fn exchange(state: &State, client: &Application, parameters: &Parameters) -> Result<Value, Refusal> {
    let shown = parameters.required("refresh_token")?;
    let authorization = known(state, client, shown)?;
    let (user, grant) = tokens::standing(state, &authorization).inspect_err(|_| {
        event(&client.name, "refreshes a token", "refused", "the grant was revoked, or the user is suspended or gone");
    })?;
    let resource = tokens::resource(state, &authorization, parameters)?;
    let asked = match parameters.one("scope")? {
        None => authorization.scopes.clone(),
        Some(narrower) => {
            let asked: Vec<String> = narrower.split_ascii_whitespace().map(str::to_owned).collect();
            let granted = granted(state, client, &authorization)?;
            if let Some(missing) = asked.iter().find(|scope| !granted.contains(scope)) {
                let scope = Some(missing.clone());
                return Err(Refusal { scope, ..Refusal::new("invalid_scope", "refresh token missing requested scope") });
            }
            asked
        }
    };
    drop((user, grant));
    rotate(state, client, shown)?;
    // OpenID Connect Core §12.2: no nonce, which belongs to the request that was answered long ago.
    let issued = tokens::issue(state, client, &authorization, &asked, resource.as_ref(), None)?;
    event(&client.name, &format!("refreshes its token for {}", issued.user), &issued.decision(), &issued.reason(resource.as_ref()));
    Ok(issued.response)
}

fn known(state: &State, client: &Application, shown: &str) -> Result<Authorization, Refusal> {
    let tokens = state.tokens();
    let refresh = tokens.refresh.get(shown).filter(|refresh| refresh.authorization.client_id == client.id);
    refresh.map(|refresh| refresh.authorization.clone()).ok_or_else(Refusal::invalid_grant)
}

/// All scopes that a refresh token stands for now: OpenID Connect's, and those of every resource.
pub fn granted(state: &State, client: &Application, authorization: &Authorization) -> Result<Vec<String>, Refusal> {
    let (user, grant) = tokens::standing(state, authorization)?;
    let mut granted = tokens::openid_scopes(&grant, &authorization.scopes);
    let tenant = state.tenant();
    for resource in authorization.resources.iter().filter_map(|indicator| tenant.resource(indicator)) {
        granted.extend(tokens::resource_scopes(client, &user, &grant, resource, &authorization.scopes));
    }
    Ok(granted)
}

/// Marks it as used. Two requests of one client may cross, so that the old one is good for a moment more; who comes with
/// it later has a copy (RFC 9700 §4.14.2), and nobody can tell which of the two is the thief.
fn rotate(state: &State, client: &Application, shown: &str) -> Result<(), Refusal> {
    let now = clock::instant_now();
    let mut tokens = state.tokens();
    let refresh = tokens.refresh.get_mut(shown).ok_or_else(Refusal::invalid_grant)?;
    let since = *refresh.rotated_at.get_or_insert(now);
    if since == now || now.duration_since(since) < state.lifetimes.refresh_reuse {
        return Ok(());
    }
    let grant = refresh.authorization.grant.clone();
    drop(tokens);
    state.grants().revoke(&grant);
    event(&client.name, "refreshes with an old token", "refused", "it was replaced before; the grant and what came of it are revoked");
    Err(Refusal::invalid_grant())
}
