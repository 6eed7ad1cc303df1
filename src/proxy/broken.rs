//! Why a connection ended by an error, as it is counted.

use std::error::Error;
use std::io;

use super::gate::Gate;
use crate::observe::Limit;

/// Counts a connection that ended by an error.
pub fn count(gate: &Gate, reason: &'static str) {
    if let Ok(counter) = gate.observer.metrics.connection_errors.get_metric_with_label_values(&[reason]) {
        counter.inc();
    }
}

/// The same for an error of hyper's, and the limit that it speaks of.
pub fn count_error(gate: &Gate, error: &hyper::Error) {
    if let Some(limit) = limit_of(error) {
        gate.observer.metrics.limits.count(limit);
    }
    count(gate, reason(error));
}

fn reason(error: &hyper::Error) -> &'static str {
    match () {
        () if broken(error).is_some_and(|kind| kind == io::ErrorKind::QuotaExceeded) => "flood",
        () if error.is_timeout() || is_deadline(error) => "timeout",
        () if error.is_parse_too_large() => "head_too_large",
        () if error.is_parse() => "no_http",
        () if error.is_incomplete_message() => "broke_off",
        () => "other",
    }
}

/// Whether one of the stream's own deadlines ended the connection, which hyper takes for a broken stream.
fn is_deadline(error: &hyper::Error) -> bool {
    broken(error).is_some_and(|kind| kind == io::ErrorKind::TimedOut)
}

/// How the stream broke, if that ended the connection.
fn broken(error: &hyper::Error) -> Option<io::ErrorKind> {
    error.source()?.downcast_ref::<io::Error>().map(io::Error::kind)
}

/// The limit of hyper's or h2's that ended the connection; our own are counted where they are watched.
fn limit_of(error: &hyper::Error) -> Option<Limit> {
    if error.is_parse_too_large() {
        return Some(Limit::Head);
    }
    let reason = error.source()?.downcast_ref::<h2::Error>()?.reason()?;
    (reason == h2::Reason::ENHANCE_YOUR_CALM).then_some(Limit::Http2Framing)
}
