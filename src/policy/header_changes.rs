//! Headers that the operator has set, added or removed on the way, in one direction.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::fold;

/// What changes of a head. Values on the way to the upstream may be secrets and are marked so that none shows them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderChanges {
    /// Names that do not pass, those that are set among them, as the laxest server reads a name.
    pub gone: Vec<String>,
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether what the other side sent under this name does not pass, in any spelling that a server may fold to it.
    pub fn takes(&self, name: &str) -> bool {
        if self.gone.is_empty() {
            return false;
        }
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let folded = if plain { Cow::Borrowed(name) } else { Cow::Owned(fold(name)) };
        self.gone.iter().any(|gone| *gone == folded)
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if !self.gone.is_empty() {
            let gone: Vec<HeaderName> = headers.keys().filter(|name| self.takes(name.as_str())).cloned().collect();
            for name in gone {
                headers.remove(name);
            }
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// Makes them on an answer of the gate's own. What it says itself stays, and none of it is removed.
    pub fn apply_to_own(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            if !headers.contains_key(name) {
                headers.insert(name, value.clone());
            }
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// Names that are set or added, in their order.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().chain(&self.add).map(|(name, _)| name)
    }

    /// Names that are removed and not set anew.
    pub fn removed(&self) -> impl Iterator<Item = &str> {
        let set = |gone: &str| self.set.iter().any(|(name, _)| name.as_str() == gone);
        self.gone.iter().map(String::as_str).filter(move |gone| !set(gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    fn changes() -> HeaderChanges {
        HeaderChanges {
            gone: vec!["x-tenant".to_owned(), "cookie".to_owned()],
            set: vec![pair("x-tenant", "ours")],
            add: vec![pair("x-via", "gate")],
        }
    }

    #[test]
    fn what_is_set_or_removed_comes_from_nobody_else_in_any_spelling() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-tenant", "theirs"), ("x_tenant", "theirs"), ("x.tenant", "theirs"), ("cookie", "a=1"), ("x-via", "them")]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        changes().apply(&mut headers);
        let mut left: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["x-tenant: ours", "x-via: gate", "x-via: them"]);
        assert_eq!(changes().removed().collect::<Vec<_>>(), ["cookie"]);
    }

    #[test]
    fn the_gates_own_answer_keeps_what_it_says() {
        let mut headers = HeaderMap::from_iter([pair("x-tenant", "said"), pair("cookie", "a=1")]);
        changes().apply_to_own(&mut headers);
        assert_eq!(["x-tenant", "cookie", "x-via"].map(|name| headers[name].to_str().unwrap()), ["said", "a=1", "gate"]);
    }
}
