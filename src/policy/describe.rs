//! A requirement in the words of the configuration, for whoever asks what a route wants.

use std::fmt;

use super::{ClaimRule, ClaimValue, Requirement, ScopeRule};

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
