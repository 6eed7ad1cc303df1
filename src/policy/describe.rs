//! A requirement, and what changes on the way, in the words of the configuration, for whoever asks what a route does.

use std::fmt;

use super::{ClaimRule, ClaimValue, Cors, HeaderChanges, HostRewrite, OriginRule, Requirement, Rewriting, ScopeRule};

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = match self {
            Self::Public => return f.write_str("public"),
            Self::Token(rules) => rules,
        };
        match &rules.scopes {
            ScopeRule::None => f.write_str("authenticated")?,
            ScopeRule::All(scopes) => f.write_str(&scopes.join(" and "))?,
            ScopeRule::Any(scopes) => f.write_str(&scopes.join(" or "))?,
        }
        for rule in &rules.claims {
            write!(f, ", {rule}")?;
        }
        if !rules.clients.is_empty() {
            write!(f, ", client {}", rules.clients.join("|"))?;
        }
        if !rules.step_up.acr_values.is_empty() {
            write!(f, ", signed in as {}", rules.step_up.acr_values.join("|"))?;
        }
        if let Some(seconds) = rules.step_up.max_age_seconds {
            write!(f, ", signed in {seconds} s ago at most")?;
        }
        Ok(())
    }
}

/// `organization_id={1}`: a parameter by its position in the path.
impl fmt::Display for ClaimRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &ClaimValue| match value {
            ClaimValue::Literal(text) => text.clone(),
            ClaimValue::Parameter(position) => format!("{{{}}}", position + 1),
            ClaimValue::Present => "*".to_owned(),
        };
        let values: Vec<String> = self.allowed.iter().map(value).collect();
        write!(f, "{}={}", self.claim, values.join("|"))
    }
}

/// `-/api/v1 +/internal, host legacy.internal, sets authorization, answers: removes server`. No value is shown. Empty where
/// nothing changes.
impl fmt::Display for Rewriting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let prefixes = [("-", &self.path.strip), ("+", &self.path.add)];
        let path: Vec<String> =
            prefixes.iter().filter(|(_, prefix)| !prefix.is_empty()).map(|(sign, prefix)| format!("{sign}{prefix}")).collect();
        if !path.is_empty() {
            parts.push(path.join(" "));
        }
        match &self.host {
            HostRewrite::Preserve => {}
            HostRewrite::Upstream => parts.push("host of the upstream".to_owned()),
            HostRewrite::Named(authority) => parts.push(format!("host {authority}")),
        }
        parts.extend(changes(&self.request));
        let answers = changes(&self.response).join(", ");
        if !answers.is_empty() {
            parts.push(format!("answers: {answers}"));
        }
        f.write_str(&parts.join(", "))
    }
}

fn changes(changes: &HeaderChanges) -> Vec<String> {
    let set: Vec<&str> = changes.set.iter().map(|(name, _)| name.as_str()).collect();
    let add: Vec<&str> = changes.add.iter().map(|(name, _)| name.as_str()).collect();
    let lists = [("sets", set), ("adds", add), ("removes", changes.removed().collect())];
    lists.into_iter().filter(|(_, names)| !names.is_empty()).map(|(verb, names)| format!("{verb} {}", names.join(" "))).collect()
}

/// `pages of https://app.example, with cookies`
impl fmt::Display for Cors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = |rule: &OriginRule| match rule {
            OriginRule::All => "all origins".to_owned(),
            OriginRule::Exact(origin) => origin.clone(),
            OriginRule::OneLabel { scheme, rest } => format!("{scheme}*{rest}"),
        };
        let origins: Vec<String> = self.origins.iter().map(origin).collect();
        write!(f, "pages of {}{}", origins.join(" "), if self.credentials { ", with cookies" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PathRewrite;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn what_changes_is_described_without_a_value() {
        let set = vec![(HeaderName::from_static("authorization"), HeaderValue::from_static("Basic aHVudGVyMg=="))];
        let rewriting = Rewriting {
            path: PathRewrite { strip: "/api/v1".to_owned(), add: "/internal".to_owned() },
            host: HostRewrite::Named("legacy.internal".parse().unwrap()),
            request: HeaderChanges { gone: vec!["authorization".to_owned(), "cookie".to_owned()], set, add: Vec::new() },
            response: HeaderChanges { gone: vec!["server".to_owned()], ..HeaderChanges::default() },
            ..Rewriting::default()
        };
        let said = "-/api/v1 +/internal, host legacy.internal, sets authorization, removes cookie, answers: removes server";
        assert_eq!(rewriting.to_string(), said);
        assert_eq!(Rewriting::default().to_string(), "");
    }
}
