//! Which pages may call from a browser, and what they are told: the CORS protocol of the Fetch standard (§3.3), as the gate
//! speaks it for a service.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// The longest list of asked-for headers that is said back, where all are allowed.
const ASKED_BYTES_MAX: usize = 4096;
/// What depends on the preflight itself.
const PREFLIGHT_VARY: HeaderValue = HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// The rules of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    pub origins: Vec<OriginRule>,
    pub methods: AllowedMethods,
    pub headers: AllowedHeaders,
    pub expose: HeaderValue,
    pub credentials: bool,
    pub max_age_seconds: u64,
}

/// Origins as browsers write them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginRule {
    All,
    Exact(String),
    /// One label between these two: `https://` and `.app.example:8443`.
    OneLabel {
        scheme: String,
        rest: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedMethods {
    /// Those of the route, which takes all: these, and the one that is asked for.
    All,
    Named(Vec<Method>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedHeaders {
    /// What is asked for. A `*` would not stand for `Authorization`.
    All,
    Named(HeaderValue),
}

impl OriginRule {
    fn allows(&self, origin: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(text) => text == origin,
            Self::OneLabel { scheme, rest } => {
                let label = origin.strip_prefix(scheme.as_str()).and_then(|host| host.strip_suffix(rest.as_str()));
                let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
                label.is_some_and(|label| !label.is_empty() && label.bytes().all(plain))
            }
        }
    }
}

impl Cors {
    /// Whether pages of this origin may call. The text is compared as it stands: a browser writes an origin in one way.
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.origins.iter().any(|rule| rule.allows(origin)))
    }

    /// The answer to a preflight of an allowed origin: what the route allows. The browser compares it with what it wants.
    pub fn answer_preflight(&self, asked: &HeaderMap, headers: &mut HeaderMap) {
        let Some(origin) = origin(asked) else { return };
        self.name_origin(origin, headers);
        headers.insert(VARY, PREFLIGHT_VARY);
        let mut methods: Vec<&str> = match &self.methods {
            AllowedMethods::All => vec!["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"],
            AllowedMethods::Named(named) => named.iter().map(Method::as_str).collect(),
        };
        let wanted = asked.get(ACCESS_CONTROL_REQUEST_METHOD).and_then(|method| method.to_str().ok()).unwrap_or_default();
        if self.methods == AllowedMethods::All && !methods.contains(&wanted) {
            methods.push(wanted);
        }
        if let Ok(value) = HeaderValue::try_from(methods.join(", ")) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, value);
        }
        let allowed = match &self.headers {
            AllowedHeaders::Named(list) => Some(list.clone()),
            AllowedHeaders::All => asked_headers(asked),
        };
        if let Some(allowed) = allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age_seconds.into());
    }

    /// Says on an answer who may read it. What the upstream said of this is gone, whatever the origin.
    pub fn mark(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let said: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
        for name in said {
            headers.remove(name);
        }
        if !self.is_for_all() {
            vary_by_origin(headers);
        }
        if let Some(origin) = origin.filter(|origin| self.allows(origin)) {
            self.name_origin(origin, headers);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.clone());
        }
    }

    /// Whether every origin gets the same answer.
    fn is_for_all(&self) -> bool {
        self.origins.contains(&OriginRule::All)
    }

    fn name_origin(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        let value = if self.is_for_all() { HeaderValue::from_static("*") } else { origin.clone() };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

/// The one origin that a request names.
pub fn origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut origins = headers.get_all(ORIGIN).iter();
    origins.next().filter(|_| origins.next().is_none())
}

/// The method that a preflight asks about; `None` for any other request.
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || origin(headers).is_none() {
        return None;
    }
    let mut wanted = headers.get_all(ACCESS_CONTROL_REQUEST_METHOD).iter();
    let method = Method::from_bytes(wanted.next()?.as_bytes()).ok()?;
    // A browser sends neither (Fetch §2.2.1), and no route takes them.
    let forbidden = matches!(method, Method::CONNECT | Method::TRACE);
    (!forbidden && wanted.next().is_none()).then_some(method)
}

/// The headers that a preflight asks about, if they are names and not too many.
fn asked_headers(asked: &HeaderMap) -> Option<HeaderValue> {
    let lists: Vec<&str> = asked.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|list| list.to_str().ok()).collect();
    let list = lists.join(",");
    let names: Vec<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let proper = names.iter().all(|name| HeaderName::from_bytes(name.as_bytes()).is_ok());
    let all = names.join(", ");
    if proper && !names.is_empty() && all.len() <= ASKED_BYTES_MAX { HeaderValue::try_from(all).ok() } else { None }
}

fn vary_by_origin(headers: &mut HeaderMap) {
    let lines = headers.get_all(VARY).iter().filter_map(|line| line.to_str().ok());
    let named = lines.flat_map(|line| line.split(',')).any(|name| name.trim() == "*" || name.trim().eq_ignore_ascii_case("origin"));
    if !named {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[OriginRule]) -> Cors {
        Cors {
            origins: origins.to_vec(),
            methods: AllowedMethods::Named(vec![Method::GET, Method::HEAD]),
            headers: AllowedHeaders::All,
            expose: HeaderValue::from_static("WWW-Authenticate"),
            credentials: false,
            max_age_seconds: 600,
        }
    }

    fn exact() -> OriginRule {
        OriginRule::Exact("https://app.example".to_owned())
    }

    fn asked(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn an_origin_is_compared_as_it_stands() {
        let one_label = OriginRule::OneLabel { scheme: "https://".to_owned(), rest: ".app.example".to_owned() };
        let table = [
            (exact(), "https://app.example", true),
            (exact(), "http://app.example", false),
            (exact(), "https://app.example:443", false),
            (exact(), "https://app.example.evil.example", false),
            (exact(), "https://evilapp.example", false),
            (exact(), "https://APP.example", false),
            (exact(), "null", false),
            (one_label.clone(), "https://a.app.example", true),
            (one_label.clone(), "https://app.example", false),
            (one_label.clone(), "https://.app.example", false),
            (one_label.clone(), "https://evilapp.example", false),
            (one_label.clone(), "https://a.b.app.example", false),
            (one_label.clone(), "https://evil.example/.app.example", false),
            (one_label.clone(), "https://evil.example:1.app.example", false),
            (one_label.clone(), "https://x@a.app.example", false),
            (one_label.clone(), "http://a.app.example", false),
            (one_label, "https://a.app.example:8443", false),
            (OriginRule::All, "null", true),
        ];
        for (rule, origin, allowed) in table {
            assert_eq!(rule.allows(origin), allowed, "{rule:?} {origin}");
        }
    }

    #[test]
    fn a_preflight_names_one_origin_and_one_method() {
        let both = [(ORIGIN, "https://app.example"), (ACCESS_CONTROL_REQUEST_METHOD, "PUT")];
        assert_eq!(preflight(&Method::OPTIONS, &asked(&both)), Some(Method::PUT));
        assert_eq!(preflight(&Method::GET, &asked(&both)), None);
        assert_eq!(preflight(&Method::OPTIONS, &asked(&both[..1])), None);
        assert_eq!(preflight(&Method::OPTIONS, &asked(&both[1..])), None);
        assert_eq!(preflight(&Method::OPTIONS, &asked(&[both[0].clone(), both[0].clone(), both[1].clone()])), None);
        assert_eq!(preflight(&Method::OPTIONS, &asked(&[both[0].clone(), (ACCESS_CONTROL_REQUEST_METHOD, "TRACE")])), None);
    }

    #[test]
    fn the_answer_varies_by_origin_where_it_does() {
        let origin = HeaderValue::from_static("https://app.example");
        for (said, expected) in [
            (vec![], vec!["Origin"]),
            (vec!["Accept-Encoding"], vec!["Accept-Encoding", "Origin"]),
            (vec!["accept, origin"], vec!["accept, origin"]),
            (vec!["*"], vec!["*"]),
        ] {
            let mut headers = HeaderMap::new();
            for line in said {
                headers.append(VARY, HeaderValue::from_static(line));
            }
            cors(&[exact()]).mark(Some(&origin), &mut headers);
            assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), expected);
            assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
        }
        let mut headers = HeaderMap::new();
        cors(&[OriginRule::All]).mark(Some(&origin), &mut headers);
        assert_eq!((headers.get(VARY), &headers[ACCESS_CONTROL_ALLOW_ORIGIN]), (None, &HeaderValue::from_static("*")));
    }

    #[test]
    fn what_the_upstream_said_of_it_is_gone_whatever_the_origin() {
        for origin in [None, Some(HeaderValue::from_static("https://evil.example"))] {
            let mut headers = asked(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")]);
            cors(&[exact()]).mark(origin.as_ref(), &mut headers);
            assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["vary"]);
        }
    }

    #[test]
    fn headers_are_said_back_only_where_all_are_allowed_and_they_are_names() {
        for (wanted, told) in [("authorization,x-a", Some("authorization, x-a")), ("x-a\u{7f}", None), ("a b", None), ("", None)] {
            let mut asked = asked(&[(ORIGIN, "https://app.example"), (ACCESS_CONTROL_REQUEST_METHOD, "GET")]);
            if let Ok(wanted) = HeaderValue::from_str(wanted) {
                asked.insert(ACCESS_CONTROL_REQUEST_HEADERS, wanted);
            }
            let mut headers = HeaderMap::new();
            cors(&[exact()]).answer_preflight(&asked, &mut headers);
            assert_eq!(headers.get(ACCESS_CONTROL_ALLOW_HEADERS).map(|value| value.to_str().unwrap()), told);
            assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "GET, HEAD");
            assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "600");
        }
    }
}
