//! The thread that takes records from the queue to their place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Line, Order, Queue, Work};
use super::sink::{Sink, Trouble};

/// Between two attempts to write one record.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub struct Writer {
    queue: Arc<Queue>,
    sink: Option<Sink>,
    failing: bool,
}

impl Writer {
    pub fn new(queue: Arc<Queue>) -> Self {
        Self { queue, sink: None, failing: false }
    }

    pub fn run(mut self) {
        // A record that could not be written yet.
        let mut held: Option<Line> = None;
        loop {
            let patience = match (&held, &self.sink) {
                (Some(_), _) => Some(RETRY_PAUSE),
                (None, Some(sink)) => sink.rest(),
                (None, None) => None,
            };
            // Due also while records come without a pause.
            if patience == Some(Duration::ZERO) {
                self.sync();
                continue;
            }
            match self.queue.next(held.is_none() && self.sink.is_some(), patience) {
                Work::Line(line) => held = self.try_write(line),
                Work::Nothing => match held.take() {
                    Some(line) => held = self.try_write(line),
                    None => self.sync(),
                },
                Work::Order(order) => {
                    let end = matches!(order, Order::End(_));
                    match order {
                        Order::Open(sink) => {
                            self.close();
                            self.sink = Some(*sink);
                        }
                        Order::Reopen => self.reopen(),
                        Order::Close(lines) | Order::End(lines) => self.drain(held.take(), lines),
                    }
                    if end {
                        return self.queue.set_ended();
                    }
                    match held.take() {
                        Some(line) => held = self.try_write(line),
                        None => self.queue.done(),
                    }
                }
            }
        }
    }

    fn try_write(&mut self, line: Line) -> Option<Line> {
        let held = self.write(line);
        if held.is_none() {
            self.queue.done();
        }
        held
    }

    /// Writes a record, or gives it back if it may be tried again.
    fn write(&mut self, line: Line) -> Option<Line> {
        let Some(sink) = &mut self.sink else { return Some(line) };
        match sink.write(&line) {
            Ok(()) => {
                self.queue.written(line.kind);
                self.works();
            }
            Err(Trouble::Record) => self.queue.lose("too_long", 1),
            Err(Trouble::Place(error)) => {
                self.fails(&error);
                return Some(line);
            }
        }
        None
    }

    fn fails(&mut self, error: &std::io::Error) {
        if !self.failing {
            let to = self.sink.as_ref().map(|sink| sink.to().to_string());
            tracing::error!(target: "wicketgate::audit", to, %error, "audit records cannot be written; they wait and are tried again");
            self.failing = true;
            self.queue.set_failing(true);
        }
    }

    fn works(&mut self) {
        if self.failing {
            tracing::warn!(target: "wicketgate::audit", "audit records can be written again");
            self.failing = false;
            self.queue.set_failing(false);
        }
    }

    /// Writes what is left, once, and closes. What fails then is lost: there is nobody to try again.
    fn drain(&mut self, held: Option<Line>, mut lines: VecDeque<Line>) {
        if let Some(held) = held {
            lines.push_front(held);
        }
        while let Some(line) = lines.pop_front() {
            if self.write(line).is_some() {
                self.queue.lose("write_failed", 1 + lines.len() as u64);
                break;
            }
        }
        self.close();
        self.sink = None;
        self.queue.closed();
    }

    fn close(&mut self) {
        self.sync();
        self.failing = false;
        self.queue.set_failing(false);
    }

    fn reopen(&mut self) {
        if let Some(sink) = &mut self.sink
            && let Err(error) = sink.reopen()
        {
            let to = sink.to().to_string();
            tracing::error!(target: "wicketgate::audit", to, %error, "the audit trail cannot be opened anew; the old file stays in use");
        }
    }

    fn sync(&mut self) {
        if let Some(sink) = &mut self.sink
            && let Err(error) = sink.sync()
        {
            let to = sink.to().to_string();
            tracing::error!(target: "wicketgate::audit", to, %error, "audit records that were written may not outlive a power cut");
        }
    }
}
