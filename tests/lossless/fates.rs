//! What became of each request, as its client saw it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many of the first failures are shown.
const SHOWN: usize = 12;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Answered, and every byte is what it has to be.
    Right,
    /// A stream that the gate ended in its protocol's own words because it goes away.
    ToldToGo,
    /// Answered with 200 and something else than what was asked for.
    Wrong(String),
    /// Answered with another status, or nobody listened at any door.
    Refused(String),
    /// Begun, and neither answered nor provably left alone.
    Broken(String),
    TimedOut,
}

impl Fate {
    fn name(&self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::ToldToGo => "told to go",
            Self::Wrong(_) => "wrong",
            Self::Refused(_) => "refused",
            Self::Broken(_) => "broken",
            Self::TimedOut => "timed out",
        }
    }
}

/// A request as its client knows it.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub id: u64,
    /// By which kind of client.
    pub kind: &'static str,
    /// Whether to do it twice would do a thing twice.
    pub once: bool,
}

#[derive(Default)]
pub struct Fates {
    all: Mutex<Vec<(Sent, Fate)>>,
    in_flight: AtomicUsize,
    /// Requests that provably never left, and went over another connection.
    again: AtomicUsize,
}

/// A request is in flight as long as this lives.
pub struct InFlight<'f>(&'f Fates);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fates {
    pub fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn count(&self) -> usize {
        self.all.lock().unwrap().len()
    }

    pub fn again(&self) {
        self.again.fetch_add(1, Ordering::Relaxed);
    }

    pub fn note(&self, sent: Sent, fate: Fate) {
        self.all.lock().unwrap().push((sent, fate));
    }

    pub fn all(&self) -> Vec<(Sent, Fate)> {
        self.all.lock().unwrap().clone()
    }
}

impl fmt::Display for Fates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all.lock().unwrap();
        let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (sent, fate) in all.iter() {
            *kinds.entry((fate.name(), sent.kind)).or_default() += 1;
        }
        writeln!(
            f,
            "{} requests; {} went over another connection, since they provably never left",
            all.len(),
            self.again.load(Ordering::Relaxed)
        )?;
        for ((fate, kind), count) in kinds {
            writeln!(f, "  {fate:<10} {kind:<24} {count}")?;
        }
        let failed = all.iter().filter(|(_, fate)| !matches!(fate, Fate::Right | Fate::ToldToGo));
        for (sent, fate) in failed.take(SHOWN) {
            writeln!(f, "  {:>8} {}: {fate:?}", sent.id, sent.kind)?;
        }
        Ok(())
    }
}
