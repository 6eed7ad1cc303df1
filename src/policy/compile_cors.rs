//! Compiles `cors:`: origins as browsers write them, and what their pages may do.

use http::{HeaderName, HeaderValue, Method};
use url::Url;

use super::compile::Compiler;
use super::cors::{AllowedHeaders, AllowedMethods, Cors, OriginRule};
use super::route_key::Methods;
use crate::config::{self, Span, Trail};

/// No browser remembers an answer for longer.
const MAX_AGE_MAX: Span = Span::seconds(86_400);
const ORIGINS_MAX: usize = 256;
/// What a page needs to go on after a refusal, whatever else it may read.
const EXPOSED: [&str; 5] = ["WWW-Authenticate", "X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy"];

/// The rules of one place, with the methods that it names. `None` where no page may call.
pub(super) fn cors(c: &mut Compiler<'_>, written: &config::Cors, at: &Trail) -> Option<Cors> {
    let place = |key: &str| -> Trail { at.iter().cloned().chain([key.to_owned()]).collect() };
    let origins: Vec<OriginRule> = written
        .origins
        .iter()
        .enumerate()
        .filter_map(|(i, text)| {
            let parsed = origin(text, written.credentials);
            let place = place("origins").into_iter().chain([i.to_string()]).collect();
            parsed.map_err(|message| c.fault_message(place, text, message)).ok()
        })
        .collect();
    if origins.contains(&OriginRule::All) && written.origins.len() > 1 {
        c.fault(place("origins"), "", "\"*\" beside other origins, which then say nothing", "keep either");
    }
    if written.origins.len() > ORIGINS_MAX {
        let reason = format!("{} origins in one place", written.origins.len());
        c.fault(place("origins"), "", reason, format!("write {ORIGINS_MAX} at most; they are looked at one after the other"));
    }
    let methods = match &written.methods {
        None => AllowedMethods::All,
        Some(names) => AllowedMethods::Named(names.0.iter().filter_map(|name| method(c, name, place("methods"))).collect()),
    };
    let headers = match names(c, &written.headers.0, place("headers")) {
        Names::All => AllowedHeaders::All,
        Names::List(list) => AllowedHeaders::Named(list),
    };
    let expose = match names(c, &written.expose, place("expose")) {
        Names::All if written.credentials => {
            c.fault(place("expose"), "*", "with credentials browsers take * for a name", "write the names one by one");
            HeaderValue::from_static("*")
        }
        Names::All => HeaderValue::from_static("*"),
        Names::List(list) => {
            let further = list.to_str().unwrap_or_default().split(", ").filter(|name| !name.is_empty());
            let further = further.filter(|name| !EXPOSED.iter().any(|known| known.eq_ignore_ascii_case(name)));
            let all: Vec<&str> = EXPOSED.into_iter().chain(further).collect();
            HeaderValue::try_from(all.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
        }
    };
    if written.max_age > MAX_AGE_MAX || written.max_age.0.subsec_millis() != 0 {
        let cure = format!("write whole seconds up to {MAX_AGE_MAX}");
        c.fault(place("max_age"), &written.max_age.to_string(), "no age that a browser keeps", cure);
    }
    let max_age_seconds = written.max_age.0.as_secs();
    (!written.origins.is_empty()).then_some(Cors { origins, methods, headers, expose, credentials: written.credentials, max_age_seconds })
}

/// The same for a route: no page may use a method that the route does not take.
pub(super) fn for_route(cors: Cors, route: &Methods) -> Cors {
    let methods = match (cors.methods, route) {
        (methods, Methods::All) => methods,
        (AllowedMethods::All, Methods::Named(_)) => {
            let named = route.allowed().into_iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok());
            AllowedMethods::Named(named.collect())
        }
        (AllowedMethods::Named(named), Methods::Named(_)) => {
            AllowedMethods::Named(named.into_iter().filter(|method| route.contains(method)).collect())
        }
    };
    Cors { methods, ..cors }
}

/// An origin, or what is wrong and what to write.
fn origin(text: &str, credentials: bool) -> Result<OriginRule, &'static str> {
    const FORM: &str =
        "no origin; write scheme, host and port as a browser does, without a path, as in https://app.example or https://*.app.example";
    match text {
        "*" if credentials => return Err("every page could act with the user's cookies; name the origins, or leave credentials out"),
        "*" => return Ok(OriginRule::All),
        "null" if credentials => return Err("any page can be of the origin null; name other origins, or leave credentials out"),
        "null" => return Ok(OriginRule::Exact("null".to_owned())),
        _ => {}
    }
    let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
    if !matches!(scheme, "http" | "https") {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:+".contains(&byte);
        let proper = !scheme.is_empty() && !rest.is_empty() && scheme.bytes().chain(rest.bytes()).all(plain);
        return if proper { Ok(OriginRule::Exact(text.to_owned())) } else { Err(FORM) };
    }
    let (host, any_label) = match rest.strip_prefix("*.") {
        Some(host) => (host, true),
        None => (rest, false),
    };
    if host.contains(['/', '@', '*', '?', '#', '\\']) || host.ends_with(':') {
        return Err(FORM);
    }
    let url = Url::parse(&format!("{scheme}://{host}")).map_err(|_| FORM)?;
    let exact = url.origin().ascii_serialization();
    if !any_label {
        return Ok(OriginRule::Exact(exact));
    }
    match url.domain() {
        Some(domain) if domain.contains('.') => {
            let scheme = format!("{scheme}://");
            let rest = format!(".{}", exact.strip_prefix(&scheme).ok_or(FORM)?);
            Ok(OriginRule::OneLabel { scheme, rest })
        }
        _ => Err("every site of a top-level domain, or an address; write at least two labels behind the *, as in https://*.app.example"),
    }
}

fn method(c: &mut Compiler<'_>, name: &str, at: Trail) -> Option<Method> {
    let method = Method::from_bytes(name.as_bytes()).ok().filter(|method| !matches!(*method, Method::CONNECT | Method::TRACE));
    let capitals = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if method.is_none() || !capitals {
        c.fault(at, name, "no method that a page may use", "write it in capitals, as in PUT");
    }
    method
}

enum Names {
    All,
    List(HeaderValue),
}

fn names(c: &mut Compiler<'_>, written: &[String], at: Trail) -> Names {
    if written == ["*"] {
        return Names::All;
    }
    for name in written.iter().filter(|name| *name == "*" || HeaderName::from_bytes(name.as_bytes()).is_err()) {
        c.fault(at.clone(), name, "no name of a header", "write letters, digits and '-', or \"*\" alone for all");
    }
    Names::List(HeaderValue::try_from(written.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_is_offered_a_method_that_the_route_does_not_take() {
        let cors = |methods| Cors {
            origins: vec![OriginRule::All],
            methods,
            headers: AllowedHeaders::All,
            expose: HeaderValue::from_static("*"),
            credentials: false,
            max_age_seconds: 0,
        };
        let named = |methods: &[Method]| AllowedMethods::Named(methods.to_vec());
        let route = Methods::Named(vec![Method::GET, Method::PUT]);
        let table = [
            (AllowedMethods::All, route.clone(), named(&[Method::GET, Method::PUT, Method::HEAD])),
            (named(&[Method::PUT, Method::DELETE]), route.clone(), named(&[Method::PUT])),
            (named(&[Method::HEAD]), route, named(&[Method::HEAD])),
            (named(&[Method::PUT, Method::DELETE]), Methods::All, named(&[Method::PUT, Method::DELETE])),
            (AllowedMethods::All, Methods::All, AllowedMethods::All),
        ];
        for (written, route, offered) in table {
            assert_eq!(for_route(cors(written), &route).methods, offered);
        }
    }

    #[test]
    fn an_origin_is_brought_into_the_form_that_browsers_write() {
        let exact = |text: &str| Ok(OriginRule::Exact(text.to_owned()));
        let one_label = |rest: &str| Ok(OriginRule::OneLabel { scheme: "https://".to_owned(), rest: rest.to_owned() });
        let table = [
            ("https://app.example", exact("https://app.example")),
            ("https://APP.example:443", exact("https://app.example")),
            ("http://localhost:5173", exact("http://localhost:5173")),
            ("https://städte.example", exact("https://xn--stdte-hra.example")),
            ("http://[::1]:80", exact("http://[::1]")),
            ("capacitor://localhost", exact("capacitor://localhost")),
            ("https://*.App.example", one_label(".app.example")),
            ("https://*.app.example:8443", one_label(".app.example:8443")),
        ];
        for (text, expected) in table {
            assert_eq!(origin(text, true), expected, "{text}");
        }
        for wrong in [
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example/x",
            "https://u@app.example",
            "https://*",
            "https://*.example",
            "https://*.127.0.0.1",
            "https://a.*.example",
            "https://app*.example.org",
            "https://app.example:",
            "https://app.example?x",
            "data://",
            "x y://a",
        ] {
            assert!(origin(wrong, false).is_err(), "{wrong}");
        }
        assert_eq!((origin("*", false), origin("null", false)), (Ok(OriginRule::All), exact("null")));
        assert!(origin("*", true).is_err() && origin("null", true).is_err());
    }
}
