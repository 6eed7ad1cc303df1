//! What goes on between an application's question and its answer: who still has to sign in, who has to consent.

use http::{HeaderMap, StatusCode};
use url::Url;

use super::authorize::{AuthorizationRequest, error_address, with_query};
use super::code::{self, Authorization};
use super::refusal::Refusal;
use super::scopes::Offer;
use super::session::{self, Session};
use super::signing::random_text;
use super::{Application, State, User};
use crate::clock;
use crate::demo::page::{self, Form};
use crate::demo::server::Reply;

/// Holds what shows that it is this browser's. It is one for all of the browser's interactions, so that one in another
/// tab does not end the first. Cookies are shared by all ports of a host: whoever set it, it opens nothing without the id
/// of an interaction, and nothing that somebody signed in to without the session's cookie.
const COOKIE: &str = "_interaction";
/// At most so many passwords are tried.
const TRIES_MAX: u8 = 10;

#[derive(Debug, Clone)]
pub struct Interaction {
    pub asked: AuthorizationRequest,
    browser: String,
    /// What the form of the sign-in page must bring back.
    pub sign_in_csrf: String,
    /// The same for the consent page; another one for each user who signs in.
    pub consent_csrf: String,
    pub tries_left: u8,
    /// The id of the session that was started in it.
    signed_in: Option<String>,
    /// What the user was last shown on the consent page: nothing else can be allowed there.
    pub shown: Option<Offer>,
    consented: bool,
}

/// What is needed next.
enum Step {
    SignIn,
    Consent,
    /// Nothing: the application can have its code.
    Answer(Box<(Session, Application, Offer)>),
}

/// An application asks. Whoever is signed in and has allowed all of it before is not asked again.
pub fn begin(state: &State, headers: &HeaderMap, asked: AuthorizationRequest) -> Result<Reply, Refusal> {
    let session = session::of(state, headers).map(|(_, session)| session);
    let needed = match step(state, &asked, session, None, false)? {
        Step::Answer(given) => return answer(state, &asked, *given),
        needed => needed,
    };
    if asked.prompt.none {
        let refusal = match needed {
            Step::Consent => Refusal::new("consent_required", "End-User consent is required"),
            _ => Refusal::new("login_required", "End-User authentication is required"),
        };
        return Ok(page::see_other(&error_address(state, &asked.redirect_uri, asked.state.as_deref(), &refusal)));
    }
    let (id, sign_in_csrf, consent_csrf) = (random_text()?, random_text()?, random_text()?);
    let browser = match page::cookie(headers, COOKIE) {
        Some(shown) if state.interactions().iter().any(|(_, known)| page::same_secret(&known.browser, Some(&shown))) => shown,
        _ => random_text()?,
    };
    let interaction = Interaction {
        asked,
        browser: browser.clone(),
        sign_in_csrf,
        consent_csrf,
        tries_left: TRIES_MAX,
        signed_in: None,
        shown: None,
        consented: false,
    };
    state.interactions().insert(id.clone(), interaction);
    let mut reply = page::see_other(&page_of(&needed, &id));
    page::set_cookie(&mut reply, COOKIE, &browser);
    Ok(reply)
}

fn page_of(needed: &Step, id: &str) -> String {
    let path = match needed {
        Step::Consent => "/consent",
        _ => "/sign-in",
    };
    format!("{path}?interaction={id}")
}

/// The interaction that a page or a form names, if it is this browser's.
pub fn find(state: &State, headers: &HeaderMap, parameters: &Form) -> Option<(String, Interaction)> {
    let id = parameters.one("interaction")?;
    let shown = page::cookie(headers, COOKIE);
    let interaction = state.interactions().get(id).filter(|known| page::same_secret(&known.browser, shown.as_deref())).cloned()?;
    Some((id.to_owned(), interaction))
}

/// One password less to try; false if there was none left, and then the interaction is over.
pub fn try_password(state: &State, id: &str) -> bool {
    let mut interactions = state.interactions();
    let Some(interaction) = interactions.get_mut(id).filter(|interaction| interaction.tries_left > 0) else {
        interactions.take(id);
        return false;
    };
    interaction.tries_left -= 1;
    true
}

/// The application that asks; there is none if it was deleted since.
pub fn client(state: &State, interaction: &Interaction) -> Option<Application> {
    state.tenant().application(&interaction.asked.client_id).cloned()
}

/// The origin of an address to which a form leads in the end, for the policy of its page. An application's own scheme has
/// none, and cannot be named there.
pub fn origins(address: &str) -> Vec<String> {
    let url = Url::parse(address).ok();
    url.map(|url| url.origin()).filter(|origin| origin.is_tuple()).map(|origin| origin.ascii_serialization()).into_iter().collect()
}

/// A user has signed in. A consent page from before is worth nothing any more.
pub fn signed_in(state: &State, id: &str, session: &Session) -> Result<(), Refusal> {
    let csrf = random_text()?;
    if let Some(interaction) = state.interactions().get_mut(id) {
        interaction.consent_csrf = csrf;
        interaction.signed_in = Some(session.id.clone());
        (interaction.shown, interaction.consented) = (None, false);
    }
    Ok(())
}

/// The user was shown this, or allowed it.
pub fn shown(state: &State, id: &str, offer: &Offer, consented: bool) {
    if let Some(interaction) = state.interactions().get_mut(id) {
        interaction.shown = Some(offer.clone());
        interaction.consented = consented;
    }
}

/// On to the page that is needed next, or with the answer to the application.
pub fn proceed(state: &State, id: &str, session: Option<Session>) -> Result<Reply, Refusal> {
    let Some(interaction) = state.interactions().get(id).cloned() else {
        return Ok(page::see_other("/sign-in"));
    };
    match step(state, &interaction.asked, session, interaction.signed_in.as_deref(), interaction.consented)? {
        Step::Answer(given) => {
            state.interactions().take(id);
            answer(state, &interaction.asked, *given)
        }
        needed => Ok(page::see_other(&page_of(&needed, id))),
    }
}

/// Whether the consent page is what this browser needs now: who would consent, to whom, and to what.
pub fn to_consent(
    state: &State,
    interaction: &Interaction,
    session: Option<&Session>,
) -> Result<Option<(User, Application, Offer)>, Refusal> {
    let next = step(state, &interaction.asked, session.cloned(), interaction.signed_in.as_deref(), false)?;
    let (Step::Consent, Some(session)) = (next, session) else { return Ok(None) };
    let user = session::user(state, session);
    let client = client(state, interaction);
    Ok(user.zip(client).map(|(user, client)| {
        let offer = Offer::of(&state.tenant(), &interaction.asked, &client, &user);
        (user, client, offer)
    }))
}

fn step(
    state: &State,
    asked: &AuthorizationRequest,
    session: Option<Session>,
    signed_in: Option<&str>,
    consented: bool,
) -> Result<Step, Refusal> {
    let client = state.tenant().application(&asked.client_id).cloned().ok_or_else(|| Refusal::unknown_client(&asked.client_id))?;
    let Some(session) = session else { return Ok(Step::SignIn) };
    let Some(user) = session::user(state, &session) else { return Ok(Step::SignIn) };
    let here = signed_in == Some(session.id.as_str());
    // Somebody else has signed in since, in another tab: the page would name the wrong user.
    let another = signed_in.is_some() && !here;
    let age = clock::unix_now().saturating_sub(session.signed_in_at);
    let too_long_ago = asked.max_age_seconds.is_some_and(|most| age > most);
    if another || (!here && (asked.prompt.login || too_long_ago)) {
        return Ok(Step::SignIn);
    }
    let offer = Offer::of(&state.tenant(), asked, &client, &user);
    if client.third_party && !consented {
        let allowed = state.grants().of(&session.id, &user.id, &client.id).is_some_and(|grant| offer.is_within(grant));
        if asked.prompt.consent || !allowed {
            return Ok(Step::Consent);
        }
    }
    Ok(Step::Answer(Box::new((session, client, offer))))
}

/// Sends the browser back with a code. The company's own applications are allowed what they ask for without a page.
fn answer(state: &State, asked: &AuthorizationRequest, given: (Session, Application, Offer)) -> Result<Reply, Refusal> {
    let (session, client, offer) = given;
    let mut grants = state.grants();
    let Some(grant) = grants.of_session(&session.id, &session.subject, &client.id) else {
        return Err(Refusal { status: StatusCode::SERVICE_UNAVAILABLE, ..Refusal::new("server_error", "no grant could be kept") });
    };
    if !client.third_party {
        grant.allow(&offer.openid_scopes, &offer.resource_scopes);
    }
    let grant = grant.id.clone();
    drop(grants);
    let code = code::issue(
        state,
        asked,
        Authorization {
            grant,
            subject: session.subject,
            client_id: client.id,
            session: session.id,
            scopes: asked.scopes.clone(),
            resources: asked.resources.clone(),
            // OpenID Connect Core §2: required if `max_age` was asked; Logto gives it after `prompt=login` too.
            auth_time: (asked.prompt.login || asked.max_age_seconds.is_some()).then_some(session.signed_in_at),
        },
    )?;
    let mut answer = vec![("code", code.as_str())];
    answer.extend(asked.state.as_deref().map(|state| ("state", state)));
    answer.push(("iss", &state.url));
    Ok(page::see_other(&with_query(&asked.redirect_uri, &answer)))
}
