//! Scopes: what a token was granted, and what a route asks for.

/// The scopes of one token, each once, in the order of the token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// From the space-separated text of a `scope` claim (RFC 6749 §3.3). Only spaces separate, and what is no scope
    /// token is left out: a text with a tab or a quote in it names no scope, rather than two.
    pub fn parse(text: &str) -> Self {
        Self::from_list(text.split(' '))
    }

    pub fn from_list<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scopes: Vec<String> = Vec::new();
        for name in names.into_iter().filter(|name| is_scope_token(name)) {
            if !scopes.iter().any(|known| known == name) {
                scopes.push(name.to_owned());
            }
        }
        Self(scopes)
    }

    pub fn contains(&self, scope: &str) -> bool {
        self.0.iter().any(|granted| granted == scope)
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn joined(&self) -> String {
        self.0.join(" ")
    }
}

/// `scope-token` of RFC 6749 §3.3: printable ASCII without space, quote and backslash.
pub fn is_scope_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// The scopes that a route asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeRule {
    /// None: any valid token will do.
    None,
    All(Vec<String>),
    Any(Vec<String>),
}

impl ScopeRule {
    pub fn allows(&self, granted: &Scopes) -> bool {
        match self {
            Self::None => true,
            Self::All(wanted) => wanted.iter().all(|scope| granted.contains(scope)),
            Self::Any(wanted) => wanted.iter().any(|scope| granted.contains(scope)),
        }
    }

    /// What a client should ask for: all of them, or the first of several that would do.
    pub fn to_request(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::All(wanted) => wanted,
            Self::Any(wanted) => &wanted[..wanted.len().min(1)],
        }
    }

    pub fn named(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::All(wanted) | Self::Any(wanted) => wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_spaces_separate_scopes_and_what_is_none_is_left_out() {
        let scopes = Scopes::parse("read:weather  write:weather read:weather");
        assert_eq!(scopes.iter().collect::<Vec<_>>(), ["read:weather", "write:weather"]);
        assert!(Scopes::parse("").is_empty());
        for wrong in ["a\tb", "a\nb", "a\u{a0}b", "a\"b", "a\\b"] {
            assert!(Scopes::parse(wrong).is_empty(), "{wrong:?}");
        }
        assert!(!Scopes::parse("a,b").contains("a"));
    }

    #[test]
    fn a_scope_matches_whole_and_exactly() {
        let granted = Scopes::parse("admin:read Admin");
        let all = |wanted: &[&str]| ScopeRule::All(wanted.iter().map(|s| (*s).to_owned()).collect()).allows(&granted);
        assert!(all(&["admin:read"]) && all(&["Admin", "admin:read"]));
        assert!(!all(&["admin"]) && !all(&["admin:read", "x"]));
        assert!(ScopeRule::Any(vec!["x".into(), "Admin".into()]).allows(&granted));
        assert!(ScopeRule::None.allows(&Scopes::default()));
    }
}
