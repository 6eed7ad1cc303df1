//! How, and how lately, a user must have signed in (RFC 9470).

use serde_json::{Map, Value};

/// What a route asks of the sign-in behind a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepUp {
    /// One of these; any will do when there are none.
    pub acr_values: Vec<String>,
    pub max_age_seconds: Option<u64>,
}

impl StepUp {
    pub fn is_empty(&self) -> bool {
        self.acr_values.is_empty() && self.max_age_seconds.is_none()
    }

    /// What is wrong with the sign-in, if anything. A token that does not tell (RFC 9068 §2.2.1) is none that was asked for.
    pub fn lacks(&self, claims: &Map<String, Value>, now: i64, leeway: i64) -> Option<&'static str> {
        let acr = claims.get("acr").and_then(Value::as_str);
        if !self.acr_values.is_empty() && !acr.is_some_and(|acr| self.acr_values.iter().any(|wanted| wanted == acr)) {
            return Some("acr");
        }
        let max_age = self.max_age_seconds?;
        let age = claims.get("auth_time").and_then(Value::as_i64).map(|signed_in| now.saturating_sub(signed_in));
        let most = i64::try_from(max_age).unwrap_or(i64::MAX).saturating_add(leeway);
        // What lies ahead by more than clocks differ is no time.
        (!age.is_some_and(|age| (-leeway..=most).contains(&age))).then_some("auth_time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sign_in_counts_by_its_kind_and_its_age() {
        let wanted = StepUp { acr_values: vec!["gold".to_owned(), "silver".to_owned()], max_age_seconds: Some(300) };
        let lacks = |claims: Value| wanted.lacks(claims.as_object().unwrap(), 10_000, 30);
        assert_eq!(lacks(json!({ "acr": "silver", "auth_time": 9_700 })), None);
        assert_eq!(lacks(json!({ "acr": "gold", "auth_time": 9_670 })), None, "clocks may differ");
        assert_eq!(lacks(json!({ "acr": "gold", "auth_time": 9_669 })), Some("auth_time"));
        assert_eq!(lacks(json!({ "acr": "gold", "auth_time": 10_031 })), Some("auth_time"));
        for auth_time in [json!(null), json!("10000"), json!(9_999.5), json!([10_000])] {
            assert_eq!(lacks(json!({ "acr": "gold", "auth_time": auth_time })), Some("auth_time"));
        }
        for acr in [json!(null), json!("bronze"), json!("gold silver"), json!(["gold"]), json!("Gold"), json!("")] {
            assert_eq!(lacks(json!({ "acr": acr, "auth_time": 10_000 })), Some("acr"));
        }
        assert_eq!(StepUp::default().lacks(&Map::new(), 10_000, 30), None);
        let age = StepUp { max_age_seconds: Some(0), ..StepUp::default() };
        assert_eq!(age.lacks(json!({ "auth_time": 10_000 }).as_object().unwrap(), 10_000, 0), None);
    }
}
