//! Assembly: the one file that knows all parts. It starts them, puts a changed configuration into force, and ends them.

mod succession;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::access::Snapshot;
use crate::clock;
use crate::config::ConfigErrors;
use crate::handover::Door;
use crate::keys::KeyStore;
use crate::observe::{Admin, LogHandle, Metrics, Observer, ReloadAudit};
use crate::policy::{Listen, Policy, changes};
use crate::proxy::{Gate, Inherited, Listeners};
use crate::reload::{Loaded, Reading, Source};
use crate::shutdown::{Signals, Wish};
use crate::systemd;
use succession::Succession;

/// How long a changed content must look the same before it is taken, at least; a reload interval if that is longer.
const SETTLE_MIN: Duration = Duration::from_millis(150);

/// How often it is asked, at the end, whether the audit trail is written.
const AUDIT_LOOK: Duration = Duration::from_millis(5);

/// How long, after the deadline, what is told to end may take to do so.
const END_GRACE: Duration = Duration::from_secs(1);

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
    /// `None` once another process has it.
    admin: Option<Admin>,
    admin_wanted: SocketAddr,
    admin_address: SocketAddr,
    /// Where the next process finds this one.
    door: Option<Door>,
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
        let mut succession = Succession::find(&policy).await?;
        let gate = Gate::new(policy, KeyStore::default(), Arc::new(Observer::new(metrics))).map_err(StartError::Unavailable)?;
        let mut listeners = Listeners::new(gate.clone(), connections);
        let snapshot = gate.snapshot();
        let (mut inherited, admin_socket) = succession.inherit(&gate, &snapshot.policy);
        let start_admin = async |socket| {
            let admin = Admin::start(admin_wanted, socket, gate.clone()).await;
            admin.map_err(|error| StartError::Unavailable(format!("admin {admin_wanted}: {error}")))
        };
        listeners.take_passed(&mut inherited);
        // What may fail comes first; what is inherited is left alone until the other process lets it go.
        let own_admin = if admin_socket.is_none() { Some(start_admin(None).await?) } else { None };
        let prepared = listeners.prepare(&snapshot.policy, &mut inherited).map_err(StartError::Unavailable)?;
        let mut door = succession.door(&snapshot.policy)?;
        succession.go(&gate).await?;
        listeners.apply(&snapshot.policy, prepared);
        gate.health.set_listening();
        let admin = match own_admin {
            Some(admin) => admin,
            None => start_admin(admin_socket).await?,
        };
        succession.finish(&gate).await?;
        if let Some(door) = &mut door {
            door.own();
        }
        gate.observer.metrics.last_reload_successful.set(1);
        gate.observer.metrics.last_reload_seconds.set(clock::unix_now() as f64);
        let keys_task = tokio::spawn(gate.clone().follow_keys()).abort_handle();
        let admin_address = admin.address();
        let admin = Some(admin);
        let app = Self { gate, listeners, admin, admin_wanted, admin_address, door, source, files, seen, log, keys_task };
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
        self.admin_address
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.gate.snapshot()
    }

    /// Serves until a signal asks for the end; reloads on SIGHUP and when the content of the configuration changes.
    pub async fn run(mut self, signals: Signals) {
        systemd::ready();
        tokio::spawn(systemd::keep_alive());
        self.serve(signals).await;
        // Others may hold the gate a moment longer, the admin thread among them; the process does not wait for them.
        self.gate.observer.audit.end();
    }

    async fn serve(&mut self, mut signals: Signals) {
        loop {
            let interval = self.gate.snapshot().policy.reload_interval;
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Reload => self.reload("SIGHUP").await,
                    Wish::Upgrade => self.start_anew(),
                    Wish::Shutdown(signal) => return self.end(signal, &mut signals).await,
                },
                link = Self::knock(self.door.as_ref()) => {
                    if self.succeed(link, &mut signals).await {
                        return;
                    }
                }
                () = sleep(interval) => self.reload_if_changed().await,
            }
        }
    }

    /// Goes down, at once if it is asked for a second time.
    async fn end(&mut self, signal: &'static str, signals: &mut Signals) {
        tokio::select! {
            () = self.shutdown(signal) => {}
            () = asked(signals, 1) => tracing::warn!(target: "wicketgate::app", "asked twice: going down at once"),
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
        systemd::reloading();
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
        systemd::ready();
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
        let prepared = self.listeners.prepare(&policy, &mut Inherited::default())?;
        let door = match policy.upgrade.as_ref().filter(|upgrade| self.door.as_ref().is_none_or(|door| door.path() != upgrade.socket)) {
            Some(upgrade) => Some(Door::bind(&upgrade.socket)?),
            None => None,
        };
        let admin = match policy.admin == self.admin_wanted {
            true => None,
            false => Some(
                Admin::start(policy.admin, None, self.gate.clone()).await.map_err(|error| format!("admin {}: {error}", policy.admin))?,
            ),
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
            self.admin_address = admin.address();
            self.admin = Some(admin);
            self.admin_wanted = admin_wanted;
        }
        if let Some(mut door) = door {
            door.own();
            self.door = Some(door);
        } else if self.gate.snapshot().policy.upgrade.is_none() {
            self.door = None;
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
        systemd::stopping();
        tracing::info!(target: "wicketgate::app", cause, delay = ?policy.shutdown_delay, deadline = ?policy.shutdown_deadline, "going down");
        // Whoever was told before has looked away since.
        let told = self.gate.health.unready_since().map_or(Duration::ZERO, |since| clock::instant_now().duration_since(since));
        sleep(policy.shutdown_delay.saturating_sub(told)).await;
        self.listeners.drain();
        self.wait_for_the_last().await;
    }

    /// Waits until all connections are closed or the deadline has passed.
    async fn wait_for_the_last(&self) {
        let policy = self.gate.snapshot().policy.clone();
        let begun = clock::instant_now();
        let closed = self.listeners.all_closed();
        let in_time = timeout(policy.shutdown_deadline, closed).await.is_ok();
        if !in_time {
            self.end_the_rest().await;
        }
        let left = policy.shutdown_deadline.saturating_sub(clock::instant_now().duration_since(begun));
        let _ = timeout(left.max(AUDIT_LOOK), self.audit_settled()).await;
        tracing::info!(target: "wicketgate::app", in_time, took = ?clock::instant_now().duration_since(begun), "down");
    }
}

impl App {
    /// The deadline has passed: streams end as their protocol has it, who waits for an answer is told, and what then is left is
    /// cut.
    async fn end_the_rest(&self) {
        let metrics = &self.gate.observer.metrics;
        let (connections, streams) = (metrics.connections_open.get(), metrics.limits.tunnels_open.get());
        let requests = metrics.requests_in_flight.get() - streams;
        self.gate.closing_tunnels.send_replace(true);
        let _ = timeout(END_GRACE, self.listeners.all_closed()).await;
        let cut = metrics.connections_open.get();
        tracing::warn!(target: "wicketgate::app", connections, requests, streams, cut, "the deadline has passed: what was left was ended");
    }
}

/// Returns when the end was asked for so many times.
async fn asked(signals: &mut Signals, times: usize) {
    for _ in 0..times {
        while !matches!(signals.next().await, Wish::Shutdown(_)) {}
    }
}
