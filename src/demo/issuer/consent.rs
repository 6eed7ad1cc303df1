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
    if !page::same_secret(&interaction.csrf, form.one("csrf")) {
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
        csrf: &interaction.csrf,
        personal: personal.collect(),
        resources: resources(state, offer, known),
        offline: offer.openid_scopes.iter().any(|scope| scope == "offline_access"),
        redirect_uri: &interaction.asked.redirect_uri,
    };
    page::html(StatusCode::OK, &page, &interaction::origin(interaction))
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
