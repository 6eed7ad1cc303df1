//! The signals that end or renew the gate.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the outside world asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Reload,
    Shutdown(&'static str),
}

/// SIGHUP, SIGTERM and SIGINT, from the moment that this was made.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next wish.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.terminate.recv() => Wish::Shutdown("SIGTERM"),
            _ = self.interrupt.recv() => Wish::Shutdown("SIGINT"),
        }
    }
}
