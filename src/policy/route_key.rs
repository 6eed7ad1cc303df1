//! A route key: `[METHODS ]PATH`, the left side of a line under `routes:`.

use http::Method;

use super::path::CheckedPath;

/// Segments of one route key; deeper ones are not a route.
const SEGMENTS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteKey {
    pub methods: Methods,
    pub segments: Vec<Segment>,
    /// Ends in `/**`: the path itself and everything below it.
    pub rest: bool,
    /// Ends in a slash.
    pub slash: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Text, percent-escapes decoded.
    Literal(String),
    Parameter(String),
}

/// The methods of a route. HEAD is served by GET (RFC 9110 §9.3.2). CONNECT and TRACE never are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Methods {
    All,
    Named(Vec<Method>),
}

impl Methods {
    pub fn contains(&self, method: &Method) -> bool {
        match self {
            Self::All => true,
            Self::Named(named) => named.contains(method) || (*method == Method::HEAD && named.contains(&Method::GET)),
        }
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => true,
            (Self::Named(_), Self::Named(theirs)) => theirs.iter().any(|method| self.contains(method)) || other.head_clash(self),
        }
    }

    fn head_clash(&self, other: &Self) -> bool {
        self.contains(&Method::HEAD) && other.contains(&Method::HEAD)
    }

    /// Names for an `Allow` header.
    pub fn allowed(&self) -> Vec<&str> {
        match self {
            Self::All => vec!["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"],
            Self::Named(named) => {
                let head = named.contains(&Method::GET).then_some("HEAD");
                named.iter().map(Method::as_str).chain(head).collect()
            }
        }
    }
}

impl RouteKey {
    /// Reads a route key. The error says what is wrong and what to write, separated by `; `.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (methods, path) = match text.split_once(' ') {
            Some((methods, path)) => (parse_methods(methods)?, path.trim_start()),
            None => (Methods::All, text),
        };
        let Some(inside) = path.strip_prefix('/') else {
            return Err("no path; write [METHODS ]/PATH, as in GET /forecast/{city}".to_owned());
        };
        if path.contains(['?', '#']) {
            return Err("a query or fragment, which routes never look at; write the path alone".to_owned());
        }
        let (inside, rest) = match inside.strip_suffix("**") {
            Some(before) if before.is_empty() || before.ends_with('/') => (before.trim_end_matches('/'), true),
            Some(_) => return Err("** stands for whole segments; write it alone at the end, as in /admin/**".to_owned()),
            None => (inside, false),
        };
        let slash = !rest && inside.ends_with('/');
        let inside = inside.strip_suffix('/').unwrap_or(inside);
        let segments = match inside {
            "" => Vec::new(),
            inside => inside.split('/').map(parse_segment).collect::<Result<Vec<_>, _>>()?,
        };
        if segments.len() > SEGMENTS_MAX {
            return Err(format!("more than {SEGMENTS_MAX} segments; close the path with /** instead"));
        }
        let key = Self { methods, segments, rest, slash };
        let mut names = key.parameters().collect::<Vec<_>>();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two parameters of one name; give each its own".to_owned());
        }
        Ok(key)
    }

    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Whether every path that this key stands for lies below a prefix (without a closing slash).
    pub fn is_below(&self, prefix: &str) -> bool {
        let prefix = prefix.strip_prefix('/').unwrap_or(prefix);
        if prefix.is_empty() {
            return true;
        }
        let wanted: Vec<&str> = prefix.split('/').collect();
        wanted.len() <= self.segments.len()
            && wanted.iter().zip(&self.segments).all(|(want, have)| matches!(have, Segment::Literal(text) if text == want))
    }
}

fn parse_methods(text: &str) -> Result<Methods, String> {
    let mut named = Vec::new();
    for name in text.split(',') {
        let method = Method::from_bytes(name.as_bytes())
            .ok()
            .filter(|_| name.chars().all(|c| c.is_ascii_uppercase() || c == '-'))
            .ok_or_else(|| "no method; write methods in capitals with commas and no space between, as in POST,PUT /path".to_owned())?;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(format!("{method} is never forwarded; take it out"));
        }
        if named.contains(&method) {
            return Err(format!("{method} stands here twice; keep one"));
        }
        named.push(method);
    }
    Ok(Methods::Named(named))
}

fn parse_segment(text: &str) -> Result<Segment, String> {
    if let Some(name) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        let proper = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        return match proper {
            true => Ok(Segment::Parameter(name.to_owned())),
            false => Err("no parameter name; write letters, digits and _ in the braces, as in {city}".to_owned()),
        };
    }
    if text.contains(['{', '}', '*']) {
        return Err("a parameter is a whole segment, and * stands only in a closing /**; write /{name}/ or /**".to_owned());
    }
    let escaped = format!("/{}", escape(text));
    match CheckedPath::new(&escaped) {
        Ok(path) if !text.is_empty() => Ok(Segment::Literal(path.inside().to_owned())),
        Ok(_) => Err("an empty segment (`//`); take one slash out".to_owned()),
        Err(fault) => Err(format!("{fault}, which no request may have; write the path as a client would send it")),
    }
}

/// Lets the operator write `/städte` for what is sent as `/st%C3%A4dte`.
fn escape(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii() { c.to_string() } else { c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_methods_and_a_path() {
        let key = RouteKey::parse("POST,PUT /forecast/{city}/**").unwrap();
        assert_eq!(key.methods, Methods::Named(vec![Method::POST, Method::PUT]));
        assert_eq!(key.segments, [Segment::Literal("forecast".into()), Segment::Parameter("city".into())]);
        assert!(key.rest && !key.slash);
        let key = RouteKey::parse("/städte").unwrap();
        assert_eq!(key.segments, [Segment::Literal("städte".into())]);
        assert_eq!(RouteKey::parse("/**").unwrap().segments, []);
    }

    #[test]
    fn a_key_that_is_none_says_what_to_write() {
        for wrong in [
            "",
            "me",
            "GET",
            "get /me",
            "GET, POST /me",
            "GET,GET /me",
            "TRACE /me",
            "GET /a//b",
            "GET /a?b",
            "GET /a/../b",
            "GET /a/{",
            "GET /a/{}",
            "GET /a/x{y}",
            "GET /a/*",
            "GET /**/b",
            "GET /a**",
            "GET /%2e",
            "GET /a;b",
            "GET /{x}/{x}",
        ] {
            let message = RouteKey::parse(wrong).expect_err(wrong);
            assert!(message.contains("; "), "{wrong}: {message}");
        }
    }

    #[test]
    fn a_key_lies_below_a_prefix_of_literals() {
        let below = |key: &str, prefix: &str| RouteKey::parse(key).unwrap().is_below(prefix);
        assert!(below("/mcp/**", "/mcp") && below("/mcp", "/mcp") && below("/x", ""));
        assert!(!below("/mcpx", "/mcp") && !below("/{a}/b", "/mcp") && !below("/**", "/mcp"));
    }
}
