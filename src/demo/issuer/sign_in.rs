//! The sign-in page: who you are, and a password that is no secret here.

use askama::Template;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;

use super::interaction::{self, Interaction};
use super::refusal::Refusal;
use super::{State, User, notice, session};
use crate::demo::event::event;
use crate::demo::page::{self, Form};
use crate::demo::server::Reply;

/// Of users to choose from.
const CHOICES_MAX: usize = 20;

#[derive(Template)]
#[template(path = "issuer/sign_in.html")]
struct SignIn<'p> {
    application: &'p str,
    third_party: bool,
    interaction: &'p str,
    csrf: &'p str,
    choices: Vec<Choice>,
    /// What stands in the password field.
    password: &'p str,
    /// Everybody's password, when all have the same.
    shared_password: Option<&'p str>,
    problem: Option<&'p str>,
    current: Option<&'p str>,
}

struct Choice {
    id: String,
    name: String,
    email: String,
    password: String,
    chosen: bool,
}

/// `GET /sign-in`.
pub fn show(state: &State, request: &Request<Incoming>) -> Reply {
    let query = Form::parse(request.uri().query().unwrap_or_default().as_bytes());
    match interaction::find(state, request.headers(), &query) {
        Some((id, interaction)) => render(state, request.headers(), StatusCode::OK, &id, &interaction, None, None),
        None => notice::expired(),
    }
}

/// `POST /sign-in`.
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
    if !interaction::try_password(state, &id) {
        event("somebody", "signs in", "refused", "ten wrong passwords");
        return Ok(notice::too_many_tries());
    }
    let chosen = form.one("user").unwrap_or_default();
    let again = |status, problem| Ok(render(state, &head.headers, status, &id, &interaction, Some(chosen), Some(problem)));
    let Some(user) = verified(state, chosen, form.one("password").unwrap_or_default()) else {
        event("somebody", "signs in", "refused", "the password is wrong, or there is no such user");
        return again(StatusCode::UNPROCESSABLE_ENTITY, "That password is wrong. Nothing was changed; try again.");
    };
    if user.suspended {
        event(&user.name, "signs in", "refused", "user.suspended");
        return again(StatusCode::FORBIDDEN, "This account is suspended, so nobody can sign in with it (user.suspended).");
    }
    let before = session::of(state, &head.headers).map(|(key, _)| key);
    let mut cookies = Reply::default();
    let session = session::start(state, before.as_deref(), &user.id, &mut cookies)?;
    event(&user.name, "signs in", "accepted", "the password is right; a new session");
    interaction::signed_in(state, &id, &session)?;
    let mut reply = interaction::proceed(state, &id, Some(session))?;
    reply.headers_mut().extend(std::mem::take(cookies.headers_mut()));
    Ok(reply)
}

/// The user with this password. Whether the name or the password was wrong is not told.
fn verified(state: &State, id: &str, password: &str) -> Option<User> {
    let user = state.tenant().user(id).cloned()?;
    verify_slices_are_equal(user.password.as_bytes(), password.as_bytes()).is_ok().then_some(user)
}

fn render(
    state: &State,
    headers: &HeaderMap,
    status: StatusCode,
    id: &str,
    interaction: &Interaction,
    chosen: Option<&str>,
    problem: Option<&str>,
) -> Reply {
    let Some(client) = interaction::client(state, interaction) else { return notice::expired() };
    let current = session::of(state, headers).and_then(|(_, session)| session::user(state, &session));
    let users: Vec<User> = state.tenant().users.iter().take(CHOICES_MAX).cloned().collect();
    let first = users.first().map(|user| user.id.clone());
    let chosen = chosen.map(str::to_owned).or(first);
    let choice = |user: &User| Choice {
        id: user.id.clone(),
        name: user.name.clone(),
        email: user.email.clone(),
        password: user.password.clone(),
        chosen: chosen.as_ref() == Some(&user.id),
    };
    let shared = users.first().map(|user| user.password.as_str()).filter(|first| users.iter().all(|user| user.password == *first));
    let page = SignIn {
        application: &client.name,
        third_party: client.third_party,
        interaction: id,
        csrf: &interaction.csrf,
        choices: users.iter().map(choice).collect(),
        password: shared.unwrap_or_default(),
        shared_password: shared,
        problem,
        current: current.as_ref().map(|user| user.name.as_str()),
    };
    page::html(status, &page, &interaction::origin(interaction))
}
