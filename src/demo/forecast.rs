//! What the weather service answers, as its clients read it: what they do not expect, they leave out.

use serde_json::Value;

use super::oauth_client::said;

const ITEMS_MAX: usize = 10;

#[derive(Debug, PartialEq, Eq)]
pub struct Day {
    pub name: String,
    pub sky: String,
    pub high: i64,
    pub low: i64,
}

impl Day {
    /// Signs that every font has; a picture of its own kind for each sky.
    pub fn picture(&self) -> &'static str {
        match self.sky.as_str() {
            "clear" => "☀",
            "cloudy" => "☁",
            "fog" => "≋",
            "rain" => "☂",
            "snow" => "❄",
            "storm" => "⚡",
            _ => "·",
        }
    }

    /// Both temperatures, with the sign for minus that is no hyphen.
    pub fn range(&self) -> String {
        format!("{} to {} °C", self.low, self.high).replace('-', "−")
    }
}

/// Of `GET /forecast/{city}`.
pub fn days(answer: &Value) -> Vec<Day> {
    items(&answer["forecast"]).filter_map(day).collect()
}

/// Of `GET /me/saved-cities`.
pub fn saved_cities(answer: &Value) -> Vec<String> {
    items(&answer["saved_cities"]).filter_map(Value::as_str).map(said).collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten().take(ITEMS_MAX)
}

fn day(day: &Value) -> Option<Day> {
    let text = |name: &str| day[name].as_str().map(said);
    let number = |name: &str| day[name].as_i64();
    Some(Day { name: text("day")?, sky: text("sky")?, high: number("high_celsius")?, low: number("low_celsius")? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_expected_is_left_out() {
        let answer = json!({ "forecast": [{ "day": "today", "sky": "snow", "high_celsius": 1, "low_celsius": -4 }, { "day": 7 }], "saved_cities": ["Oslo", 7] });
        assert_eq!(days(&answer), [Day { name: "today".to_owned(), sky: "snow".to_owned(), high: 1, low: -4 }]);
        assert_eq!(days(&answer)[0].range(), "−4 to 1 °C");
        assert_eq!(saved_cities(&answer), ["Oslo"]);
        assert!(days(&Value::Null).is_empty() && saved_cities(&json!([])).is_empty());
        assert_eq!(days(&json!({ "forecast": vec![answer["forecast"][0].clone(); 99] })).len(), ITEMS_MAX);
    }
}
