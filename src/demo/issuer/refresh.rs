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
    tokens::standing(state, &authorization).inspect_err(|_| {
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
    rotate(state, client, shown)?;
    // OpenID Connect Core §12.2: no nonce, which belongs to the request that was answered long ago.
    let issued = tokens::issue(state, client, &authorization, &asked, resource.as_ref(), None)?;
    event(&client.name, &format!("refreshes its token for {}", issued.user), &issued.decision(), &issued.reason(client, resource.as_ref()));
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
        granted.extend(tokens::resource_scopes(&tenant, client, &user, &grant, resource, &authorization.scopes));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::visitor::{SECOND, Visitor, WEATHER, exchange, part, refresh, start, start_with};
    use super::super::{Issuer, Lifetimes};
    use super::*;

    const ALL: &[(&str, &str)] = &[("scope", "openid offline_access profile read:weather write:weather"), ("prompt", "consent")];

    /// What Alice's code gave this application.
    async fn tokens(issuer: &Issuer, client_id: &str) -> Value {
        let code = Visitor::of(issuer).code(client_id, "alice", ALL).await;
        let (status, answer) = exchange(issuer, client_id, &code, &[]).await;
        assert_eq!(status, 200);
        answer
    }

    async fn for_weather(issuer: &Issuer, client_id: &str, token: &Value) -> (u16, Value) {
        refresh(issuer, client_id, token, &[("resource", WEATHER)]).await
    }

    #[tokio::test]
    async fn each_use_gives_a_new_one_and_the_old_one_is_good_for_a_moment() {
        let issuer = start().await;
        for client in ["weatherbot", "spa"] {
            let first = tokens(&issuer, client).await["refresh_token"].clone();
            let (status, answer) = for_weather(&issuer, client, &first).await;
            assert_eq!((status, &answer["scope"]), (200, &json!("read:weather")));
            assert_ne!(answer["refresh_token"], first);
            // Two requests that cross.
            assert_eq!(for_weather(&issuer, client, &first).await.0, 200);
            let (status, answer) = refresh(&issuer, client, &answer["refresh_token"], &[]).await;
            assert_eq!((status, &answer["scope"]), (200, &json!("openid offline_access profile")));
            assert!(!answer["access_token"].as_str().unwrap().contains('.') && part(&answer["id_token"], 1)["sub"] == "alice");
        }
    }

    #[tokio::test]
    async fn who_comes_later_with_an_old_one_ends_them_all() {
        let issuer = start_with(Lifetimes { refresh_reuse: std::time::Duration::ZERO, ..Lifetimes::default() }).await;
        let first = tokens(&issuer, "weatherbot").await["refresh_token"].clone();
        let (_, second) = for_weather(&issuer, "weatherbot", &first).await;
        let (status, answer) = for_weather(&issuer, "weatherbot", &first).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_grant")));
        assert_eq!(for_weather(&issuer, "weatherbot", &second["refresh_token"]).await.0, 400);
        assert!(issuer.0.state.grants().of_user("alice").is_empty());
    }

    #[tokio::test]
    async fn what_it_gives_is_worked_out_anew() {
        let issuer = start().await;
        let state = &issuer.0.state;
        let mut token = tokens(&issuer, "weatherbot").await["refresh_token"].clone();
        let ceiling = state.tenant().scope_ids(WEATHER, &["read:weather"]);
        let wider = state.tenant().scope_ids(WEATHER, &["read:weather", "write:weather"]);
        let set_ceiling = |ids: Vec<String>| {
            let mut tenant = state.tenant();
            tenant.applications.iter_mut().find(|app| app.id == "weatherbot").unwrap().ceiling.resource_scopes = ids;
        };
        let set_roles = |scopes: &[&str]| state.tenant().users[0].scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        // Fixtures 06-grants-webhooks/11, 13 and 15: no permission or no role is no scope, and it comes back with them.
        let steps: [(&dyn Fn(), &str); 5] = [
            (&|| set_ceiling(Vec::new()), ""),
            (&|| set_ceiling(ceiling.clone()), "read:weather"),
            (&|| set_roles(&[]), ""),
            (&|| set_roles(&["read:weather", "write:weather"]), "read:weather"),
            // The user never allowed the other one.
            (&|| set_ceiling(wider.clone()), "read:weather"),
        ];
        for (change, scope) in steps {
            change();
            let (status, answer) = for_weather(&issuer, "weatherbot", &token).await;
            assert_eq!((status, answer["scope"].as_str()), (200, Some(scope)));
            assert_eq!(part(&answer["access_token"], 1).get("scope").is_some(), !scope.is_empty());
            token = answer["refresh_token"].clone();
        }
    }

    #[tokio::test]
    async fn it_can_be_narrowed_and_not_widened() {
        let issuer = start().await;
        let token = tokens(&issuer, "official").await["refresh_token"].clone();
        let (status, answer) = refresh(&issuer, "official", &token, &[("resource", WEATHER), ("scope", "read:weather")]).await;
        assert_eq!((status, &answer["scope"], answer.get("id_token")), (200, &json!("read:weather"), None));
        // The next one stands for all of it again.
        let (_, answer) = for_weather(&issuer, "official", &answer["refresh_token"]).await;
        assert_eq!(answer["scope"], "read:weather write:weather");
        let token = tokens(&issuer, "weatherbot").await["refresh_token"].clone();
        let (status, answer) = refresh(&issuer, "weatherbot", &token, &[("resource", WEATHER), ("scope", "write:weather")]).await;
        // Fixture 07-features/refresh-downscope.
        let expected = json!({
            "code": "oidc.invalid_scope",
            "message": "Invalid scope: {{error_description}}.",
            "error": "invalid_scope",
            "error_description": "refresh token missing requested scope",
            "scope": "write:weather",
        });
        assert_eq!((status, answer), (400, expected));
    }

    #[tokio::test]
    async fn it_is_bound_to_its_client_and_its_resources() {
        let issuer = start().await;
        let token = tokens(&issuer, "weatherbot").await["refresh_token"].clone();
        let (_, opaque) = refresh(&issuer, "weatherbot", &token, &[]).await;
        let cases = [
            ("official", &token, WEATHER, "invalid_grant"),
            ("weatherbot", &token, SECOND, "invalid_target"),
            ("weatherbot", &json!("unknown"), WEATHER, "invalid_grant"),
            ("weatherbot", &json!(""), WEATHER, "invalid_request"),
            // An access token is none.
            ("weatherbot", &opaque["access_token"], WEATHER, "invalid_grant"),
        ];
        for (client, token, resource, error) in cases {
            let (status, answer) = refresh(&issuer, client, token, &[("resource", resource)]).await;
            assert_eq!((status, answer["error"].as_str()), (400, Some(error)), "{client} {resource}");
        }
        issuer.0.state.tenant().applications.retain(|app| app.id != "weatherbot");
        let (status, answer) = for_weather(&issuer, "weatherbot", &token).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_client")));
    }
}
