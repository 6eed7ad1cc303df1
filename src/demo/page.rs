//! What every page of the demo shares: the layout's stylesheet, headers that forbid scripts, cookies, forms.

use std::net::SocketAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use url::form_urlencoded;

use super::server::{self, Reply};

const STYLE: &str = include_str!("pages/style.css");

/// A page. Its forms may lead to its own party, and by way of redirects to these origins and no others: browsers hold a
/// form's whole chain of redirects to the policy of the page that it stands on (CSP3 §6.4.2).
pub fn html(status: StatusCode, page: &impl askama::Template, form_origins: &[String]) -> Reply {
    let Ok(text) = page.render() else {
        return server::reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", Bytes::from_static(b"no page"));
    };
    let mut reply = server::reply(status, "text/html; charset=utf-8", Bytes::from(text));
    let origins: String = form_origins.iter().map(|origin| format!(" {origin}")).collect();
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'{origins}; base-uri 'none'; frame-ancestors 'none'"
    );
    reply.headers_mut().extend(HeaderValue::from_str(&policy).ok().map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // An address may hold a code or a state.
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}

/// `GET /style.css`, the same for every party.
pub fn style() -> Reply {
    let mut reply = server::reply(StatusCode::OK, "text/css; charset=utf-8", Bytes::from_static(STYLE.as_bytes()));
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    reply
}

/// 303: after a form, so that going back or reloading sends nothing twice.
pub fn see_other(location: &str) -> Reply {
    let mut reply = server::reply(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", Bytes::new());
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match HeaderValue::from_str(location) {
        Ok(location) => {
            reply.headers_mut().insert(header::LOCATION, location);
        }
        Err(_) => *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    reply
}

/// For a request whose `Host` is not this party's own address, which a page of another site can bring about by its name
/// service. A browser that came as `localhost` is led to the one name under which cookies are kept.
pub fn wrong_host(own: SocketAddr, headers: &HeaderMap, path_and_query: &str) -> Option<Reply> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if host == own.to_string() {
        return None;
    }
    if host == format!("localhost:{}", own.port()) {
        return Some(see_other(&format!("http://{own}{path_and_query}")));
    }
    Some(server::reply(StatusCode::MISDIRECTED_REQUEST, "text/plain; charset=utf-8", Bytes::from(format!("this is http://{own}\n"))))
}

/// The value of a cookie. Browsers send cookies to all ports of a host alike, so each party's have its own name.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let cookies = lines.flat_map(|line| Cookie::split_parse(line.to_owned()).filter_map(Result::ok));
    cookies.into_iter().find(|cookie| cookie.name() == name).map(|cookie| cookie.value().to_owned())
}

/// Sets a cookie for the browser's session, or ends it with an empty value. No script can read it, and no form or image
/// of another site sends it.
pub fn set_cookie(reply: &mut Reply, name: &str, value: &str) {
    let mut cookie = Cookie::build((name, value)).path("/").http_only(true).same_site(SameSite::Lax).build();
    if value.is_empty() {
        cookie.make_removal();
    }
    reply.headers_mut().extend(HeaderValue::from_str(&cookie.to_string()).ok().map(|cookie| (header::SET_COOKIE, cookie)));
}

/// The fields of a form or of a query.
pub struct Form(Vec<(String, String)>);

impl Form {
    pub fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The body of a POST, or the status that says why it could not be read.
    pub async fn read(body: Incoming) -> Result<Self, StatusCode> {
        Ok(Self::parse(&server::read_body(body).await?))
    }

    /// The value of a field; of one given twice there is none, since two readers could take different ones.
    pub fn one(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name);
        values.next().filter(|_| values.next().is_none())
    }

    pub fn all<'f>(&'f self, name: &str) -> impl Iterator<Item = &'f str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Whether a form brought back the secret that it was given, compared in constant time.
pub fn same_secret(expected: &str, found: Option<&str>) -> bool {
    found.is_some_and(|found| !expected.is_empty() && verify_slices_are_equal(expected.as_bytes(), found.as_bytes()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_given_twice_has_no_value() {
        let form = Form::parse(b"a=1&b=2&b=3&c=");
        assert_eq!((form.one("a"), form.one("b"), form.one("c"), form.one("d")), (Some("1"), None, Some(""), None));
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("xsession=1; session=2"));
        headers.append(header::COOKIE, HeaderValue::from_static("other=3"));
        assert_eq!(
            (cookie(&headers, "session").as_deref(), cookie(&headers, "other").as_deref(), cookie(&headers, "ses")),
            (Some("2"), Some("3"), None)
        );
    }

    #[test]
    fn an_empty_secret_equals_nothing() {
        assert!(same_secret("x", Some("x")));
        assert!(!same_secret("", Some("")) && !same_secret("x", None) && !same_secret("x", Some("y")));
    }

    #[test]
    fn only_the_partys_own_address_is_answered() {
        let own = SocketAddr::from(([127, 0, 0, 1], 8085));
        let asked = |host: &'static str| wrong_host(own, &HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]), "/a?b");
        assert!(asked("127.0.0.1:8085").is_none());
        let moved = asked("localhost:8085").unwrap();
        assert_eq!((moved.status().as_u16(), moved.headers()["location"].to_str().unwrap()), (303, "http://127.0.0.1:8085/a?b"));
        assert_eq!(asked("rebound.example:8085").unwrap().status(), 421);
    }
}
