//! The connection that all calls share: made, watched and made anew in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Away;
use crate::clock;
use crate::policy::Redis;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a connection on which all is well is looked at: a server that went without a word is found by this.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// The pause after a failure; it doubles up to the longest, so that a server that comes and goes is not asked, and the
/// log not filled, all the time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that held this long was a good one.
const STEADY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Connection {
    name: String,
    /// Written to see that the server takes writes: a replica or a full one answers, but is of no use.
    probe_key: String,
    timeout: Duration,
    current: ArcSwapOption<MultiplexedConnection>,
    /// What the log has: each is said once a change.
    said_up: AtomicBool,
    said_away: AtomicBool,
    failures: AtomicU64,
    failed: Notify,
}

impl Connection {
    /// Failures are counted on from those of the connection before.
    pub fn new(settings: &Redis, failures: u64) -> Self {
        Self {
            name: settings.shown.clone(),
            probe_key: format!("{}alive", settings.prefix),
            timeout: settings.timeout,
            current: ArcSwapOption::empty(),
            said_up: AtomicBool::new(false),
            said_away: AtomicBool::new(false),
            failures: AtomicU64::new(failures),
            failed: Notify::new(),
        }
    }

    pub fn is_up(&self) -> bool {
        self.current.load().is_some()
    }

    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Calls the server if it is there. Whoever finds that it is not spares all others from waiting for it.
    pub async fn call<T>(&self, work: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>) -> Result<T, Away> {
        let Some(current) = self.current.load_full() else { return Err(Away) };
        let mut connection = MultiplexedConnection::clone(&current);
        let why = match timeout(self.timeout, work(&mut connection)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => reason(&error),
            Err(_) => format!("no answer within {:?}", self.timeout),
        };
        self.failures.fetch_add(1, Ordering::Relaxed);
        // A connection that was made meanwhile is not this call's to judge.
        let before = self.current.compare_and_swap(&current, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &current)) {
            self.note_away(&why);
            self.failed.notify_one();
        }
        Err(Away)
    }

    /// Keeps a connection for as long as it is polled.
    pub async fn keep(self: Arc<Self>, client: Client) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.connect(&client).await {
                Err(why) => self.note_away(&why),
                Ok(connection) => {
                    let since = clock::instant_now();
                    self.current.store(Some(Arc::new(connection.clone())));
                    self.note_up();
                    self.watch(connection).await;
                    self.current.store(None);
                    if clock::instant_now().duration_since(since) >= STEADY {
                        pause = PAUSE_MIN;
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Returns when the connection is of no use any more.
    async fn watch(&self, mut connection: MultiplexedConnection) {
        loop {
            tokio::select! {
                () = self.failed.notified() => return,
                () = sleep(PROBE_INTERVAL) => {}
            }
            if let Err(why) = self.probe(&mut connection).await {
                return self.note_away(&why);
            }
        }
    }

    async fn connect(&self, client: &Client) -> Result<MultiplexedConnection, String> {
        // Each call brings its own time limit.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connected = timeout(CONNECT_TIMEOUT, connecting).await;
        let connected = connected.map_err(|_| format!("no connection within {CONNECT_TIMEOUT:?}"))?;
        let mut connection = connected.map_err(|error| reason(&error))?;
        self.probe(&mut connection).await?;
        Ok(connection)
    }

    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let mut set = redis::cmd("SET");
        set.arg(&self.probe_key).arg(1).arg("PX").arg(10_000);
        match timeout(self.timeout, set.exec_async(connection)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(reason(&error)),
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }

    fn note_up(&self) {
        self.said_away.store(false, Ordering::Relaxed);
        if !self.said_up.swap(true, Ordering::Relaxed) {
            tracing::info!(target: "wicketgate::state", redis = self.name, "shared state is there: limits hold over all instances");
        }
    }

    fn note_away(&self, why: &str) {
        self.said_up.store(false, Ordering::Relaxed);
        if !self.said_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "wicketgate::state", redis = self.name, why, "shared state is away: each instance goes on by itself");
        }
    }
}

/// What may be logged of an error: its kind and, of the server's own errors, their code. Never an address, a command
/// or a value.
pub(super) fn reason(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("the server said {code}"),
        None if error.is_connection_refusal() => "connection refused".to_owned(),
        None if error.is_connection_dropped() => "the connection broke off".to_owned(),
        None => error.category().to_owned(),
    }
}
