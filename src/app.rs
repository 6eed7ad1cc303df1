//! Assembly: the one file that knows all parts. It starts them, puts a changed configuration into force, and ends them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::access::Snapshot;
use crate::clock;
use crate::config::ConfigErrors;
use crate::keys::KeyStore;
use crate::observe::{Admin, LogHandle, Metrics, Observer, ReloadAudit};
use crate::policy::{Listen, Policy, changes};
use crate::proxy::{Gate, Listeners};
use crate::reload::{Loaded, Reading, Source};
use crate::shutdown::{Signals, Wish};

/// How long a changed content must look the same before it is taken, at least; a reload interval if that is longer.
const SETTLE_MIN: Duration = Duration::from_millis(150);

/// How often it is asked, at the end, whether the audit trail is written.
const AUDIT_LOOK: Duration = Duration::from_millis(5);

/// Why the gate does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Internal(String),
}

/// A running gate.
pub struct App {
    gate: Arc<Gate>,
    listeners: Listeners,
    admin: Admin,
    admin_wanted: SocketAddr,
    source: Source,
    files: Vec<PathBuf>,
    seen: [u8; 32],
    log: Option<Arc<LogHandle>>,
    keys_task: AbortHandle,
}

impl Drop for App {
    fn drop(&mut self) {
        self.keys_task.abort();
    }
}

impl App {
    /// Starts everything: after this returns, clients are served.
    pub async fn start(source: Source, loaded: Loaded, log: Option<Arc<LogHandle>>) -> Result<Self, StartError> {
        let Loaded { policy, files, seen } = loaded;
        let metrics = Metrics::new().map_err(|error| StartError::Internal(error.to_string()))?;
        if let Some(log) = &log {
            metrics.watch_log(log.counter());
        }
        for warning in &policy.warnings {
            tracing::warn!(target: "wicketgate::policy", warning, "allowed, but know it");
        }
        let (connections, admin_wanted) = (policy.limits.connections, policy.admin);
        let gate = Gate::new(policy, KeyStore::default(), Arc::new(Observer::new(metrics))).map_err(StartError::Unavailable)?;
        let mut listeners = Listeners::new(gate.clone(), connections);
        let admin = Admin::start(admin_wanted, gate.clone()).await;
        let admin = admin.map_err(|error| StartError::Unavailable(format!("admin {admin_wanted}: {error}")))?;
        let snapshot = gate.snapshot();
        let prepared = listeners.prepare(&snapshot.policy).map_err(StartError::Unavailable)?;
        listeners.apply(&snapshot.policy, prepared);
        gate.health.set_listening();
        gate.observer.metrics.last_reload_successful.set(1);
        gate.observer.metrics.last_reload_seconds.set(clock::unix_now() as f64);
        let keys_task = tokio::spawn(gate.clone().follow_keys()).abort_handle();
        let app = Self { gate, listeners, admin, admin_wanted, source, files, seen, log, keys_task };
        let record = ReloadAudit { cause: "start", decision: "taken", config_hash: &snapshot.policy.hash, changes: None };
        app.gate.observer.audit.write(&record, clock::wall_now());
        let listening: Vec<String> = app.addresses().iter().map(Listen::to_string).collect();
        tracing::info!(target: "wicketgate::app", version = env!("CARGO_PKG_VERSION"), listen = listening.join(" "), admin = %app.admin_address(), config = %app.source.path().display(), config_hash = snapshot.policy.hash, "serving");
        Ok(app)
    }

    /// Where clients connect, with ports that were chosen.
    pub fn addresses(&self) -> Vec<Listen> {
        self.listeners.addresses()
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.gate.snapshot()
    }

    /// Serves until a signal asks for the end; reloads on SIGHUP and when the content of the configuration changes.
    pub async fn run(mut self, mut signals: Signals) {
        loop {
            let interval = self.gate.snapshot().policy.reload_interval;
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Reload => self.reload("SIGHUP").await,
                    Wish::Shutdown(signal) => {
                        tokio::select! {
                            () = self.shutdown(signal) => {}
                            () = second(&mut signals) => tracing::warn!(target: "wicketgate::app", "asked twice: going down at once"),
                        }
                        return;
                    }
                },
                () = sleep(interval) => self.reload_if_changed().await,
            }
        }
    }

    /// Reloads if the content changed and has settled.
    pub async fn reload_if_changed(&mut self) {
        let now = self.source.look(&self.files);
        if now == self.seen {
            return;
        }
        sleep(SETTLE_MIN.max(self.gate.snapshot().policy.reload_interval)).await;
        if self.source.look(&self.files) == now {
            self.reload("content changed").await;
        }
    }

    /// Reads the configuration and puts it into force, or keeps the old one and says why.
    pub async fn reload(&mut self, cause: &str) {
        // Also when the configuration is refused: logrotate asks so, too.
        self.gate.observer.audit.reopen();
        let Reading { result, files, seen } = self.source.read();
        (self.files, self.seen) = (files, seen);
        let result = match result {
            Ok(policy) => self.take(policy).await,
            Err(faults) => Err(faults.to_string()),
        };
        self.audit_reload(cause, &result);
        let metrics = &self.gate.observer.metrics;
        metrics.last_reload_successful.set(i64::from(result.is_ok()));
        let label = if result.is_ok() { "taken" } else { "refused" };
        metrics.reloads.with_label_values(&[label]).inc();
        match &result {
            Ok(changes) => {
                metrics.last_reload_seconds.set(clock::unix_now() as f64);
                let hash = &self.gate.snapshot().policy.hash;
                tracing::info!(target: "wicketgate::reload", cause, config_hash = hash, changes, "configuration reloaded");
            }
            Err(faults) => {
                tracing::error!(target: "wicketgate::reload", cause, faults, "configuration refused, the old one stays in force");
            }
        }
        self.gate.health.note_reload(result);
    }

    /// Records a reload, also the one that ends the records.
    fn audit_reload(&self, cause: &str, result: &Result<String, String>) {
        let (policy, audit) = (self.gate.snapshot().policy.clone(), &self.gate.observer.audit);
        let decision = if result.is_ok() { "taken" } else { "refused" };
        let record = ReloadAudit { cause, decision, config_hash: &policy.hash, changes: result.as_deref().ok() };
        audit.write(&record, clock::wall_now());
        if policy.audit.is_none() {
            audit.turn_off();
        }
    }

    /// Returns when the audit trail has nothing more to write. Asked for again and again, since whoever is told to go down
    /// at once must not wait for a thread that waits.
    async fn audit_settled(&self) {
        while !self.gate.observer.audit.is_settled() {
            sleep(AUDIT_LOOK).await;
        }
    }

    /// Puts a policy into force, or says why it cannot be and changes nothing.
    async fn take(&mut self, policy: Policy) -> Result<String, String> {
        let prepared = self.listeners.prepare(&policy)?;
        let admin = match policy.admin == self.admin_wanted {
            true => None,
            false => Some(Admin::start(policy.admin, self.gate.clone()).await.map_err(|error| format!("admin {}: {error}", policy.admin))?),
        };
        let old = self.gate.snapshot().policy.clone();
        let summary = changes(&old, &policy);
        for warning in policy.warnings.iter().filter(|warning| !old.warnings.contains(warning)) {
            tracing::warn!(target: "wicketgate::policy", warning, "allowed, but know it");
        }
        let (level, admin_wanted) = (policy.log.level, policy.admin);
        self.gate.adopt(policy)?;
        // From here on nothing can fail.
        self.listeners.apply(&self.gate.snapshot().policy, prepared);
        if let Some(admin) = admin {
            self.admin = admin;
            self.admin_wanted = admin_wanted;
        }
        if let Some(log) = &self.log {
            log.set_level(level);
        }
        Ok(summary)
    }

    /// Goes down without losing a request: unready first, then no new connections, then until all are closed or the
    /// deadline has passed.
    pub async fn shutdown(&mut self, cause: &str) {
        let policy = self.gate.snapshot().policy.clone();
        self.gate.health.set_draining();
        tracing::info!(target: "wicketgate::app", cause, delay = ?policy.shutdown_delay, deadline = ?policy.shutdown_deadline, "going down");
        sleep(policy.shutdown_delay).await;
        self.listeners.drain();
        let begun = clock::instant_now();
        let closed = self.listeners.all_closed();
        let in_time = timeout(policy.shutdown_deadline, closed).await.is_ok();
        let left = policy.shutdown_deadline.saturating_sub(clock::instant_now().duration_since(begun));
        let _ = timeout(left, self.audit_settled()).await;
        self.gate.closing_tunnels.send_replace(true);
        tracing::info!(target: "wicketgate::app", in_time, took = ?clock::instant_now().duration_since(begun), "down");
    }
}

async fn second(signals: &mut Signals) {
    while signals.next().await == Wish::Reload {}
}
