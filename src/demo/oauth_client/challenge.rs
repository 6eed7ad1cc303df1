//! What a resource says when it refuses: the `WWW-Authenticate` header (RFC 9110 §11.6.1, RFC 6750 §3, RFC 9728 §5.1).

use http::{HeaderMap, header};

const BYTES_MAX: usize = 8 * 1024;

/// The parameters of a `Bearer` challenge that a client acts on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Challenge {
    pub error: Option<String>,
    pub scopes: Vec<String>,
    pub resource_metadata: Option<String>,
}

impl Challenge {
    /// The first one for bearer tokens. A header may hold several challenges, and an answer several headers.
    pub fn find(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|line| line.to_str().ok());
        let mut challenges = lines.filter(|line| line.len() <= BYTES_MAX).filter_map(parse).flatten();
        challenges.find(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, parameters)| Self::from(parameters))
    }
}

impl From<Vec<(String, String)>> for Challenge {
    fn from(parameters: Vec<(String, String)>) -> Self {
        // RFC 6750 §3: none of them more than once. Of one given twice there is none, as nobody knows which is meant.
        let one = |name: &str| {
            let mut values = parameters.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
            values.next().filter(|_| values.next().is_none())
        };
        Self {
            error: one("error"),
            scopes: one("scope").unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect(),
            resource_metadata: one("resource_metadata"),
        }
    }
}

type Parsed = Vec<(String, Vec<(String, String)>)>;

/// Challenges with their parameters, or nothing of a line that breaks the grammar.
fn parse(line: &str) -> Option<Parsed> {
    let mut challenges = Parsed::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(challenges);
        }
        let (word, after) = token(rest)?;
        // Commas stand between challenges and between parameters alike: the equals sign tells which it is.
        match parameter_value(after) {
            Some((value, after)) => {
                challenges.last_mut()?.1.push((word.to_owned(), value));
                rest = end_of_item(after)?;
            }
            None => {
                challenges.push((word.to_owned(), Vec::new()));
                rest = after_scheme(after)?;
            }
        }
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `= token` or `= "quoted"`, with white space allowed around the sign.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']).strip_prefix('=')?.trim_start_matches([' ', '\t']);
    if let Some((value, after)) = token(text) {
        return Some((value.to_owned(), after));
    }
    let mut value = String::new();
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(chars.next()?),
            c => value.push(c),
        }
    }
}

/// A scheme stands alone, or before parameters, or before one word of base64 (`token68`), which is skipped.
fn after_scheme(text: &str) -> Option<&str> {
    if text.is_empty() || text.starts_with(',') {
        return Some(text);
    }
    let text = text.strip_prefix([' ', '\t'])?.trim_start_matches([' ', '\t']);
    match token(text) {
        Some((_, after)) if parameter_value(after).is_some() => Some(text),
        None if text.is_empty() || text.starts_with(',') => Some(text),
        _ => {
            let is_base64 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
            end_of_item(text.trim_start_matches(is_base64).trim_start_matches('='))
        }
    }
}

/// After an item comes a comma or the end.
fn end_of_item(text: &str) -> Option<&str> {
    let text = text.trim_start_matches([' ', '\t']);
    (text.is_empty() || text.starts_with(',')).then_some(text)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn find(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
        }
        Challenge::find(&headers)
    }

    #[test]
    fn the_gates_challenges_are_read() {
        let none =
            find(&[r#"Bearer resource_metadata="http://127.0.0.1:8080/.well-known/oauth-protected-resource", scope="read:weather""#]);
        assert_eq!(
            none.unwrap(),
            Challenge {
                error: None,
                scopes: vec!["read:weather".to_owned()],
                resource_metadata: Some("http://127.0.0.1:8080/.well-known/oauth-protected-resource".to_owned()),
            }
        );
        let scope =
            r#"Bearer error="insufficient_scope", error_description="The access token lacks a scope", scope="write:weather read:weather""#;
        let challenge = find(&[scope]).unwrap();
        assert_eq!((challenge.error.as_deref(), challenge.scopes.len()), (Some("insufficient_scope"), 2));
    }

    #[test]
    fn a_bearer_challenge_is_found_among_others() {
        let several = [
            r#"Negotiate, Basic realm="a, Bearer scope=\"x\"", DPoP algs="ES256", bearer  Scope = "a b" ,error=invalid_token"#,
            r#"Negotiate YWJj==, Bearer scope="a b",error="invalid_token""#,
            r#", ,Digest realm="x",, Bearer error=invalid_token , scope="a\ b""#,
        ];
        for line in several {
            let found = find(&[line]).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((found.error.as_deref(), found.scopes.join(" ").as_str()), (Some("invalid_token"), "a b"), "{line}");
        }
        assert_eq!(find(&["Basic realm=\"x\"", "Bearer scope=a"]).unwrap().scopes, ["a"]);
        assert_eq!(find(&["Bearer"]), Some(Challenge::default()));
    }

    #[test]
    fn what_breaks_the_grammar_is_no_challenge() {
        for line in [
            "Basic realm=\"x\"",
            "",
            "scope=\"a\"",
            "Bearer scope=\"a",
            "Bearer scope=\"a\" error=\"b\"",
            "Bearer scope=\"a\"x",
            "Bearer@ scope=a",
        ] {
            assert_eq!(find(&[line]), None, "{line}");
        }
        assert_eq!(find(&[&format!("Bearer scope=\"{}\"", "a".repeat(BYTES_MAX))]), None);
    }

    /// RFC 6750 §3: attributes MUST NOT appear more than once.
    #[test]
    fn a_parameter_given_twice_has_no_value() {
        let found = find(&[r#"Bearer resource_metadata="http://a/", resource_metadata="http://b/", scope="a""#]).unwrap();
        assert_eq!((found.resource_metadata, found.scopes), (None, vec!["a".to_owned()]));
    }
}
