//! The signals that end or renew the gate.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the outside world asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Reload,
    Shutdown(&'static str),
    /// Start the program anew, for it to take over.
    Upgrade,
}

/// SIGHUP, SIGTERM, SIGINT and SIGUSR2, from the moment that this was made.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    upgrade: Signal,
}

impl Signals {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next wish.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.terminate.recv() => Wish::Shutdown("SIGTERM"),
            _ = self.interrupt.recv() => Wish::Shutdown("SIGINT"),
            _ = self.upgrade.recv() => Wish::Upgrade,
        }
    }
}
