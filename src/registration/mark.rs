//! What stands in an app of Logto's that was registered here: whether it is one, whether it is whole, whose token changes it,
//! and when it was last used.

use serde_json::{Map, Value};

use crate::clock::UnixSeconds;
use crate::logto::Application;
use crate::oauth::registration::{AuthMethod, Wanted};

/// The names in our mark.
pub const REGISTERED: &str = crate::logto::REGISTERED;
const STATE: &str = "state";
const TOKEN: &str = "token";
const AUTH_METHOD: &str = "auth_method";
const GRANT_TYPES: &str = "grant_types";
const FREE_SCOPES: &str = "free_scopes";
pub const USED: &str = "used";

const PENDING: &str = "pending";
const DONE: &str = "done";

/// What an app is made with. It is pending until it has all that it is to have.
pub fn fresh(wanted: &Wanted, token_hash: &str, now: UnixSeconds) -> Map<String, Value> {
    let mut marks = settings(wanted);
    marks.insert(REGISTERED.to_owned(), now.into());
    marks.insert(STATE.to_owned(), PENDING.into());
    marks.insert(TOKEN.to_owned(), token_hash.into());
    marks
}

/// What Logto has no place for.
pub fn settings(wanted: &Wanted) -> Map<String, Value> {
    let free = wanted.granted.names.iter().filter(|name| matches!(name.as_str(), "openid" | "offline_access"));
    Map::from_iter([
        (AUTH_METHOD.to_owned(), wanted.auth_method.name().into()),
        (GRANT_TYPES.to_owned(), wanted.grant_types.clone().into()),
        (FREE_SCOPES.to_owned(), free.cloned().collect()),
    ])
}

pub fn done() -> Map<String, Value> {
    Map::from_iter([(STATE.to_owned(), DONE.into())])
}

pub fn used(now: UnixSeconds) -> Map<String, Value> {
    Map::from_iter([(USED.to_owned(), now.into())])
}

/// When it was registered here; `None` for every app that was not. Nothing else is ever changed or deleted.
pub fn registered_at(application: &Application) -> Option<UnixSeconds> {
    application.mark(REGISTERED).and_then(Value::as_i64).filter(|_| application.is_third_party)
}

pub fn is_pending(application: &Application) -> bool {
    application.mark(STATE).and_then(Value::as_str) != Some(DONE)
}

pub fn used_at(application: &Application) -> Option<UnixSeconds> {
    application.mark(USED).and_then(Value::as_i64)
}

pub fn token_hash(application: &Application) -> &str {
    application.mark(TOKEN).and_then(Value::as_str).unwrap_or_default()
}

pub fn auth_method(application: &Application) -> AuthMethod {
    let method = application.mark(AUTH_METHOD).and_then(Value::as_str).and_then(AuthMethod::parse);
    method.unwrap_or(if application.kind.is_confidential() { AuthMethod::Basic } else { AuthMethod::None })
}

fn texts(application: &Application, name: &str) -> Vec<String> {
    let items = application.mark(name).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn grant_types(application: &Application) -> Vec<String> {
    texts(application, GRANT_TYPES)
}

pub fn free_scopes(application: &Application) -> Vec<String> {
    texts(application, FREE_SCOPES)
}

/// Whether Logto can have made it: what cannot be one is not asked about.
pub fn may_be_id(text: &str) -> bool {
    const ID_BYTES_MAX: usize = 64;
    !text.is_empty() && text.len() <= ID_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
