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
    if !page::same_secret(&interaction.sign_in_csrf, form.one("csrf")) {
        return Ok(notice::forged());
    }
    let what = interaction::client(state, &interaction).map_or("signs in".to_owned(), |client| format!("signs in for {}", client.name));
    if !interaction::try_password(state, &id) {
        event("somebody", &what, "refused", "ten wrong passwords");
        return Ok(notice::too_many_tries());
    }
    let chosen = form.one("user").unwrap_or_default();
    let again = |status, problem| Ok(render(state, &head.headers, status, &id, &interaction, Some(chosen), Some(problem)));
    let Some(user) = verified(state, chosen, form.one("password").unwrap_or_default()) else {
        event("somebody", &what, "refused", "the password is wrong, or there is no such user");
        return again(StatusCode::UNPROCESSABLE_ENTITY, "That password is wrong. Nothing was changed; try again.");
    };
    if user.suspended {
        event(&user.name, &what, "refused", "user.suspended");
        return again(StatusCode::FORBIDDEN, "This account is suspended, so nobody can sign in with it (user.suspended).");
    }
    let before = session::of(state, &head.headers).map(|(key, _)| key);
    let mut cookies = Reply::default();
    let session = session::start(state, before.as_deref(), &user.id, &mut cookies)?;
    event(&user.name, &what, "accepted", "the password is right; a new session");
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
        csrf: &interaction.sign_in_csrf,
        choices: users.iter().map(choice).collect(),
        password: shared.unwrap_or_default(),
        shared_password: shared,
        problem,
        current: current.as_ref().map(|user| user.name.as_str()),
    };
    page::html(status, &page, &interaction::origins(&interaction.asked.redirect_uri))
}

#[cfg(test)]
mod tests {
    use super::super::Lifetimes;
    use super::super::visitor::{CALLBACK, Visitor, start, start_with};
    use super::super::{INTERACTIONS_MAX, SESSIONS_MAX};
    use super::*;

    #[tokio::test]
    async fn the_page_needs_one_click_and_no_script() {
        let issuer = start().await;
        let mut visitor = Visitor::of(&issuer);
        let at = visitor.authorize("weatherbot", &[]).await;
        let page = visitor.get(at.location()).await;
        assert!(page.body.contains(r#"value="alice" checked"#) && !page.body.contains(r#"value="bob" checked"#), "{}", page.body);
        assert!(page.body.contains(r#"name="password" value="demo""#) && page.body.contains("<code>demo</code>"));
        // Of a name that somebody chose, nothing becomes markup.
        assert!(page.body.contains("Weather &#60;Bot&#62;") && !page.body.contains("<Bot>"));
        assert!(!page.body.contains("<script") && !page.body.contains("style=") && page.body.matches("<h1>").count() == 1);
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("form-action 'self' http://127.0.0.1:9999;") && policy.starts_with("default-src 'none'"), "{policy}");
        assert_eq!(page.headers["cache-control"], "no-store");
        assert_eq!(visitor.get("/style.css").await.headers["content-type"], "text/css; charset=utf-8");
    }

    #[tokio::test]
    async fn users_of_different_passwords_are_shown_each_their_own() {
        let issuer = start().await;
        issuer.0.state.tenant().users[1].password = "other".to_owned();
        let mut visitor = Visitor::of(&issuer);
        let at = visitor.authorize("weatherbot", &[]).await;
        let page = visitor.get(at.location()).await;
        assert!(page.body.contains("<code>demo</code>") && page.body.contains("<code>other</code>"));
        assert!(page.body.contains(r#"name="password" value="" "#));
        assert!(visitor.submit_sign_in(&page, "bob", "other").await.location().starts_with("/consent"));
    }

    #[tokio::test]
    async fn a_wrong_password_is_told_and_ten_of_them_end_it() {
        let issuer = start().await;
        let mut visitor = Visitor::of(&issuer);
        let at = visitor.authorize("official", &[]).await;
        let page = visitor.get(at.location()).await;
        for (user, password) in [("alice", "wrong"), ("nobody", "demo"), ("", ""), ("bob", "DEMO")] {
            let again = visitor.submit_sign_in(&page, user, password).await;
            assert_eq!(again.status, 422);
            assert!(again.body.contains("That password is wrong") && !visitor.cookies.contains_key(session::COOKIE));
        }
        for _ in 4..10 {
            assert_eq!(visitor.submit_sign_in(&page, "alice", "wrong").await.status, 422);
        }
        // The right one comes too late.
        assert_eq!(visitor.submit_sign_in(&page, "alice", "demo").await.status, 429);
        assert_eq!(visitor.submit_sign_in(&page, "alice", "demo").await.status, 400);
    }

    #[tokio::test]
    async fn a_suspended_user_cannot_sign_in() {
        let issuer = start().await;
        assert!(issuer.suspend("alice", true));
        let mut visitor = Visitor::of(&issuer);
        let at = visitor.authorize("official", &[]).await;
        let page = visitor.get(at.location()).await;
        let refused = visitor.submit_sign_in(&page, "alice", "demo").await;
        assert!(refused.status == 403 && refused.body.contains("user.suspended"));
        // Who does not know the password is not told.
        assert!(!visitor.submit_sign_in(&page, "alice", "wrong").await.body.contains("user.suspended"));
        assert!(issuer.suspend("alice", false));
        assert!(visitor.submit_sign_in(&page, "alice", "demo").await.answer("code").is_some());
    }

    #[tokio::test]
    async fn a_form_without_the_secret_of_its_page_changes_nothing() {
        let issuer = start().await;
        let mut visitor = Visitor::of(&issuer);
        let at = visitor.authorize("official", &[]).await;
        let page = visitor.get(at.location()).await;
        let interaction = page.field("interaction");
        for csrf in [None, Some(""), Some("guessed"), Some(interaction.as_str())] {
            let form = [("interaction", interaction.as_str()), ("user", "alice"), ("password", "demo")];
            let form: Vec<(&str, &str)> = form.into_iter().chain(csrf.map(|csrf| ("csrf", csrf))).collect();
            let refused = visitor.post("/sign-in", &form).await;
            assert_eq!(refused.status, 403, "{csrf:?}");
            assert!(refused.headers["content-type"].to_str().unwrap().starts_with("text/html"));
        }
        let csrf = page.field("csrf");
        let twice = [("interaction", interaction.as_str()), ("csrf", &csrf), ("csrf", &csrf), ("user", "alice"), ("password", "demo")];
        assert_eq!(visitor.post("/sign-in", &twice).await.status, 403);
        assert!(!visitor.cookies.contains_key(session::COOKIE));
    }

    #[tokio::test]
    async fn a_button_that_is_pressed_twice_is_no_forgery() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let at = alice.authorize("weatherbot", &[]).await;
        let page = alice.get(at.location()).await;
        alice.submit_sign_in(&page, "alice", "demo").await;
        let at = alice.submit_sign_in(&page, "alice", "demo").await;
        assert!(alice.consent(&at, "allow").await.answer("code").is_some());
    }

    #[tokio::test]
    async fn an_interaction_is_good_in_its_own_browser_and_for_its_time() {
        let issuer = start().await;
        let (mut alice, mut other) = (Visitor::of(&issuer), Visitor::of(&issuer));
        let at = alice.authorize("official", &[]).await;
        let page = alice.get(at.location()).await;
        assert_eq!(other.get(at.location()).await.status, 400);
        assert_eq!(other.submit_sign_in(&page, "alice", "demo").await.status, 400);
        // Nor does an interaction of its own help it.
        other.authorize("official", &[]).await;
        assert_eq!(other.submit_sign_in(&page, "alice", "demo").await.status, 400);
        for path in ["/sign-in", "/sign-in?interaction=guessed", "/consent", "/consent?interaction=guessed"] {
            let gone = alice.get(path).await;
            assert!(gone.status == 400 && gone.body.contains("no longer good"), "{path}");
        }
        // Once it is done it is over.
        assert!(alice.submit_sign_in(&page, "alice", "demo").await.answer("code").is_some());
        assert_eq!(alice.submit_sign_in(&page, "alice", "demo").await.status, 400);

        let brief = start_with(Lifetimes { interaction: std::time::Duration::ZERO, ..Lifetimes::default() }).await;
        let mut late = Visitor::of(&brief);
        let at = late.authorize("official", &[]).await;
        assert_eq!(late.get(at.location()).await.status, 400);
    }

    #[tokio::test]
    async fn two_tabs_of_one_browser_do_not_end_each_other() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        let first = alice.authorize("official", &[]).await;
        let second = alice.authorize("weatherbot", &[]).await;
        assert!(alice.sign_in(&first, "alice").await.location().starts_with(CALLBACK));
        // The second tab still shows the sign-in page.
        let page = alice.sign_in(&second, "alice").await;
        assert!(alice.consent(&page, "allow").await.answer("code").is_some());
    }

    #[tokio::test]
    async fn each_sign_in_starts_a_session_of_its_own_and_the_one_before_ends() {
        let issuer = start().await;
        let mut alice = Visitor::of(&issuer);
        // One that somebody else set.
        alice.cookies.insert(session::COOKIE.to_owned(), "planted".to_owned());
        let at = alice.authorize("official", &[]).await;
        alice.sign_in(&at, "alice").await;
        let first = alice.cookies[session::COOKIE].clone();
        assert!(first != "planted" && first.len() == 43);
        let at = alice.authorize("official", &[("prompt", "login")]).await;
        alice.sign_in(&at, "alice").await;
        assert_ne!(alice.cookies[session::COOKIE], first);
        alice.cookies.insert(session::COOKIE.to_owned(), first);
        assert!(alice.authorize("official", &[]).await.location().starts_with("/sign-in"));
    }

    #[tokio::test]
    async fn a_session_ends_with_its_time() {
        let issuer = start_with(Lifetimes { session: std::time::Duration::ZERO, ..Lifetimes::default() }).await;
        let mut alice = Visitor::of(&issuer);
        let at = alice.authorize("official", &[]).await;
        alice.sign_in(&at, "alice").await;
        assert!(alice.authorize("official", &[]).await.location().starts_with("/sign-in"));
    }

    #[tokio::test]
    async fn there_are_never_more_interactions_and_sessions_than_their_limit() {
        let issuer = start().await;
        let state = &issuer.0.state;
        let mut visitor = Visitor::of(&issuer);
        let first = visitor.authorize("official", &[]).await;
        visitor.authorize("weatherbot", &[]).await;
        let one = state.interactions().iter().next().map(|(_, interaction)| interaction.clone()).unwrap();
        let reply = &mut Reply::default();
        for i in 0..INTERACTIONS_MAX.max(SESSIONS_MAX) + 5 {
            state.interactions().insert(i.to_string(), one.clone());
            session::start(state, None, "alice", reply).unwrap();
        }
        assert_eq!((state.interactions().iter().count(), state.sessions().iter().count()), (INTERACTIONS_MAX, SESSIONS_MAX));
        assert_eq!(visitor.get(first.location()).await.status, 400);
    }

    #[tokio::test]
    async fn a_page_is_not_had_by_another_name() {
        let issuer = start().await;
        let url = format!("http://{}/sign-in", issuer.address());
        let client = super::super::visitor::client();
        let rebound = client.get(&url).header("host", "rebound.example").send().await.unwrap();
        assert_eq!(rebound.status(), 421);
        let local = client.get(&url).header("host", format!("localhost:{}", issuer.address().port())).send().await.unwrap();
        assert_eq!((local.status().as_u16(), local.headers()["location"].to_str().unwrap()), (303, url.as_str()));
    }

    #[tokio::test]
    async fn a_form_that_is_too_large_is_not_read() {
        let issuer = start().await;
        let large = "x".repeat(crate::demo::server::BODY_BYTES_MAX);
        assert_eq!(Visitor::of(&issuer).post("/sign-in", &[("password", &large)]).await.status, 413);
    }
}
