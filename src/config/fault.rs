//! A fault in what the operator wrote: where it stands, what is wrong, and what to write instead.

use std::fmt;

/// Line and column of a piece of the document, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// The way from the top of the document to a value: map keys, and positions in lists as decimal numbers.
pub type Trail = Vec<String>;

/// One fault. A document's faults are collected and reported together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub place: Option<Place>,
    pub trail: Trail,
    /// The text that is at fault; empty when there is none to show or it may be a secret.
    pub text: String,
    pub reason: String,
    pub cure: String,
    /// Something is not there; it may be so because what was there is at fault itself.
    pub absence: bool,
}

impl Fault {
    pub fn new(trail: Trail, reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { place: None, trail, text: String::new(), reason: reason.into(), cure: cure.into(), absence: false }
    }

    /// The text at fault. An address with a user name in it may hold a password and is not shown.
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        let credentials = text.contains("://") && text.contains('@');
        self.text = if credentials { String::new() } else { text };
        self
    }
}

/// `line:column: trail: 'text': reason; cure`
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        if !self.trail.is_empty() {
            write!(f, "{}: ", render_trail(&self.trail))?;
        }
        if !self.text.is_empty() {
            write!(f, "'{}': ", shorten(&self.text))?;
        }
        write!(f, "{}; {}", self.reason, self.cure)
    }
}

/// Every fault of one document, in the order of the lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    pub source_name: String,
    pub faults: Vec<Fault>,
}

impl ConfigErrors {
    pub fn new(source_name: &str, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.place);
        faults.dedup();
        Self { source_name: source_name.to_owned(), faults }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{fault}", self.source_name)?;
        }
        Ok(())
    }
}

/// `services[0].routes[GET /me].scopes`: list positions and keys with odd characters in brackets.
fn render_trail(trail: &[String]) -> String {
    let mut out = String::new();
    for step in trail {
        let plain = step.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let index = step.chars().all(|c| c.is_ascii_digit());
        if plain && !index {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(step);
        } else {
            out.push('[');
            out.push_str(&shorten(step));
            out.push(']');
        }
    }
    out
}

/// What a message shows of a long or unprintable text.
fn shorten(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let mut out: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().count() > SHOWN_CHARS_MAX {
        out.push('…');
    }
    out
}
