//! Claims that a rule or a header names, by their path in the token.

/// The way to a claim: `organization_id`, or `address.country` for a nested one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    pub fn parse(text: &str) -> Option<Self> {
        let steps: Vec<String> = text.split('.').map(str::to_owned).collect();
        let proper = steps.iter().all(|step| !step.is_empty() && !step.chars().any(|c| c.is_control() || c.is_whitespace()));
        proper.then_some(Self(steps))
    }

    /// The names under which this claim can stand at the top of a token.
    pub(super) fn top_names(&self) -> impl Iterator<Item = String> {
        self.0.first().cloned().into_iter().chain(std::iter::once(self.0.join(".")))
    }

    /// Whether this is the `scope` claim, which is forwarded space separated, however the token writes it.
    pub fn is_scope(&self) -> bool {
        matches!(self.0.as_slice(), [name] if name == "scope")
    }

    /// The value at this path. A claim whose own name has dots (`https://…`) is found by its whole name first.
    pub fn find<'v>(&self, claims: &'v serde_json::Map<String, serde_json::Value>) -> Option<&'v serde_json::Value> {
        if let [name] = self.0.as_slice() {
            return claims.get(name);
        }
        if let Some(value) = claims.get(&self.0.join(".")) {
            return Some(value);
        }
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, step| value.as_object()?.get(step))
    }
}

impl std::fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A claim must equal one of these values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRule {
    pub claim: ClaimPath,
    pub allowed: Vec<ClaimValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimValue {
    Literal(String),
    /// The path parameter at this position.
    Parameter(usize),
    /// Any value, as long as the claim is there with one.
    Present,
}

impl ClaimRule {
    pub fn allows(&self, claims: &serde_json::Map<String, serde_json::Value>, parameters: &[&str]) -> bool {
        let Some(value) = self.claim.find(claims) else { return false };
        self.allowed.iter().any(|allowed| match allowed {
            ClaimValue::Literal(text) => equals(value, text),
            ClaimValue::Present => !matches!(value, serde_json::Value::Null) && value.as_str() != Some(""),
            ClaimValue::Parameter(position) => parameters.get(*position).is_some_and(|text| equals(value, text)),
        })
    }
}

/// A text equals itself, a number or boolean its JSON form. An array or object equals nothing.
fn equals(value: &serde_json::Value, text: &str) -> bool {
    match value {
        serde_json::Value::String(value) => value == text,
        serde_json::Value::Bool(value) => *text == value.to_string(),
        serde_json::Value::Number(value) => *text == value.to_string(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_compared_as_a_whole() {
        let claims = json!({ "organization_id": "org_a", "n": 5, "b": true, "a": { "c": "no" }, "list": ["org_a"], "x.y": 1, "empty": "", "null": null });
        let claims = claims.as_object().unwrap();
        let allows = |claim: &str, value: ClaimValue| {
            ClaimRule { claim: ClaimPath::parse(claim).unwrap(), allowed: vec![value] }.allows(claims, &["org_a", "org_b"])
        };
        let literal = |text: &str| ClaimValue::Literal(text.to_owned());
        assert!(allows("organization_id", ClaimValue::Parameter(0)));
        assert!(!allows("organization_id", ClaimValue::Parameter(1)));
        assert!(!allows("organization_id", ClaimValue::Parameter(2)));
        assert!(allows("n", literal("5")) && allows("b", literal("true")) && allows("a.c", literal("no")) && allows("x.y", literal("1")));
        assert!(allows("organization_id", ClaimValue::Present) && allows("list", ClaimValue::Present));
        assert!(!allows("missing", ClaimValue::Present) && !allows("empty", ClaimValue::Present) && !allows("null", ClaimValue::Present));
        assert!(!allows("missing", literal("")) && !allows("list", literal("org_a")) && !allows("a", literal("no")));
    }
}
