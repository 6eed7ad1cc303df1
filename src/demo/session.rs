//! The sessions of a party's visitors: a cookie that nobody can guess, a secret for its forms, and what the party knows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;

use super::kept::Kept;
use super::oauth_client::unguessable;
use super::page;
use super::server::Reply;

const LIFETIME: Duration = Duration::from_secs(8 * 3600);
const SESSIONS_MAX: usize = 500;

/// All sessions of one party. Its cookie has a name of its own, since browsers send cookies to every port of a host.
pub struct Sessions<S> {
    cookie: &'static str,
    kept: Mutex<Kept<Visitor<S>>>,
}

/// A browser that was here before.
pub struct Visitor<S> {
    pub id: String,
    /// What a form must bring back, which a page of another site cannot know.
    pub form_secret: String,
    /// One request of a visitor at a time: two at once would use one refresh token twice.
    pub state: Arc<tokio::sync::Mutex<S>>,
}

impl<S> Clone for Visitor<S> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), form_secret: self.form_secret.clone(), state: self.state.clone() }
    }
}

impl<S: Default> Sessions<S> {
    pub fn new(cookie: &'static str) -> Self {
        Self { cookie, kept: Mutex::new(Kept::new(LIFETIME, SESSIONS_MAX)) }
    }

    pub fn find(&self, headers: &HeaderMap) -> Option<Visitor<S>> {
        let id = page::cookie(headers, self.cookie)?;
        self.kept().get(&id).cloned()
    }

    pub fn begin(&self) -> Visitor<S> {
        self.keep(Arc::default())
    }

    /// The same visitor under a new name: once somebody signed in, a name that was known before must open nothing.
    pub fn renew(&self, visitor: &Visitor<S>) -> Visitor<S> {
        self.end(visitor);
        self.keep(visitor.state.clone())
    }

    pub fn end(&self, visitor: &Visitor<S>) {
        self.kept().take(&visitor.id);
    }

    /// Tells the browser the name of its session.
    pub fn name(&self, visitor: &Visitor<S>, reply: &mut Reply) {
        page::set_cookie(reply, self.cookie, &visitor.id);
    }

    /// Takes the name from the browser.
    pub fn unname(&self, reply: &mut Reply) {
        page::set_cookie(reply, self.cookie, "");
    }

    fn keep(&self, state: Arc<tokio::sync::Mutex<S>>) -> Visitor<S> {
        let visitor = Visitor { id: unguessable(), form_secret: unguessable(), state };
        self.kept().insert(visitor.id.clone(), visitor.clone());
        visitor
    }

    fn kept(&self) -> MutexGuard<'_, Kept<Visitor<S>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    #[tokio::test]
    async fn a_renewed_session_has_another_name_and_another_secret_and_knows_the_same() {
        let sessions: Sessions<u32> = Sessions::new("session");
        let with = |id: &str| HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from(format!("session={id}")).unwrap())]);
        let first = sessions.begin();
        *first.state.lock().await = 7;
        let second = sessions.renew(&first);
        assert!(sessions.find(&with(&first.id)).is_none());
        let found = sessions.find(&with(&second.id)).unwrap();
        assert_eq!((*found.state.lock().await, found.form_secret == first.form_secret), (7, false));
        sessions.end(&found);
        assert!(sessions.find(&with(&second.id)).is_none());
    }
}
