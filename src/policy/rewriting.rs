//! What changes on the way between client and upstream: the front of the path, the host, and headers both ways.
//!
//! All of it happens behind the decision, which is made on what the client sent.

use std::borrow::Cow;

use http::HeaderValue;
use http::uri::Authority;

use super::header_changes::HeaderChanges;

/// What one route changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewriting {
    pub path: PathRewrite,
    pub host: HostRewrite,
    /// Whether addresses in answers are led back to what the client knows.
    pub location: bool,
    /// Whether places of cookies are.
    pub cookies: bool,
    pub request: HeaderChanges,
    pub response: HeaderChanges,
}

/// Whole segments that are taken from the front of a path, and those that are put there. Both begin with a slash and end
/// without one; empty is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathRewrite {
    pub strip: String,
    pub add: String,
}

/// The host that the upstream gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostRewrite {
    /// The one that the client asked for.
    #[default]
    Preserve,
    /// The upstream's own, as it stands in its address.
    Upstream,
    Named(Authority),
}

impl Rewriting {
    /// The path as the upstream gets it. `None` for one that does not lie below the prefix to strip, which no route lets come
    /// here.
    pub fn path_to_upstream<'p>(&self, path: &'p str) -> Option<Cow<'p, str>> {
        self.path.exchange(path, &self.path.strip, &self.path.add)
    }

    /// The authority that the upstream gets, if it is not the client's.
    pub fn authority<'a>(&'a self, upstream: Option<&'a Authority>) -> Option<&'a Authority> {
        match &self.host {
            HostRewrite::Preserve => None,
            HostRewrite::Upstream => upstream,
            HostRewrite::Named(authority) => Some(authority),
        }
    }
}

impl PathRewrite {
    pub fn is_none(&self) -> bool {
        self.strip.is_empty() && self.add.is_empty()
    }

    /// A path of the upstream's as the client would ask for it. `None` for one that the client cannot ask for.
    pub fn to_client<'p>(&self, path: &'p str) -> Option<Cow<'p, str>> {
        self.exchange(path, &self.add, &self.strip)
    }

    /// Bytes behind the prefix are untouched. A prefix has no closing slash and what is left of the path is empty or begins
    /// with one, so that no empty segment arises that was not there.
    fn exchange<'p>(&self, path: &'p str, from: &str, to: &str) -> Option<Cow<'p, str>> {
        let rest = path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        match (to, rest) {
            ("", "") => Some(Cow::Borrowed("/")),
            ("", rest) => Some(Cow::Borrowed(rest)),
            (to, rest) => Some(Cow::Owned(format!("{to}{rest}"))),
        }
    }
}

/// A value as it goes out, which no log shows.
pub(super) fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::CheckedPath;
    use proptest::prelude::*;

    fn rewriting(strip: &str, add: &str) -> Rewriting {
        Rewriting { path: PathRewrite { strip: strip.to_owned(), add: add.to_owned() }, ..Rewriting::default() }
    }

    #[test]
    fn a_prefix_is_exchanged_by_whole_segments() {
        let table = [
            ("/api/v1", "", "/api/v1", Some("/")),
            ("/api/v1", "", "/api/v1/", Some("/")),
            ("/api/v1", "", "/api/v1/x", Some("/x")),
            ("/api/v1", "", "/api/v1/x/", Some("/x/")),
            ("/api/v1", "", "/api/v1/caf%c3%a9/%20b", Some("/caf%c3%a9/%20b")),
            ("/api/v1", "", "/api/v10", None),
            ("/api/v1", "", "/api", None),
            ("", "/internal", "/", Some("/internal/")),
            ("", "/internal", "/x", Some("/internal/x")),
            ("/api", "/internal", "/api", Some("/internal")),
            ("/api", "/internal", "/api/", Some("/internal/")),
            ("/api", "/internal", "/api/internal/x", Some("/internal/internal/x")),
            ("", "", "/x", Some("/x")),
        ];
        for (strip, add, path, expected) in table {
            assert_eq!(rewriting(strip, add).path_to_upstream(path).as_deref(), expected, "-{strip} +{add} {path}");
        }
    }

    proptest! {
        /// What is stripped and added leaves every byte behind it alone, leads to a path with one reading, never above the
        /// prefix that was added, and back to where it came from.
        #[test]
        fn the_rest_of_a_path_keeps_its_bytes(
            strip in "(/[a-z0-9]{1,4}){0,3}",
            add in "(/[a-z0-9]{1,4}){0,3}",
            rest in "(/[a-zA-Z]([a-zA-Z0-9.~_-]|%C3%A9|%20|[(),:@]){0,5}[0-9]){0,4}/?",
        ) {
            let path = match format!("{strip}{rest}") { path if path.is_empty() => "/".to_owned(), path => path };
            prop_assume!(CheckedPath::new(&path).is_ok());
            let rewriting = rewriting(&strip, &add);
            let sent = rewriting.path_to_upstream(&path).unwrap();
            prop_assert!(sent.starts_with(&add));
            prop_assert!(sent.ends_with(&rest));
            prop_assert!(CheckedPath::new(&sent).is_ok(), "{sent}");
            let back = rewriting.path.to_client(&sent).unwrap();
            prop_assert!(back == path || format!("{path}/") == *back || format!("{back}/") == path, "{path} {sent} {back}");
        }
    }
}
