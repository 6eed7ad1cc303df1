//! The demo's terminal: one line an event, told as who did what, what was decided, and why.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock;

const LINES_BUFFERED_MAX: usize = 4096;

/// Writes what is queued when dropped.
pub struct Terminal {
    output: Arc<Mutex<Output>>,
    _guard: WorkerGuard,
}

impl Terminal {
    /// Writes the lines that were held back, and from now on each at once.
    pub fn release(&self) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = output.held.take() {
            output.write(held.as_bytes());
        }
    }
}

/// Where lines go; until they are released they are held back, so that none comes before what the demo says first.
struct Output {
    writer: NonBlocking,
    held: Option<String>,
}

impl Output {
    fn write(&mut self, line: &[u8]) {
        match &mut self.held {
            Some(held) => held.push_str(&String::from_utf8_lossy(line)),
            None => {
                let _ = self.writer.write_all(line);
            }
        }
    }
}

/// Starts writing events to standard output, instead of the log. A second call in one process is an error.
pub fn start() -> Result<Terminal, String> {
    // A terminal that is held (Ctrl-S) loses lines; it does not hold up the gate.
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_BUFFERED_MAX).finish(std::io::stdout());
    let bright = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let output = Arc::new(Mutex::new(Output { writer, held: Some(String::new()) }));
    let lines = Lines { output: output.clone(), started: clock::instant_now(), bright };
    let targets = Targets::new()
        .with_default(LevelFilter::ERROR)
        .with_target("wicketgate", LevelFilter::INFO)
        .with_target("access", LevelFilter::INFO);
    tracing_subscriber::registry().with(targets).with(lines).try_init().map_err(|error| error.to_string())?;
    Ok(Terminal { output, _guard: guard })
}

struct Lines {
    output: Arc<Mutex<Output>>,
    started: Instant,
    bright: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let told = match event.metadata().target() {
            "access" => of_request(&fields),
            _ if fields.get("who").is_some() => of_party(&fields),
            _ => of_gate(&fields, *event.metadata().level()),
        };
        let seconds = clock::instant_now().duration_since(self.started).as_secs_f64();
        let line = told.line(seconds, self.bright);
        self.output.lock().unwrap_or_else(PoisonError::into_inner).write(line.as_bytes());
    }
}

/// One event in words.
#[derive(Debug, PartialEq)]
struct Told {
    who: String,
    what: String,
    decision: String,
    reason: String,
    good: bool,
}

impl Told {
    fn line(&self, seconds: f64, bright: bool) -> String {
        let Self { who, what, decision, reason, good } = self;
        let (before, after) = match (bright, good) {
            (false, _) => ("", ""),
            (true, true) => ("\x1b[32m", "\x1b[0m"),
            (true, false) => ("\x1b[31m", "\x1b[0m"),
        };
        let line = format!("{seconds:8.1}s  {who:<22} {what:<44} {before}{decision:<14}{after} {reason}");
        format!("{}\n", line.trim_end())
    }
}

/// A request at the gate, from its access record.
fn of_request(fields: &Fields) -> Told {
    let get = |name| fields.get(name).unwrap_or_default();
    let who = match (fields.get("client_id"), fields.get("subject")) {
        (Some(client), Some(subject)) if client != subject => format!("{client} for {subject}"),
        (Some(client), _) => client.to_owned(),
        _ => "somebody".to_owned(),
    };
    let decision = get("decision");
    let reason = [get("reason"), get("detail")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    Told {
        who,
        what: format!("gate: {} {}", get("method"), get("path")),
        decision: format!("{} {decision}", get("status")),
        reason,
        good: matches!(decision, "permitted" | "public" | "own"),
    }
}

/// What a party of the demo did (see `event`).
fn of_party(fields: &Fields) -> Told {
    let get = |name| fields.get(name).unwrap_or_default().to_owned();
    let decision = get("decision");
    let good = !["denied", "refused", "cancelled", "failed"].contains(&decision.as_str());
    Told { who: get("who"), what: get("what"), reason: get("reason"), decision, good }
}

/// Anything else that the gate says: a reload, a warning, keys fetched.
fn of_gate(fields: &Fields, level: Level) -> Told {
    let told = |name: &str| !["message", "config_hash", "version"].contains(&name);
    let details = fields.0.iter().filter(|(name, _)| told(name)).map(|(name, value)| format!("{name}={value}"));
    let good = level > Level::WARN;
    Told {
        who: "gate".to_owned(),
        what: fields.get("message").unwrap_or_default().to_owned(),
        decision: if good { "ok".to_owned() } else { level.to_string().to_ascii_lowercase() },
        reason: details.collect::<Vec<_>>().join(" "),
        good,
    }
}

/// Names and values in their order, without characters that a terminal would obey.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), harmless(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), harmless(&format!("{value:?}"))));
    }
}

fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("; "),
            _ if c.is_control() => {
                let _ = write!(shown, "{}", c.escape_default());
            }
            _ => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &str)]) -> Fields {
        Fields(pairs.iter().map(|&(name, value)| (name, harmless(value))).collect())
    }

    #[test]
    fn a_request_says_who_what_and_why() {
        let told = of_request(&fields(&[
            ("method", "POST"),
            ("path", "/forecast/oslo"),
            ("status", "403"),
            ("decision", "denied"),
            ("reason", "scope_missing"),
            ("subject", "alice"),
            ("client_id", "weatherbot"),
        ]));
        let line = told.line(12.34, false);
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>().join(" "),
            "12.3s weatherbot for alice gate: POST /forecast/oslo 403 denied scope_missing"
        );
        assert!(!told.good);
    }

    #[test]
    fn a_machine_is_named_once_and_nobody_is_somebody() {
        assert_eq!(of_request(&fields(&[("subject", "cron"), ("client_id", "cron")])).who, "cron");
        assert_eq!(of_request(&fields(&[])).who, "somebody");
    }

    #[test]
    fn nothing_in_a_line_commands_the_terminal() {
        let told = of_party(&fields(&[("who", "eve\x1b[2J"), ("what", "a\nb"), ("decision", "refused"), ("reason", "")]));
        let line = told.line(0.0, false);
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
        assert!(line.contains("eve\\u{1b}[2J") && line.contains("a; b"), "{line:?}");
    }

    #[test]
    fn what_else_the_gate_says_keeps_its_details() {
        let told = of_gate(&fields(&[("message", "configuration reloaded"), ("changes", "routes changed")]), Level::INFO);
        assert_eq!((told.what.as_str(), told.reason.as_str(), told.good), ("configuration reloaded", "changes=routes changed", true));
        assert_eq!(of_gate(&fields(&[]), Level::ERROR).decision, "error");
    }
}
