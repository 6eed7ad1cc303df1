//! What WeatherBot keeps of a visitor: the conversation, the record of the wire, and what the visitor gave it.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::question::{Kind, Question};
use crate::demo::forecast::{Day, days, saved_cities};
use crate::demo::oauth_client::{IssuerMetadata, Pending, Person, Tokens};
use crate::demo::wire::Wire;

const TURNS_MAX: usize = 40;
const RECORDS_MAX: usize = 6;

/// Gone when the visitor wishes so, and with the process.
#[derive(Default)]
pub struct Visit {
    turns: VecDeque<Turn>,
    /// The latest first.
    records: VecDeque<Record>,
    /// Where the browser was sent, and what is to be done when it comes back.
    pub pending: Option<(Pending, Attempt)>,
    pub access: Option<Access>,
    /// Who gave access last, to notice when it is somebody else.
    pub last_subject: Option<String>,
    /// What was refused for want of a scope, until the visitor says whether to ask for it.
    pub refused: Option<Question>,
}

/// A question on its way to an answer. Each of these can happen once, so that no question goes round in circles.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub question: Question,
    /// The visitor wants to be asked if a scope is missing.
    pub may_step_up: bool,
    pub refreshed: bool,
    /// The visitor was sent to the issuer on the way to this answer.
    pub was_asked: bool,
}

/// What a visitor gave.
pub struct Access {
    pub person: Person,
    pub tokens: Tokens,
    pub issuer: Arc<IssuerMetadata>,
    pub resource: String,
}

/// One question's exchanges.
#[derive(Default)]
pub struct Record {
    pub title: String,
    pub wire: Wire,
}

/// Something said.
#[derive(Debug, Default)]
pub struct Turn {
    pub from_visitor: bool,
    /// A class of the stylesheet: empty, `good`, `bad` or `note`.
    pub mood: &'static str,
    pub text: String,
    pub days: Vec<Day>,
    pub cities: Vec<String>,
    /// Scopes that the visitor can be asked for.
    pub offer: Option<String>,
}

impl Visit {
    pub fn turns(&self) -> &VecDeque<Turn> {
        &self.turns
    }

    pub fn records(&self) -> &VecDeque<Record> {
        &self.records
    }

    pub fn asks(&mut self, text: &str) {
        self.push(Turn { from_visitor: true, text: text.to_owned(), ..Turn::default() });
    }

    pub fn say(&mut self, mood: &'static str, text: impl Into<String>) {
        self.push(Turn { mood, text: text.into(), ..Turn::default() });
    }

    pub fn push(&mut self, turn: Turn) {
        if self.turns.len() >= TURNS_MAX {
            self.turns.pop_front();
        }
        self.turns.push_back(turn);
    }

    /// Opens a record. What is exchanged from now on stands in it.
    pub fn begin_record(&mut self, title: &str) {
        self.records.truncate(RECORDS_MAX - 1);
        self.records.push_front(Record { title: title.to_owned(), wire: Wire::default() });
    }

    /// Opens a record of this title, unless it is the open one: the browser may have asked something else meanwhile.
    pub fn resume_record(&mut self, title: &str) {
        if self.records.front().is_none_or(|record| record.title != title) {
            self.begin_record(title);
        }
    }

    /// Takes the open record's wire, to write to while the rest of the visit is used, until it is put back.
    pub fn take_wire(&mut self) -> Wire {
        self.records.front_mut().map(|record| std::mem::take(&mut record.wire)).unwrap_or_default()
    }

    pub fn put_back(&mut self, wire: Wire) {
        if let Some(record) = self.records.front_mut() {
            record.wire = wire;
        }
    }

    /// Tells the visitor what the service answered.
    pub fn tell(&mut self, question: &Question, answer: &Value) {
        let mut turn = Turn::default();
        match &question.kind {
            Kind::Forecast { city } => {
                turn.text = format!("This is the weather in {city}:");
                turn.days = days(answer);
            }
            Kind::SavedCities => {
                turn.cities = saved_cities(answer);
                turn.text = match turn.cities.is_empty() {
                    true => "You saved no cities.".to_owned(),
                    false => "You saved these cities:".to_owned(),
                };
            }
            Kind::Report { city } => {
                turn.mood = "good";
                turn.text = format!("Done: snow is reported in {city}, in your name.");
            }
        }
        self.push(turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversation_and_records_have_an_end() {
        let mut visit = Visit::default();
        for i in 0..TURNS_MAX + RECORDS_MAX {
            visit.begin_record(&i.to_string());
            visit.asks(&i.to_string());
        }
        assert_eq!((visit.turns.len(), visit.records.len()), (TURNS_MAX, RECORDS_MAX));
        assert_eq!((visit.records[0].title.as_str(), visit.turns[0].text.as_str()), ("45", "6"));
    }
}
