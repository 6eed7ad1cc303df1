//! The audit trail: records of several kinds, each one line of JSON, queued for a writer of their own.
//!
//! Whoever writes a record never waits for the disk or the network: a record goes into a bounded queue, and one thread
//! takes it to its place. A place that fails is tried again while the queue fills; what finds the queue full is lost,
//! counted, and told in the log once until records are kept again.

mod access;
mod file;
mod queue;
mod revocation;
mod sink;
mod syslog;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::IntCounterVec;
use serde::Serialize;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};

pub(super) use access::{Access, Scopes, required};
pub use revocation::Revocation;

use queue::{Line, Order, Queue};
use sink::Sink;

use crate::policy::{Audit, AuditTo};

/// The version of the records' format. It changes when a field changes its meaning or goes; a new field changes nothing.
pub const FORMAT: u8 = 1;

/// How long the end of the process may wait for what is still queued. The time for it is `shutdown.deadline` before.
const END_TIME_MAX: Duration = Duration::from_secs(1);

/// A kind of record. Its fields follow those that all kinds have; none may hold a token, a secret or a query.
pub trait Kind: Serialize {
    /// The value of the field `audit`, and a label of metrics.
    const NAME: &'static str;

    /// Whether the gate said no: a syslog server may treat it differently.
    fn is_refusal(&self) -> bool {
        false
    }
}

/// A change of the configuration. It is recorded whatever `audit.records` says: it may change what is recorded.
#[derive(Debug, Serialize)]
pub struct Reload<'r> {
    pub cause: &'r str,
    /// `taken` or `refused`.
    pub decision: &'static str,
    /// Of what is in force after it.
    pub config_hash: &'r str,
    /// What changed, if it was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<&'r str>,
}

impl Kind for Reload<'_> {
    const NAME: &'static str = "reload";

    fn is_refusal(&self) -> bool {
        self.decision == "refused"
    }
}

/// A record as it is written.
#[derive(Serialize)]
struct Envelope<'r, K> {
    audit: &'static str,
    format: u8,
    time: &'r str,
    #[serde(flatten)]
    record: &'r K,
}

/// How many records were written, by kind, and lost, by reason.
#[derive(Debug, Clone)]
pub struct Counters {
    pub written: IntCounterVec,
    pub lost: IntCounterVec,
}

/// The trail: where records are put down. Dropping it ends it.
#[derive(Debug)]
pub struct AuditTrail {
    queue: Arc<Queue>,
    /// Where records go now, and whether there is a writer.
    to: Mutex<(Option<AuditTo>, bool)>,
}

impl AuditTrail {
    /// A trail that leads nowhere yet.
    pub(super) fn new(counters: Counters) -> Self {
        Self { queue: Arc::new(Queue::new(counters)), to: Mutex::default() }
    }

    /// Opens the place that the policy names, if it is another than the one in use, and begins the writer's thread if there
    /// is none: all that can fail. Records go where they went before.
    pub fn prepare(&self, wanted: Option<&Audit>) -> Result<Option<Sink>, String> {
        let Some(wanted) = wanted.map(|audit| &audit.to) else { return Ok(None) };
        if self.to.lock().unwrap_or_else(PoisonError::into_inner).0.as_ref() == Some(wanted) {
            return Ok(None);
        }
        let sink = Sink::open(wanted).map_err(|error| format!("audit: {wanted}: {error}"))?;
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if !to.1 {
            let writer = writer::Writer::new(self.queue.clone());
            let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run());
            thread.map_err(|error| format!("audit: no thread: {error}"))?;
            to.1 = true;
        }
        Ok(Some(sink))
    }

    /// Takes a prepared place into use. What is still queued goes there too.
    pub fn turn_to(&self, sink: Sink) {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        to.0 = Some(sink.to().clone());
        self.queue.order(Order::Open(Box::new(sink)));
    }

    /// Writes what is queued to the place in use and closes it.
    pub fn turn_off(&self) {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if to.0.take().is_some() {
            self.queue.order(Order::Close(Default::default()));
        }
    }

    /// Opens the place anew: a file that was renamed is left behind, a connection is made again.
    pub fn reopen(&self) {
        if self.to.lock().unwrap_or_else(PoisonError::into_inner).0.is_some() {
            self.queue.order(Order::Reopen);
        }
    }

    /// Whether there is a place for records.
    pub fn is_on(&self) -> bool {
        self.queue.is_open()
    }

    /// Puts a record down. `at` is when what it tells of began.
    pub fn write<K: Kind>(&self, record: &K, at: SystemTime) {
        if !self.queue.is_open() {
            return;
        }
        let time = rfc3339(at);
        let envelope = Envelope { audit: K::NAME, format: FORMAT, time: &time, record };
        // It fails only for a map whose keys are no text; no kind has one.
        let Ok(mut json) = serde_json::to_vec(&envelope) else { return self.queue.lose("write_failed", 1) };
        json.push(b'\n');
        self.queue.push(Line { kind: K::NAME, refusal: record.is_refusal(), time, json });
    }

    /// Whether there is nothing to wait for: all is written, or the place fails.
    pub fn is_settled(&self) -> bool {
        self.queue.is_settled()
    }

    /// Waits a moment for what is still queued, for the last time: nothing is recorded afterwards.
    pub fn end(&self) {
        if std::mem::take(&mut self.to.lock().unwrap_or_else(PoisonError::into_inner).1) {
            self.queue.end(END_TIME_MAX);
        }
    }
}

impl Drop for AuditTrail {
    fn drop(&mut self) {
        self.end();
    }
}

/// Microseconds, always six digits, so that lines sort by their time.
const TIME: EncodedConfig = {
    let digits = std::num::NonZeroU8::new(6);
    Config::DEFAULT.set_time_precision(TimePrecision::Second { decimal_digits: digits }).set_year_is_six_digits(false).encode()
};

fn rfc3339(at: SystemTime) -> String {
    time::UtcDateTime::from(at).format(&Iso8601::<TIME>).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::UnixDatagram;
    use std::time::Instant;

    use crate::observe::{Metrics, Observer};
    use crate::policy::{Facility, SyslogServer};

    /// A test that hangs here is cut off by whoever runs it.
    fn settle(observer: &Observer) {
        while !observer.audit.is_settled() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn observer(to: AuditTo) -> Observer {
        let observer = Observer::new(Metrics::new().unwrap());
        turn(&observer, to);
        observer
    }

    fn turn(observer: &Observer, to: AuditTo) {
        let audit = Audit { writes: true, reads: true, refusals: true, to };
        let sink = observer.audit.prepare(Some(&audit)).unwrap().unwrap();
        observer.audit.turn_to(sink);
    }

    fn file(path: impl Into<std::path::PathBuf>) -> AuditTo {
        AuditTo::File { path: path.into(), rotate_bytes: 0, keep: 1 }
    }

    fn write(observer: &Observer, count: usize) {
        for i in 0..count {
            let record = Reload { cause: &i.to_string(), decision: "taken", config_hash: "", changes: None };
            observer.audit.write(&record, SystemTime::UNIX_EPOCH);
        }
    }

    fn lost(observer: &Observer, reason: &str) -> u64 {
        observer.metrics.audit_counters().lost.with_label_values(&[reason]).get()
    }

    fn written(observer: &Observer) -> u64 {
        observer.metrics.audit_counters().written.with_label_values(&["reload"]).get()
    }

    fn causes(path: &std::path::Path) -> Vec<usize> {
        let text = std::fs::read_to_string(path).unwrap();
        let cause = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["cause"].as_str().unwrap().parse().unwrap();
        text.lines().map(cause).collect()
    }

    #[test]
    fn records_that_a_full_disk_does_not_take_wait_and_go_to_the_next_place_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let observer = observer(file("/dev/full"));
        write(&observer, 100);
        settle(&observer);
        assert_eq!(written(&observer), 0);

        turn(&observer, file(&path));
        settle(&observer);
        assert_eq!(causes(&path), (0..100).collect::<Vec<_>>());
        assert_eq!((written(&observer), lost(&observer, "write_failed")), (100, 0));
    }

    #[test]
    fn what_is_prepared_and_never_used_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first.jsonl"), directory.path().join("second.jsonl"));
        let observer = Observer::new(Metrics::new().unwrap());
        let audit = |path: &std::path::Path| Audit { writes: true, reads: true, refusals: true, to: file(path) };
        // The thread is there from now on, and finds nothing to do.
        drop(observer.audit.prepare(Some(&audit(&second))).unwrap());
        write(&observer, 1);
        assert!(!observer.audit.is_on() && observer.audit.is_settled());

        turn(&observer, file(&first));
        drop(observer.audit.prepare(Some(&audit(&second))).unwrap());
        write(&observer, 2);
        settle(&observer);
        assert_eq!(causes(&first), [0, 1]);
        assert_eq!(std::fs::read_to_string(&second).unwrap(), "");
        drop(observer);
    }

    #[test]
    fn what_a_full_disk_does_not_take_at_the_end_is_counted() {
        let observer = observer(file("/dev/full"));
        let counters = observer.metrics.audit_counters();
        write(&observer, 100);
        drop(observer);
        assert_eq!(counters.lost.with_label_values(&["write_failed"]).get(), 100);
    }

    #[test]
    fn a_place_that_hangs_holds_nobody_up_and_what_it_costs_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        // Bound and never read.
        let _held = UnixDatagram::bind(&path).unwrap();
        let observer = observer(AuditTo::Syslog { server: SyslogServer::Unix(path), facility: Facility::Authpriv });
        let counters = observer.metrics.audit_counters();
        let begun = Instant::now();
        let count = queue::RECORDS_QUEUED_MAX + 5_000;
        write(&observer, count);
        let took = begun.elapsed();
        assert!(took < syslog::WRITE_TIMEOUT, "{took:?}");
        let before = lost(&observer, "queue_full") + lost(&observer, "write_failed");
        assert!(before > 0);
        drop(observer);
        let all: u64 =
            ["queue_full", "write_failed", "shutdown"].map(|reason| counters.lost.with_label_values(&[reason]).get()).iter().sum();
        assert_eq!(all + counters.written.with_label_values(&["reload"]).get(), count as u64);
    }

    #[test]
    fn a_trail_that_is_turned_off_is_written_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let observer = observer(file(&path));
        write(&observer, 1000);
        observer.audit.turn_off();
        write(&observer, 1);
        let after = directory.path().join("after");
        turn(&observer, file(&after));
        write(&observer, 2);
        settle(&observer);
        assert_eq!((causes(&path).len(), causes(&after)), (1000, vec![0, 1]));
    }

    #[test]
    fn a_place_is_opened_once_and_one_that_cannot_be_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let audit = |path: &str| Audit { writes: true, reads: true, refusals: true, to: file(directory.path().join(path)) };
        let observer = observer(audit("a").to);
        assert!(observer.audit.prepare(Some(&audit("a"))).unwrap().is_none());
        assert!(observer.audit.prepare(None).unwrap().is_none());
        let error = observer.audit.prepare(Some(&audit("missing/a"))).unwrap_err();
        assert!(error.starts_with("audit: ") && error.contains("missing/a: No such file"), "{error}");
    }

    #[test]
    fn a_time_is_in_utc_with_six_digits() {
        let at = |micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        assert_eq!(rfc3339(at(1_700_000_000_000_000)), "2023-11-14T22:13:20.000000Z");
        assert_eq!(rfc3339(at(1_700_000_000_123_456)), "2023-11-14T22:13:20.123456Z");
    }
}
