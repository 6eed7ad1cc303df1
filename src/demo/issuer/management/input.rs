//! What a call says: members of its JSON body, parameters of its query, and the page of a list that it asks for.

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::refusal::Refusal;
use crate::demo::server::{self, Reply};

/// Logto's default and greatest.
const PAGE_SIZE: usize = 20;
const PAGE_SIZE_MAX: usize = 100;
const TOTAL_NUMBER: HeaderName = HeaderName::from_static("total-number");

/// The members of a JSON object, taken one by one with their type. Unknown ones are left out without a word, as zod does.
pub struct Input {
    object: Map<String, Value>,
    /// The members that lead to it.
    path: Vec<Value>,
}

impl Input {
    /// The body of a call. What says that it is no JSON is as good as an empty object, which is what koa makes of it.
    pub fn parse(content_type: Option<&HeaderValue>, body: &[u8]) -> Result<Self, Refusal> {
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_json = content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
        let value = match is_json && !body.is_empty() {
            true => serde_json::from_slice(body).map_err(|error| Refusal::malformed(error.to_string()))?,
            false => Value::Object(Map::new()),
        };
        match value {
            Value::Object(object) => Ok(Self { object, path: Vec::new() }),
            other => Err(mistyped(Vec::new(), "object", Some(&other))),
        }
    }

    pub fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        self.member(name, "string", Value::as_str)
    }

    /// One that must be there, of at least one character.
    pub fn required_text(&self, name: &str) -> Result<&str, Refusal> {
        match self.text(name)? {
            Some("") => {
                let issue = json!({ "code": "too_small", "minimum": 1, "type": "string", "inclusive": true, "exact": false,
                    "message": "String must contain at least 1 character(s)", "path": self.path_to(name) });
                Err(Refusal::invalid_input("body", issue))
            }
            Some(text) => Ok(text),
            None => Err(mistyped(self.path_to(name), "string", None)),
        }
    }

    /// A text that may be `null`, which takes it away: `None` if nothing is said.
    pub fn nullable_text(&self, name: &str) -> Result<Option<Option<&str>>, Refusal> {
        match self.object.get(name) {
            Some(Value::Null) => Ok(Some(None)),
            _ => Ok(self.text(name)?.map(Some)),
        }
    }

    pub fn boolean(&self, name: &str) -> Result<Option<bool>, Refusal> {
        self.member(name, "boolean", Value::as_bool)
    }

    pub fn number(&self, name: &str) -> Result<Option<i64>, Refusal> {
        self.member(name, "number", Value::as_i64)
    }

    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        let Some(values) = self.member(name, "array", Value::as_array)? else { return Ok(None) };
        let mut texts = Vec::new();
        for (i, value) in values.iter().enumerate() {
            let text = value.as_str().ok_or_else(|| {
                let path = self.path_to(name).into_iter().chain([json!(i)]).collect();
                mistyped(path, "string", Some(value))
            })?;
            texts.push(text.to_owned());
        }
        Ok(Some(texts))
    }

    pub fn required_texts(&self, name: &str) -> Result<Vec<String>, Refusal> {
        self.texts(name)?.ok_or_else(|| mistyped(self.path_to(name), "array", None))
    }

    pub fn object(&self, name: &str) -> Result<Option<Self>, Refusal> {
        let object = self.member(name, "object", Value::as_object)?;
        Ok(object.map(|object| Self { object: object.clone(), path: self.path_to(name) }))
    }

    /// One of these words.
    pub fn word<T>(&self, name: &str, words: &[&str], parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => {
                let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
                let message = format!("Invalid enum value. Expected {}, received '{text}'", quoted.join(" | "));
                let issue = json!({ "received": text, "code": "invalid_enum_value", "options": words, "path": self.path_to(name),
                    "message": message });
                Err(Refusal::invalid_input("body", issue))
            }
        }
    }

    /// An element of a list that is of the right type and yet wrong.
    pub fn wrong_element(&self, name: &str, i: usize, code: &str, message: &str) -> Refusal {
        let path: Vec<Value> = self.path_to(name).into_iter().chain([json!(i)]).collect();
        Refusal::invalid_input("body", json!({ "code": code, "path": path, "message": message }))
    }

    pub fn into_members(self) -> Map<String, Value> {
        self.object
    }

    fn member<'i, T>(&'i self, name: &str, expected: &str, read: impl Fn(&'i Value) -> Option<T>) -> Result<Option<T>, Refusal> {
        let Some(value) = self.object.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| mistyped(self.path_to(name), expected, Some(value)))
    }

    fn path_to(&self, name: &str) -> Vec<Value> {
        self.path.iter().cloned().chain([Value::from(name)]).collect()
    }
}

pub fn mistyped(path: Vec<Value>, expected: &str, found: Option<&Value>) -> Refusal {
    let received = match found {
        None => "undefined",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
    };
    let message = match found {
        None => "Required".to_owned(),
        Some(_) => format!("Expected {expected}, received {received}"),
    };
    let issue = json!({ "code": "invalid_type", "expected": expected, "received": received, "path": path, "message": message });
    Refusal::invalid_input("body", issue)
}

/// The parameters of a query, in their order.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// One of two words, if anything.
    pub fn either(&self, name: &str, [first, second]: [&str; 2]) -> Result<Option<bool>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(word) if word == first => Ok(Some(true)),
            Some(word) if word == second => Ok(Some(false)),
            Some(word) => {
                let issue = json!({ "received": word, "code": "invalid_enum_value", "options": [first, second], "path": [name],
                    "message": format!("Invalid enum value. Expected '{first}' | '{second}', received '{word}'") });
                Err(Refusal::invalid_input("query", issue))
            }
        }
    }

    /// The query for another page of the same list.
    fn for_page(&self, page: usize) -> String {
        let (mut query, page) = (form_urlencoded::Serializer::new(String::new()), page.to_string());
        for (name, value) in &self.0 {
            query.append_pair(name, if name == "page" { &page } else { value });
        }
        if self.get("page").is_none() {
            query.append_pair("page", &page);
        }
        query.finish()
    }
}

/// Whether a list is given whole to who asks for no page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Paging {
    Optional,
    Always,
}

/// One page of the list. `url` is that of the list, without its query.
pub fn page(query: &Query, url: &str, paging: Paging, list: Vec<Value>) -> Result<Reply, Refusal> {
    if paging == Paging::Optional && [query.get("page"), query.get("page_size")].iter().all(|value| value.is_none_or(str::is_empty)) {
        return Ok(server::json(StatusCode::OK, &Value::from(list)));
    }
    let number = |name: &str, default: usize, most: usize| match query.get(name) {
        None | Some("") => Ok(default),
        Some(text) => text
            .parse()
            .ok()
            .filter(|number| (1..=most).contains(number))
            .ok_or_else(|| Refusal::bad_request("guard.invalid_pagination", "The request pagination value is invalid.")),
    };
    let (page, size) = (number("page", 1, usize::MAX)?, number("page_size", PAGE_SIZE, PAGE_SIZE_MAX)?);
    let (total, last) = (list.len(), list.len().div_ceil(size).max(1));
    let shown: Vec<Value> = list.into_iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    let mut links = vec![(1, "first"), (last, "last")];
    links.extend((page > 1).then(|| (page - 1, "prev")));
    links.extend((page < last).then(|| (page + 1, "next")));
    let links: Vec<String> = links.iter().map(|(page, rel)| format!("<{url}?{}>; rel=\"{rel}\"", query.for_page(*page))).collect();
    let mut reply = server::json(StatusCode::OK, &Value::from(shown));
    reply.headers_mut().insert(TOTAL_NUMBER, HeaderValue::from(total));
    reply.headers_mut().extend(HeaderValue::from_str(&links.join(", ")).ok().map(|links| (header::LINK, links)));
    Ok(reply)
}
