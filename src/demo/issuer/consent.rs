//! The consent page: what an application of somebody else's may have, in words, and the user's yes or no.

use askama::Template;
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;

use super::interaction::{self, Interaction};
use super::refusal::Refusal;
use super::scopes::Offer;
use super::{Application, Grant, State, User, notice, session};
use crate::demo::event::event;
use crate::demo::page::{self, Form};
use crate::demo::server::Reply;

#[derive(Template)]
#[template(path = "issuer/consent.html")]
struct Consent<'p> {
    application: &'p str,
    user: &'p User,
    interaction: &'p str,
    csrf: &'p str,
    personal: Vec<Permission>,
    resources: Vec<Asked>,
    /// The names of those of which nothing can be given.
    barred: Vec<String>,
    /// It may come back while the user is away.
    offline: bool,
    redirect_uri: &'p str,
}

impl Consent<'_> {
    fn nothing(&self) -> bool {
        self.personal.is_empty() && self.resources.is_empty()
    }
}

/// An API resource of which something can be given.
struct Asked {
    name: String,
    indicator: String,
    permissions: Vec<Permission>,
}

struct Permission {
    what: String,
    scope: String,
    already: bool,
}

/// `GET /consent`.
pub fn show(state: &State, request: &Request<Incoming>) -> Result<Reply, Refusal> {
    let query = Form::parse(request.uri().query().unwrap_or_default().as_bytes());
    let Some((id, interaction)) = interaction::find(state, request.headers(), &query) else { return Ok(notice::expired()) };
    let session = session::of(state, request.headers()).map(|(_, session)| session);
    let Some((user, client, offer)) = interaction::to_consent(state, &interaction, session.as_ref())? else {
        return interaction::proceed(state, &id, session);
    };
    interaction::shown(state, &id, &offer, false);
    let known = session.and_then(|session| state.grants().of(&session.id, &user.id, &client.id).cloned());
    Ok(render(state, &id, &interaction, &user, &client, &offer, known.as_ref()))
}

/// `POST /consent`.
pub async fn answer(state: &State, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let (head, body) = request.into_parts();
    let form = match Form::read(body).await {
        Ok(form) => form,
        Err(status) => return Ok(notice::unreadable(status)),
    };
    let Some((id, interaction)) = interaction::find(state, &head.headers, &form) else { return Ok(notice::expired()) };
    if !page::same_secret(&interaction.consent_csrf, form.one("csrf")) {
        return Ok(notice::forged());
    }
    decided(state, &head.headers, &id, &interaction, form.one("decision"))
}

fn decided(state: &State, headers: &HeaderMap, id: &str, interaction: &Interaction, decision: Option<&str>) -> Result<Reply, Refusal> {
    let session = session::of(state, headers).map(|(_, session)| session);
    let asked = interaction::to_consent(state, interaction, session.as_ref())?;
    let (Some((user, client, possible)), Some(shown), Some(session)) = (asked, &interaction.shown, &session) else {
        return interaction::proceed(state, id, session);
    };
    match decision {
        Some("allow") => {
            // What was taken from the user meanwhile is not given, and what was not shown is not either.
            let allowed = shown.clone().and(&possible);
            if let Some(grant) = state.grants().of_session(&session.id, &user.id, &client.id) {
                grant.allow(&allowed.openid_scopes, &allowed.resource_scopes);
            }
            interaction::shown(state, id, shown, true);
            event(&user.name, &format!("allows {} {}", client.name, allowed.names()), "granted", "pressed Authorize on the consent page");
            interaction::proceed(state, id, Some(session.clone()))
        }
        Some("cancel") => {
            state.interactions().take(id);
            event(
                &user.name,
                &format!("is asked by {} for {}", client.name, shown.names()),
                "cancelled",
                "pressed Cancel; nothing is given",
            );
            // Logto goes to the bare address, with neither `error=access_denied` nor `state` (RFC 6749 §4.1.2.1 would have
            // both): its page is a link to the redirect URI (packages/experience/src/pages/Consent).
            Ok(page::see_other(&interaction.asked.redirect_uri))
        }
        _ => Ok(notice::forged()),
    }
}

fn render(
    state: &State,
    id: &str,
    interaction: &Interaction,
    user: &User,
    client: &Application,
    offer: &Offer,
    known: Option<&Grant>,
) -> Reply {
    let personal = [("profile", "See your name and username"), ("email", "See your email address")];
    let personal = personal.into_iter().filter(|(scope, _)| offer.openid_scopes.iter().any(|offered| offered == scope));
    let personal = personal.map(|(scope, what)| Permission {
        what: what.to_owned(),
        scope: scope.to_owned(),
        already: known.is_some_and(|grant| grant.openid_scopes.iter().any(|known| known == scope)),
    });
    let page = Consent {
        application: &client.name,
        user,
        interaction: id,
        csrf: &interaction.consent_csrf,
        personal: personal.collect(),
        resources: resources(state, offer, known),
        barred: barred(state, interaction, offer),
        offline: offer.openid_scopes.iter().any(|scope| scope == "offline_access"),
        redirect_uri: &interaction.asked.redirect_uri,
    };
    page::html(StatusCode::OK, &page, &interaction::origins(&interaction.asked.redirect_uri))
}

fn barred(state: &State, interaction: &Interaction, offer: &Offer) -> Vec<String> {
    let tenant = state.tenant();
    let barred = interaction.asked.resources.iter().filter(|indicator| !offer.resource_scopes.contains_key(*indicator));
    barred.filter_map(|indicator| tenant.resource(indicator)).map(|resource| resource.name.clone()).collect()
}

fn resources(state: &State, offer: &Offer, known: Option<&Grant>) -> Vec<Asked> {
    let tenant = state.tenant();
    let asked = offer.resource_scopes.iter().filter_map(|(indicator, scopes)| {
        let resource = tenant.resource(indicator)?;
        let allowed = known.and_then(|grant| grant.resource_scopes.get(indicator));
        let permission = |name: &String| Permission {
            // Who wrote no description left the user nothing but the name.
            what: resource
                .scope(name)
                .map(|scope| scope.description.clone())
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| name.clone()),
            scope: name.clone(),
            already: allowed.is_some_and(|allowed| allowed.contains(name)),
        };
        Some(Asked { name: resource.name.clone(), indicator: indicator.clone(), permissions: scopes.iter().map(permission).collect() })
    });
    asked.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Issuer;
    use super::super::visitor::{CALLBACK, Page, SECOND, Visitor, WEATHER, exchange, part, start};

    const ALL: &[(&str, &str)] = &[("scope", "openid offline_access profile email read:weather write:weather"), ("prompt", "consent")];

    /// The consent page as this user sees it, and its address.
    async fn asked(visitor: &mut Visitor, client_id: &str, user: &str, parameters: &[(&str, &str)]) -> (Page, Page) {
        let at = visitor.authorize(client_id, parameters).await;
        let at = visitor.sign_in(&at, user).await;
        let page = visitor.get(at.location()).await;
        assert_eq!(page.status, 200);
        (page, at)
    }

    async fn press(visitor: &mut Visitor, page: &Page, decision: &str) -> Page {
        let (interaction, csrf) = (page.field("interaction"), page.field("csrf"));
        visitor.post("/consent", &[("interaction", &interaction), ("csrf", &csrf), ("decision", decision)]).await
    }

    #[tokio::test]
    async fn the_page_says_who_asks_whom_for_what_and_where_one_goes_then() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let (page, _) = asked(&mut alice, "weatherbot", "alice", ALL).await;
        for text in [
            "Weather &#60;Bot&#62;",
            "<strong>Alice</strong> (alice@example.com)",
            "<h2>Weather</h2>",
            WEATHER,
            "See the &#60;forecast&#62;",
            "<code>read:weather</code>",
            "<code>profile</code>",
            "<code>email</code>",
            CALLBACK,
            "Use another account",
            "while you are away",
        ] {
            assert!(page.body.contains(text), "{text} in {}", page.body);
        }
        // What it may not have is not mentioned.
        assert!(!page.body.contains("write:weather") && !page.body.contains("already allowed"));
        assert!(!page.body.contains("<script") && !page.body.contains("style=") && page.body.matches("<h1>").count() == 1);
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("form-action 'self' http://127.0.0.1:9999;"), "{policy}");
        press(&mut alice, &page, "allow").await;
        let at = alice.authorize("weatherbot", ALL).await;
        assert_eq!(alice.get(at.location()).await.body.matches("already allowed").count(), 3);
    }

    #[tokio::test]
    async fn cancel_leads_to_the_bare_address_and_ends_it() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let (page, _) = asked(&mut alice, "weatherbot", "alice", ALL).await;
        assert_eq!(press(&mut alice, &page, "cancel").await.location(), CALLBACK);
        assert_eq!(press(&mut alice, &page, "allow").await.status, 400);
        assert!(issuer.0.state.grants().of_user("alice").is_empty());
    }

    #[tokio::test]
    async fn with_nothing_to_give_it_says_so_and_the_token_has_no_scope() {
        let issuer = start().await;
        // Bob has no role, and the other application no permission.
        for (client, user) in [("weatherbot", "bob"), ("nothing", "alice")] {
            let mut visitor = Visitor::of(&issuer);
            let (page, _) = asked(&mut visitor, client, user, &[]).await;
            assert!(page.body.contains("There is nothing to give"), "{}", page.body);
            assert!(!page.body.contains("read:weather") && !page.body.contains("About you"));
            let code = press(&mut visitor, &page, "allow").await.answer("code").unwrap();
            let (status, answer) = exchange(&issuer, client, &code, &[]).await;
            let claims = part(&answer["access_token"], 1);
            assert_eq!((status, &answer["scope"], claims.get("scope"), &claims["aud"]), (200, &json!(""), None, &json!(WEATHER)));
        }
    }

    #[tokio::test]
    async fn a_resource_of_which_nothing_can_be_given_is_named_and_its_scopes_are_not() {
        let issuer = start().await;
        let mut bob = Visitor::of(&issuer);
        let (page, _) = asked(&mut bob, "weatherbot", "bob", ALL).await;
        assert!(page.body.contains("Nothing of <strong>Weather</strong>"), "{}", page.body);
        assert!(page.body.contains("About you") && !page.body.contains("read:weather"));
    }

    #[tokio::test]
    async fn consent_without_the_secret_or_without_a_button_is_refused() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let (page, _) = asked(&mut alice, "weatherbot", "alice", ALL).await;
        let interaction = page.field("interaction");
        for csrf in ["", "guessed"] {
            let refused = alice.post("/consent", &[("interaction", &interaction), ("csrf", csrf), ("decision", "allow")]).await;
            assert_eq!(refused.status, 403);
        }
        for decision in ["", "perhaps"] {
            assert_eq!(press(&mut alice, &page, decision).await.status, 403);
        }
        assert!(issuer.0.state.grants().of_user("alice").is_empty());
    }

    #[tokio::test]
    async fn the_secret_of_the_sign_in_page_does_not_consent() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let at = alice.authorize("weatherbot", &[]).await;
        let page = alice.get(at.location()).await;
        let (interaction, csrf) = (page.field("interaction"), page.field("csrf"));
        alice.sign_in(&at, "alice").await;
        let refused = alice.post("/consent", &[("interaction", &interaction), ("csrf", &csrf), ("decision", "allow")]).await;
        assert_eq!(refused.status, 403);
    }

    #[tokio::test]
    async fn nobody_consents_without_the_session_that_signed_in() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let (page, at) = asked(&mut alice, "weatherbot", "alice", ALL).await;
        let session = alice.cookies.remove("_session").unwrap();
        assert!(press(&mut alice, &page, "allow").await.location().starts_with("/sign-in"));
        assert!(alice.get(at.location()).await.location().starts_with("/sign-in"));
        // In another tab Bob signs in: Alice's page is no longer his to press.
        alice.cookies.insert("_session".to_owned(), session);
        let other = alice.authorize("official", &[("prompt", "login")]).await;
        alice.sign_in(&other, "bob").await;
        assert!(press(&mut alice, &page, "allow").await.location().starts_with("/sign-in"));
        assert!(
            ["alice", "bob"].iter().all(|user| issuer.0.state.grants().of_user(user).iter().all(|grant| grant.client_id == "official"))
        );
    }

    #[tokio::test]
    async fn somebody_else_can_sign_in_from_the_page() {
        let issuer = start().await;
        let mut visitor = Visitor::of(&issuer);
        let (page, _) = asked(&mut visitor, "weatherbot", "alice", ALL).await;
        let link = page.body.split("href=\"/sign-in").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let sign_in = visitor.get(&format!("/sign-in{link}")).await;
        assert!(sign_in.body.contains("You are signed in as Alice"));
        let at = visitor.submit_sign_in(&sign_in, "bob", "demo").await;
        assert!(visitor.get(at.location()).await.body.contains("<strong>Bob</strong>"));
        assert_eq!(press(&mut visitor, &page, "allow").await.status, 403);
    }

    #[tokio::test]
    async fn what_was_not_shown_or_was_taken_away_meanwhile_is_not_given() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let (page, _) = asked(&mut alice, "weatherbot", "alice", ALL).await;
        let change = |issuer: &Issuer, scopes: &[&str]| {
            let mut tenant = issuer.0.state.tenant();
            let ids = tenant.scope_ids(WEATHER, scopes);
            tenant.applications.iter_mut().find(|app| app.id == "weatherbot").unwrap().ceiling.resource_scopes = ids;
        };
        change(&issuer, &["write:weather"]);
        let code = press(&mut alice, &page, "allow").await.answer("code").unwrap();
        change(&issuer, &["read:weather", "write:weather"]);
        let (status, answer) = exchange(&issuer, "weatherbot", &code, &[]).await;
        assert_eq!((status, &answer["scope"]), (200, &json!("")));
    }

    #[tokio::test]
    async fn more_than_was_allowed_is_asked_for_again_and_another_resource_too() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        alice.code("weatherbot", "alice", &[("scope", "openid read:weather")]).await;
        let more = alice.authorize("weatherbot", &[("scope", "openid email read:weather")]).await;
        assert!(more.location().starts_with("/consent"));
        // Of the second it may have nothing, which needs no page.
        let second = alice.authorize("weatherbot", &[("resource", SECOND), ("scope", "openid read:second")]).await;
        let (_, answer) = exchange(&issuer, "weatherbot", &second.answer("code").unwrap(), &[("resource", SECOND)]).await;
        assert_eq!((&part(&answer["access_token"], 1)["aud"], &answer["scope"]), (&json!(SECOND), &json!("")));
    }
}
