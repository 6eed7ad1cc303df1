//! Logging to standard output through a bounded queue: a slow reader of the log loses lines, and they are counted, but
//! it never holds a request up.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Level;
use crate::policy::{Log, LogFormat};

const LINES_BUFFERED_MAX: usize = 65_536;

/// Changes the level while running, and flushes what is queued when dropped.
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    dropped: ErrorCounter,
    _guard: WorkerGuard,
}

impl LogHandle {
    pub fn set_level(&self, level: Level) {
        let _ = self.filter.reload(targets(level));
    }

    /// Counts lines that were lost.
    pub fn counter(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// Starts logging. A second call in one process is an error.
pub fn start(log: &Log) -> Result<LogHandle, String> {
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_BUFFERED_MAX).finish(std::io::stdout());
    let dropped = writer.error_counter();
    let (filter, handle) = reload::Layer::new(targets(log.level));
    let lines = match log.format {
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer)
            .boxed(),
        LogFormat::Text => {
            tracing_subscriber::fmt::layer().compact().with_ansi(std::io::stdout().is_terminal()).with_writer(writer).boxed()
        }
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|error| error.to_string())?;
    Ok(LogHandle { filter: handle, dropped, _guard: guard })
}

/// The operator's level for our own lines, warnings of libraries, and the access and audit logs whatever the level.
fn targets(level: Level) -> Targets {
    let (own, others) = match level {
        Level::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        Level::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        Level::Info => (LevelFilter::INFO, LevelFilter::WARN),
        Level::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
    };
    Targets::new()
        .with_default(others)
        .with_target("wicketgate", own)
        .with_target("access", LevelFilter::INFO)
        .with_target("audit", LevelFilter::INFO)
}
