//! Who is signed in, in which browser: a session a sign-in.

use aws_lc_rs::error::Unspecified;
use http::HeaderMap;

use super::signing::random_text;
use super::tenant::new_id;
use super::{State, User};
use crate::clock;
use crate::demo::page;
use crate::demo::server::Reply;

pub const COOKIE: &str = "_session";

#[derive(Debug, Clone)]
pub struct Session {
    /// Names it in tokens (`sid`) and grants. It opens nothing: the browser holds another text, which is nowhere else.
    pub id: String,
    pub subject: String,
    pub signed_in_at: i64,
    /// What the form to sign out must bring back.
    pub csrf: String,
}

/// The session of the browser that asks, with the text that opens it.
pub fn of(state: &State, headers: &HeaderMap) -> Option<(String, Session)> {
    let key = page::cookie(headers, COOKIE)?;
    let session = state.sessions().get(&key).cloned()?;
    Some((key, session))
}

/// Starts one for a user who has just shown a password. Its text is new: one that the browser had before, perhaps
/// from somebody else, opens nothing of it.
pub fn start(state: &State, before: Option<&str>, subject: &str, reply: &mut Reply) -> Result<Session, Unspecified> {
    let key = random_text()?;
    let session = Session { id: new_id(), subject: subject.to_owned(), signed_in_at: clock::unix_now(), csrf: random_text()? };
    let mut sessions = state.sessions();
    if let Some(before) = before {
        sessions.take(before);
    }
    sessions.insert(key.clone(), session.clone());
    drop(sessions);
    page::set_cookie(reply, COOKIE, &key);
    Ok(session)
}

/// The user of a session, unless suspended or gone.
pub fn user(state: &State, session: &Session) -> Option<User> {
    state.tenant().user(&session.subject).filter(|user| !user.suspended).cloned()
}
