//! The record of a dance: each request with its answer, in order, as a developer likes to read it. No secret is kept whole.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, Request, header};
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::oauth_client::Answer;

const STEPS_MAX: usize = 40;
const HEADERS_MAX: usize = 16;
const VALUE_CHARS_MAX: usize = 600;
const BODY_CHARS_MAX: usize = 4000;
/// Of a secret so many characters are shown, enough to see that two are the same.
const SHOWN_CHARS: usize = 6;

/// Parameters of forms and addresses that open something to whoever has them.
const SECRET_PARAMETERS: [&str; 9] =
    ["access_token", "assertion", "code", "code_verifier", "id_token_hint", "nonce", "refresh_token", "state", "token"];
/// Members of JSON answers. A `code` is none of them: there it is the name of an error.
const SECRET_MEMBERS: [&str; 4] = ["access_token", "client_secret", "id_token", "refresh_token"];

/// Who sends and who receives. The client is WeatherBot, the one party that shows its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Browser,
    Client,
    Gate,
    Issuer,
}

impl Party {
    pub fn name(self) -> &'static str {
        match self {
            Self::Browser => "Browser",
            Self::Client => "WeatherBot",
            Self::Gate => "Gate",
            Self::Issuer => "Issuer",
        }
    }

    /// Its place in the picture, from the left.
    pub fn lane(self) -> u8 {
        match self {
            Self::Browser => 1,
            Self::Client => 2,
            Self::Gate => 3,
            Self::Issuer => 4,
        }
    }
}

/// One request, and its answer where the recorder sees it.
#[derive(Debug)]
pub struct Step {
    pub from: Party,
    pub to: Party,
    pub why: String,
    pub request: Shown,
    pub answer: Option<Shown>,
    /// What the access token in the answer says, if it can be read.
    pub claims: Option<String>,
}

/// A request or an answer in text.
#[derive(Debug, Default)]
pub struct Shown {
    /// Method and path, or the status.
    pub line: String,
    /// The query of a request, a parameter a line.
    pub query: Vec<String>,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// The steps of one question, from the first on.
#[derive(Debug, Default)]
pub struct Wire {
    steps: Vec<Step>,
    left_out: usize,
}

impl Wire {
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How many steps had no room.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// What the client asked somebody, and what came of it.
    pub fn exchange(&mut self, to: Party, why: &str, request: &Request<Vec<u8>>, answer: Result<&Answer, &str>) {
        let (shown, claims) = match answer {
            Ok(answer) => (Shown::answer(answer), access_token_claims(&answer.body)),
            Err(reason) => (Shown { line: reason.to_owned(), ..Shown::default() }, None),
        };
        let request = Shown::request(request);
        self.push(Step { from: Party::Client, to, why: why.to_owned(), request, answer: Some(shown), claims });
    }

    /// A request of the browser's, which the client causes or receives; what is answered, the client does not see here.
    pub fn browser_goes(&mut self, to: Party, why: &str, url: &Url) {
        let request = Shown { line: format!("GET {}", readable(url.path())), query: parameters(url.query()), ..Shown::default() };
        self.push(Step { from: Party::Browser, to, why: why.to_owned(), request, answer: None, claims: None });
    }

    /// Forgets all but the latest steps.
    pub fn keep_latest(&mut self, count: usize) {
        self.steps.drain(..self.steps.len().saturating_sub(count));
    }

    fn push(&mut self, step: Step) {
        match self.steps.len() < STEPS_MAX {
            true => self.steps.push(step),
            false => self.left_out += 1,
        }
    }
}

impl Step {
    /// Whether the arrow points to the left.
    pub fn to_left(&self) -> bool {
        self.to.lane() < self.from.lane()
    }

    /// Which lanes the arrow joins, for the stylesheet.
    pub fn lanes(&self) -> String {
        let (from, to) = (self.from.lane(), self.to.lane());
        format!("lanes-{}-{}", from.min(to), from.max(to))
    }

    /// How the answer is to be seen at a glance.
    pub fn mood(&self) -> &'static str {
        match self.answer.as_ref().map(|answer| answer.line.as_bytes().first()) {
            Some(Some(b'2')) => "good",
            Some(_) => "bad",
            None => "none",
        }
    }
}

impl Shown {
    fn request(request: &Request<Vec<u8>>) -> Self {
        let uri = request.uri();
        let body = String::from_utf8_lossy(request.body());
        let is_form = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == FORM);
        Self {
            line: format!("{} {}", request.method(), readable(uri.path())),
            query: parameters(uri.query()),
            headers: [("host".to_owned(), uri.authority().map_or_else(String::new, |host| host.to_string()))]
                .into_iter()
                .chain(headers(request.headers()))
                .collect(),
            body: if is_form { parameters(Some(&body)).join("\n") } else { pretty(&body) },
        }
    }

    fn answer(answer: &Answer) -> Self {
        let reason = answer.status.canonical_reason().unwrap_or_default();
        Self {
            line: format!("{} {reason}", answer.status.as_u16()).trim_end().to_owned(),
            query: Vec::new(),
            headers: headers(&answer.headers).collect(),
            body: pretty(&String::from_utf8_lossy(&answer.body)),
        }
    }
}

pub const FORM: &str = "application/x-www-form-urlencoded";

/// A secret as it may be shown: how it begins, if it is long enough that this tells nothing, and how long it is.
pub fn shortened(secret: &str) -> String {
    match secret.chars().count() {
        length if length < 4 * SHOWN_CHARS => hidden(secret),
        length => format!("{}…({length} characters)", secret.chars().take(SHOWN_CHARS).collect::<String>()),
    }
}

/// A secret that stays the same for long is not shown at all.
fn hidden(secret: &str) -> String {
    match secret.chars().count() {
        0 => String::new(),
        length => format!("…({length} characters)"),
    }
}

fn parameters(text: Option<&str>) -> Vec<String> {
    let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes()).take(HEADERS_MAX);
    pairs
        .enumerate()
        .map(|(i, (name, value))| {
            let value = match &*name {
                "client_secret" => hidden(&value),
                name if SECRET_PARAMETERS.contains(&name) => shortened(&value),
                _ => readable(&value),
            };
            format!("{}{}={value}", if i == 0 { "" } else { "&" }, readable(&name))
        })
        .collect()
}

fn headers(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    let shown = headers.iter().filter(|(name, _)| *name != header::DATE && *name != header::CONTENT_LENGTH).take(HEADERS_MAX);
    shown.map(|(name, value)| (name.as_str().to_owned(), header_value(name, value)))
}

fn header_value(name: &header::HeaderName, value: &HeaderValue) -> String {
    let value = String::from_utf8_lossy(value.as_bytes());
    match name.as_str() {
        "authorization" => match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => format!("{} {}", readable(scheme), shortened(token)),
            Some((scheme, secret)) => format!("{} {}", readable(scheme), hidden(secret)),
            None => hidden(&value),
        },
        "cookie" | "set-cookie" => "…".to_owned(),
        _ => readable(&value),
    }
}

/// JSON in lines with its secrets shortened; anything else as it is.
fn pretty(body: &str) -> String {
    let text = match serde_json::from_str::<Value>(body) {
        Ok(mut value) => {
            hide_members(&mut value);
            serde_json::to_string_pretty(&value).unwrap_or_default()
        }
        Err(_) => body.to_owned(),
    };
    limited(&without_tokens(&text), BODY_CHARS_MAX)
}

fn hide_members(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(secret) if SECRET_MEMBERS.contains(&name.as_str()) => *member = Value::from(shortened(secret)),
                    other => hide_members(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_members),
        _ => {}
    }
}

/// One line, without tokens, not too long, and nothing in it that moves the cursor.
fn readable(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
    limited(&without_tokens(&line), VALUE_CHARS_MAX)
}

/// Whatever looks like a signed token is shortened, wherever it stands.
fn without_tokens(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("eyJ") {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        shown.push_str(before);
        match word.matches('.').count() >= 2 {
            true => shown.push_str(&shortened(word)),
            false => shown.push_str(word),
        }
        rest = after;
    }
    shown + rest
}

fn limited(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Header and claims of a token response's access token. A client must not look into it (RFC 9068 §6); a reader may.
fn access_token_claims(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let mut parts = answer.get("access_token")?.as_str()?.split('.');
    let mut part = || -> Option<Value> { serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok() };
    let (header, claims) = (part()?, part()?);
    let text = [header, claims].iter().map(serde_json::to_string_pretty).collect::<Result<Vec<_>, _>>().ok()?.join("\n");
    Some(limited(&text, BODY_CHARS_MAX))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJFUzM4NCJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl";

    #[test]
    fn of_a_secret_only_the_beginning_is_shown_and_of_a_short_one_nothing() {
        assert_eq!(shortened("0123456789abcdef0123456789abcdef"), "012345…(32 characters)");
        assert_eq!(shortened("hunter2"), "…(7 characters)");
        assert_eq!(shortened(""), "");
    }

    #[test]
    fn an_exchange_keeps_no_secret_of_its_request_or_its_answer() {
        let request = Request::post("http://issuer.example/token?state=a-state-that-nobody-else-may-know")
            .header("authorization", "Basic d2VhdGhlcmJvdDp3ZWF0aGVyYm90LXNlY3JldA==")
            .header("cookie", "session=a-cookie-value-of-somebody")
            .header("content-type", FORM)
            .body(b"grant_type=authorization_code&code=the-code-from-the-callback&code_verifier=the-verifier-of-the-code&client_secret=a-client-secret-that-stays-for-years".to_vec())
            .unwrap();
        let body = json!({ "access_token": TOKEN, "refresh_token": "a-refresh-token-of-some-length", "note": format!("echo {TOKEN}.") });
        let mut headers = HeaderMap::new();
        headers.insert("set-cookie", HeaderValue::from_static("session=a-cookie-value-of-somebody"));
        headers.insert("location", HeaderValue::try_from(format!("/?t={TOKEN}")).unwrap());
        let answer = Answer { status: StatusCode::OK, headers, body: body.to_string().into_bytes() };
        let mut wire = Wire::default();
        wire.exchange(Party::Issuer, "why", &request, Ok(&answer));
        let shown = format!("{wire:?}");
        for secret in ["d2Vhd", "the-code-from", "a-clie", "the-verifier", "a-refresh-token", "a-state-that", "a-cookie", TOKEN] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
        let step = &wire.steps()[0];
        assert_eq!(step.request.body.lines().next(), Some("grant_type=authorization_code"));
        assert!(step.claims.as_deref().unwrap().contains("\"sub\": \"alice\""));
        assert_eq!((step.mood(), step.lanes().as_str(), step.to_left()), ("good", "lanes-2-4", false));
    }

    #[test]
    fn the_name_of_an_error_is_no_secret() {
        assert!(pretty(r#"{"code":"token_missing","status":401}"#).contains("token_missing"));
    }

    #[test]
    fn a_record_has_an_end() {
        let mut wire = Wire::default();
        let url = Url::parse("http://127.0.0.1/callback?error=a%0Ab").unwrap();
        for _ in 0..STEPS_MAX + 2 {
            wire.browser_goes(Party::Client, "", &url);
        }
        assert_eq!((wire.steps().len(), wire.left_out()), (STEPS_MAX, 2));
        assert_eq!(wire.steps()[0].request.query, ["error=a·b"]);
        wire.keep_latest(2);
        wire.keep_latest(5);
        assert_eq!(wire.steps().len(), 2);
        assert_eq!(limited(&"é".repeat(BODY_CHARS_MAX + 5), BODY_CHARS_MAX).chars().count(), BODY_CHARS_MAX + 1);
    }
}
