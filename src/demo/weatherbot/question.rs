//! What WeatherBot understands: a few words, and the request to the weather service that answers them.

use serde_json::{Value, json};
use url::Url;

pub const QUESTION_CHARS_MAX: usize = 200;
const CITY_CHARS_MAX: usize = 40;

/// A question with the request that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub text: String,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Forecast {
        city: String,
    },
    SavedCities,
    /// Writes: it needs another scope than the questions.
    Report {
        city: String,
    },
}

impl Question {
    /// `None` if it is about something else than the weather.
    pub fn understand(text: &str) -> Option<Self> {
        let text: String = text.trim().chars().take(QUESTION_CHARS_MAX).collect();
        let words = text.to_lowercase();
        let kind = if words.contains("save") || words.contains("my cities") {
            Kind::SavedCities
        } else {
            let city = city(&text)?;
            match words.starts_with("report") {
                true => Kind::Report { city },
                false => Kind::Forecast { city },
            }
        };
        Some(Self { text, kind })
    }

    pub fn report(city: &str) -> Self {
        Self { text: format!("Report snow in {city}."), kind: Kind::Report { city: city.to_owned() } }
    }

    pub fn method(&self) -> &'static str {
        match self.kind {
            Kind::Forecast { .. } | Kind::SavedCities => "GET",
            Kind::Report { .. } => "POST",
        }
    }

    /// The address below that of the API.
    pub fn url(&self, api: &Url) -> Url {
        let mut url = api.clone();
        // Only an address without a path at all cannot have segments, and that was refused at the start.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            match &self.kind {
                Kind::Forecast { city } | Kind::Report { city } => segments.push("forecast").push(city),
                Kind::SavedCities => segments.push("me").push("saved-cities"),
            };
        }
        url
    }

    pub fn body(&self) -> Option<Value> {
        match self.kind {
            Kind::Report { .. } => Some(json!({ "sky": "snow", "seen_by": "WeatherBot" })),
            Kind::Forecast { .. } | Kind::SavedCities => None,
        }
    }
}

/// What stands after "in" or "for", or all of it if it is as short as a name.
fn city(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = words.iter().rposition(|word| ["in", "for"].contains(&word.to_lowercase().as_str()));
    let name = match after {
        Some(at) => words.get(at + 1..)?.join(" "),
        None if words.len() <= 3 => words.join(" "),
        None => return None,
    };
    let name = name.trim_end_matches(['?', '!', '.', ',', ' ']).trim_matches(['"', '“', '”']);
    let is_name = |c: char| c.is_alphabetic() || matches!(c, ' ' | '-' | '\'');
    let good = name.chars().any(char::is_alphabetic) && name.chars().all(is_name) && name.chars().count() <= CITY_CHARS_MAX;
    good.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_becomes_a_request() {
        let api = Url::parse("http://127.0.0.1:8080").unwrap();
        for (text, method, path) in [
            ("Weather in Oslo?", "GET", "/forecast/Oslo"),
            ("what will it be like in São Paulo ?", "GET", "/forecast/S%C3%A3o%20Paulo"),
            ("Lima", "GET", "/forecast/Lima"),
            ("Which cities did I save?", "GET", "/me/saved-cities"),
            ("Report snow in Oslo.", "POST", "/forecast/Oslo"),
        ] {
            let question = Question::understand(text).unwrap();
            assert_eq!((question.method(), question.url(&api).path()), (method, path), "{text}");
        }
        assert_eq!(Question::understand("Oslo").unwrap().url(&Url::parse("https://a.example/api/").unwrap()).path(), "/api/forecast/Oslo");
    }

    #[test]
    fn what_is_no_city_is_not_asked_for() {
        for text in
            ["", "?", "..", "Weather in ../../admin", "in", "What is the meaning of life, and why?", "Weather in a;b", "Weather in a/b"]
        {
            assert_eq!(Question::understand(text), None, "{text}");
        }
        assert_eq!(Question::understand(&format!("in {}", "x".repeat(CITY_CHARS_MAX + 1))), None);
    }
}
