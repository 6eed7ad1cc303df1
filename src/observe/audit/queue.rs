//! The queue between those who put records down and the thread that writes them: bounded in records and bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Counters;
use super::sink::Sink;
use crate::clock;

/// Records that wait for the writer at a time.
pub const RECORDS_QUEUED_MAX: usize = 16_384;
/// Their bytes.
pub const BYTES_QUEUED_MAX: usize = 16 << 20;

/// A record, ready to be written.
#[derive(Debug)]
pub struct Line {
    pub kind: &'static str,
    pub refusal: bool,
    pub time: String,
    /// With the newline at its end.
    pub json: Vec<u8>,
}

/// What the writer is told beside the records. Orders go before records.
pub enum Order {
    Open(Box<Sink>),
    Reopen,
    /// Write these, which were queued when the order was given, then close.
    Close(VecDeque<Line>),
    /// The same, and the thread ends.
    End(VecDeque<Line>),
}

/// What the writer finds.
pub enum Work {
    Order(Order),
    Line(Line),
    /// The time that it wanted to wait has passed.
    Nothing,
}

pub struct Queue {
    state: Mutex<State>,
    work: Condvar,
    /// The writer has ended.
    end: Condvar,
    open: AtomicBool,
    counters: Counters,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    orders: VecDeque<Order>,
    /// The writer waits for work; waking it costs a system call that others need not pay.
    idle: bool,
    /// The writer has a record in its hands.
    busy: bool,
    failing: bool,
    ended: bool,
    /// Lost since the log last said that nothing is.
    lost: u64,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({})", self.lock().lines.len())
    }
}

impl Queue {
    pub fn new(counters: Counters) -> Self {
        let (state, work, end) = (Mutex::default(), Condvar::new(), Condvar::new());
        Self { state, work, end, open: AtomicBool::new(false), counters }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether records have a place to go to.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub fn push(&self, line: Line) {
        let mut state = self.lock();
        let full = state.lines.len() >= RECORDS_QUEUED_MAX || state.bytes + line.json.len() > BYTES_QUEUED_MAX;
        if full || state.ended {
            let reason = if state.failing { "write_failed" } else { "queue_full" };
            drop(state);
            return self.lose(reason, 1);
        }
        state.bytes += line.json.len();
        state.lines.push_back(line);
        if state.idle {
            state.idle = false;
            self.work.notify_one();
        }
    }

    /// Counts records that are lost, and says so in the log if that is news.
    pub fn lose(&self, reason: &'static str, count: u64) {
        if count == 0 {
            return;
        }
        if let Ok(counter) = self.counters.lost.get_metric_with_label_values(&[reason]) {
            counter.inc_by(count);
        }
        let mut state = self.lock();
        let news = state.lost == 0;
        state.lost += count;
        drop(state);
        if news {
            tracing::error!(target: "wicketgate::audit", reason, count, "audit records are being lost");
        }
    }

    /// Gives the writer an order.
    pub fn order(&self, mut order: Order) {
        let mut state = self.lock();
        match &mut order {
            Order::Open(_) => self.open.store(true, Ordering::Release),
            Order::Close(lines) | Order::End(lines) => {
                self.open.store(false, Ordering::Release);
                state.bytes = 0;
                lines.append(&mut state.lines);
            }
            Order::Reopen => {}
        }
        state.orders.push_back(order);
        state.idle = false;
        self.work.notify_one();
    }

    /// The next order; or the next record, if one is wanted; or nothing after this time.
    pub fn next(&self, wants_line: bool, patience: Option<Duration>) -> Work {
        let until = patience.map(|patience| clock::instant_now() + patience);
        let mut state = self.lock();
        loop {
            if let Some(order) = state.orders.pop_front() {
                state.busy = true;
                return Work::Order(order);
            }
            if let Some(line) = if wants_line { state.lines.pop_front() } else { None } {
                state.bytes -= line.json.len();
                state.busy = true;
                return Work::Line(line);
            }
            let left = until.map(|until| until.saturating_duration_since(clock::instant_now()));
            if left == Some(Duration::ZERO) {
                return Work::Nothing;
            }
            // Who waits with a record in its hands wants its time, not more records.
            state.idle = wants_line;
            state = match left {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            state.idle = false;
        }
    }

    /// The writer's hands are empty.
    pub fn done(&self) {
        let mut state = self.lock();
        state.busy = false;
        let lost = if state.lines.is_empty() { std::mem::take(&mut state.lost) } else { 0 };
        drop(state);
        if lost > 0 {
            tracing::warn!(target: "wicketgate::audit", lost, "audit records are kept again");
        }
    }

    /// The place is closed: what was lost before it is nobody's news any more.
    pub fn closed(&self) {
        let mut state = self.lock();
        (state.busy, state.lost) = (false, 0);
    }

    pub fn written(&self, kind: &'static str) {
        if let Ok(counter) = self.counters.written.get_metric_with_label_values(&[kind]) {
            counter.inc();
        }
    }

    pub fn set_failing(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// Notes that the writer has ended.
    pub fn set_ended(&self) {
        self.lock().ended = true;
        self.end.notify_all();
    }

    /// Whether there is nothing to wait for: all is written, or the place fails and no order leads to another.
    pub fn is_settled(&self) -> bool {
        let state = self.lock();
        let idle = !state.busy && state.lines.is_empty();
        state.ended || (state.orders.is_empty() && (idle || state.failing))
    }

    /// Ends the writer. What it has not written within this time is counted as lost.
    pub fn end(&self, patience: Duration) {
        self.order(Order::End(VecDeque::new()));
        let state = self.lock();
        let waited = self.end.wait_timeout_while(state, patience, |state| !state.ended);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let ended = std::mem::replace(&mut state.ended, true);
        let ordered = |order: &Order| if let Order::Close(lines) | Order::End(lines) = order { lines.len() } else { 0 };
        let left = (state.orders.iter().map(ordered).sum::<usize>() + state.lines.len()) as u64 + u64::from(state.busy);
        drop(state);
        if !ended {
            self.lose("shutdown", left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    fn line(bytes: usize) -> Line {
        Line { kind: "access", refusal: false, time: String::new(), json: vec![b'x'; bytes] }
    }

    fn taken(queue: &Queue) -> usize {
        queue.order(Order::Close(VecDeque::new()));
        match queue.next(true, None) {
            Work::Order(Order::Close(lines)) => lines.len(),
            _ => 0,
        }
    }

    #[test]
    fn the_queue_is_bounded_in_records_and_in_bytes() {
        let counters = Metrics::new().unwrap().audit_counters();
        let (queue, lost) = (Queue::new(counters.clone()), counters.lost);
        for _ in 0..RECORDS_QUEUED_MAX + 3 {
            queue.push(line(10));
        }
        assert_eq!(lost.with_label_values(&["queue_full"]).get(), 3);
        assert_eq!(taken(&queue), RECORDS_QUEUED_MAX);

        queue.set_failing(true);
        for _ in 0..3 {
            queue.push(line(BYTES_QUEUED_MAX / 2));
        }
        assert_eq!(lost.with_label_values(&["write_failed"]).get(), 1);
        assert_eq!(taken(&queue), 2);
    }

    #[test]
    fn an_order_goes_before_records_and_a_writer_that_tries_again_gets_no_second_record() {
        let queue = Queue::new(Metrics::new().unwrap().audit_counters());
        queue.push(line(1));
        queue.order(Order::Reopen);
        assert!(matches!(queue.next(true, None), Work::Order(Order::Reopen)));
        assert!(matches!(queue.next(false, Some(Duration::from_millis(1))), Work::Nothing));
        assert!(matches!(queue.next(true, None), Work::Line(_)));
    }
}
