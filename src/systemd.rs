//! What systemd is told, if it asked to be (`Type=notify`): ready, reloading, going down, and which process is the main one.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::sleep;

/// Clients are served.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Another process is the service from here on. Only the main one may say so.
pub fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Says that it is alive, for as long as systemd wants to hear it and the runtime runs.
pub async fn keep_alive() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    loop {
        tell(&[NotifyState::Watchdog]);
        sleep(interval.div_f64(2.0).max(Duration::from_millis(1))).await;
    }
}

/// It may have gone deaf, and nothing here depends on it.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(target: "wicketgate::systemd", %error, "systemd cannot be told");
    }
}
