//! Key sets at run time: one task an issuer fetches in the background, and an unknown key id asks it to hurry.
//!
//! All requests that wait for one issuer share one fetch. A store outlives a reload, so that an issuer whose settings
//! stay keeps its keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::cache::{Attempt, CacheRules};
use super::fetch::{FetchLimits, Fetched, Fetcher};
use super::jwk::KeySet;
use crate::clock;
use crate::policy::{Issuer, KeySource, Policy};

/// Requests that may wait for one issuer's fetch; more are answered with what is known.
const WAITERS_MAX: usize = 256;

/// What is known of one issuer's keys.
#[derive(Debug, Clone, Default)]
pub struct KeyState {
    /// The keys that count now; `None` when there are none, or the last good ones are too old.
    pub keys: Option<Arc<KeySet>>,
    /// Whether the last attempt to fetch failed.
    pub unreachable: bool,
    pub last_success: Option<Instant>,
    pub failures_total: u64,
}

/// The keys of every issuer of a policy, in its order.
#[derive(Debug, Clone, Default)]
pub struct Keyring(pub Vec<KeyState>);

#[derive(Clone, PartialEq, Eq)]
struct Settings {
    issuer: String,
    source: KeySource,
    allow_http: bool,
    rules: CacheRules,
    limits: FetchLimits,
}

struct Entry {
    settings: Settings,
    state: watch::Receiver<KeyState>,
    waiters: mpsc::Sender<Question>,
    task: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Issuers' key sets that are not in use yet.
pub struct PreparedKeys(HashMap<String, Arc<Entry>>);

/// All issuers' key sets.
#[derive(Clone)]
pub struct KeyStore {
    entries: Arc<Mutex<HashMap<String, Arc<Entry>>>>,
    changed: watch::Sender<u64>,
    /// Hashes key ids, with a seed that nobody outside knows.
    kids: RandomState,
}

impl Default for KeyStore {
    fn default() -> Self {
        Self { entries: Arc::default(), changed: watch::Sender::new(0), kids: RandomState::new() }
    }
}

impl KeyStore {
    /// Starts fetching for the issuers of a policy. Issuers that it no longer has are forgotten; one whose settings
    /// changed starts anew and keeps its keys only if they come from the same place.
    pub fn adopt(&self, policy: &Policy) -> Result<(), String> {
        self.turn_to(self.prepare(policy)?);
        Ok(())
    }

    /// The same as far as it can fail. What is in force stays so.
    pub fn prepare(&self, policy: &Policy) -> Result<PreparedKeys, String> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::new();
        for issuer in &policy.issuers {
            let settings = Settings::new(policy, issuer);
            let entry = match entries.get(&issuer.url) {
                Some(known) if known.settings == settings => known.clone(),
                Some(known) if known.settings.same_keys(&settings) => Arc::new(self.start(settings, known.state.borrow().clone())?),
                _ => Arc::new(self.start(settings, KeyState::default())?),
            };
            next.insert(issuer.url.clone(), entry);
        }
        Ok(PreparedKeys(next))
    }

    /// Takes what was prepared into use.
    pub fn turn_to(&self, prepared: PreparedKeys) {
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = prepared.0;
    }

    fn start(&self, settings: Settings, state: KeyState) -> Result<Entry, String> {
        let mut fetcher = Fetcher::new(&settings.issuer, settings.source.clone(), settings.allow_http, settings.limits)?;
        let mut state = state;
        if let KeySource::File(bytes) = &settings.source {
            let keys = KeySet::parse(bytes, settings.limits.key_count_max).map_err(|reason| format!("{}: {reason}", settings.issuer))?;
            note_left_out(&settings.issuer, &keys);
            state = KeyState { keys: Some(Arc::new(keys)), last_success: Some(clock::instant_now()), ..KeyState::default() };
        }
        let (publish, receiver) = watch::channel(state);
        let (waiters, mut asked) = mpsc::channel(WAITERS_MAX);
        let (rules, issuer, changed) = (settings.rules, settings.issuer.clone(), self.changed.clone());
        let from_file = matches!(settings.source, KeySource::File(_));
        let task = tokio::spawn(async move {
            match from_file {
                true => answer_all(&mut asked).await,
                false => keep_fresh(&mut fetcher, rules, &issuer, &publish, &changed, &mut asked).await,
            }
        });
        Ok(Entry { settings, state: receiver, waiters, task: task.abort_handle() })
    }

    /// What is known now, in the order of the policy's issuers.
    pub fn keyring(&self, policy: &Policy) -> Keyring {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let state = |issuer: &Issuer| entries.get(&issuer.url).map(|entry| entry.state.borrow().clone()).unwrap_or_default();
        Keyring(policy.issuers.iter().map(state).collect())
    }

    /// Changes whenever some issuer's state changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Asks for an issuer's keys once more. Within a cooldown a patient caller waits for the next fetch that may be,
    /// `patience` at most; an impatient one is told at once that it is too early.
    pub async fn refresh(&self, issuer: &str, kid: &str, patience: Option<Duration>) -> Checked {
        let waiters = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.get(issuer).map(|entry| entry.waiters.clone())
        };
        let (done, answer) = oneshot::channel();
        let asked = waiters.is_some_and(|waiters| {
            waiters.try_send(Question { done, patient: patience.is_some(), kid: RandomState::hash_one(&self.kids, kid) }).is_ok()
        });
        if !asked {
            return Checked::TooEarly;
        }
        match patience {
            None => answer.await.unwrap_or(Checked::TooEarly),
            Some(patience) => timeout(patience, answer).await.map_or(Checked::TooEarly, |answer| answer.unwrap_or(Checked::TooEarly)),
        }
    }
}

/// What came of asking for an issuer's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// A fetch that began after the question has ended: what is unknown now is unknown to the issuer, or it is away.
    Now,
    /// A fetch that had begun before the question has ended.
    Before,
    /// No fetch was allowed in time.
    TooEarly,
}

/// Somebody waits for keys.
struct Question {
    done: oneshot::Sender<Checked>,
    patient: bool,
    /// A hash of the key id that is unknown.
    kid: u64,
}

/// Key ids that the last fetch did not bring, so that one who comes with them again need not wait for the next.
#[derive(Default)]
struct Absent(Vec<u64>);

impl Absent {
    const COUNT_MAX: usize = 256;

    fn contains(&self, kid: u64) -> bool {
        self.0.contains(&kid)
    }

    /// After a fetch: those whose waiting it ends did not find their key in the set before, and ask again if it is not
    /// in this one either.
    fn replace(&mut self, kids: impl Iterator<Item = u64>) {
        self.0.clear();
        self.0.extend(kids.take(Self::COUNT_MAX));
    }
}

impl Settings {
    fn new(policy: &Policy, issuer: &Issuer) -> Self {
        let keys = &policy.keys;
        Self {
            issuer: issuer.url.clone(),
            source: issuer.source.clone(),
            allow_http: issuer.allow_http,
            rules: CacheRules { refresh: keys.refresh.0, cooldown: keys.cooldown.0, max_stale: keys.max_stale.0 },
            limits: FetchLimits {
                timeout: keys.timeout.0,
                body_bytes_max: policy.limits.key_set_bytes,
                key_count_max: policy.limits.key_count,
            },
        }
    }

    /// Whether the keys come from the same place. How long and how often they are asked for says nothing against the
    /// ones that are there.
    fn same_keys(&self, other: &Self) -> bool {
        self.source == other.source && self.allow_http == other.allow_http
    }
}

async fn answer_all(asked: &mut mpsc::Receiver<Question>) {
    while let Some(question) = asked.recv().await {
        let _ = question.done.send(Checked::Now);
    }
}

/// The life of one issuer's keys.
async fn keep_fresh(
    fetcher: &mut Fetcher,
    rules: CacheRules,
    issuer: &str,
    publish: &watch::Sender<KeyState>,
    changed: &watch::Sender<u64>,
    asked: &mut mpsc::Receiver<Question>,
) {
    let mut attempt = Attempt::default();
    if let Some(last) = publish.borrow().last_success {
        attempt.succeeded(last);
    }
    let mut scheduled = true;
    let mut due = clock::instant_now();
    let mut waiting: Vec<Question> = Vec::new();
    let mut absent = Absent::default();
    loop {
        let outcome = fetcher.fetch(scheduled).await;
        note(outcome, &mut attempt, &rules, issuer, publish);
        // A forced fetch may bring the scheduled one nearer, never put it off: it alone asks for the metadata anew.
        let next = clock::instant_now() + attempt.wait(&rules, jitter());
        due = if scheduled { next } else { due.min(next) };
        changed.send_modify(|count| *count += 1);
        // Whoever's key this fetch brought does not come again with it.
        absent.replace(waiting.iter().map(|question| question.kid).filter(|_| attempt.failures == 0));
        for question in waiting.drain(..) {
            let _ = question.done.send(Checked::Now);
        }
        while let Ok(question) = asked.try_recv() {
            let _ = question.done.send(Checked::Before);
        }
        scheduled = wait(due, &mut attempt, &rules, asked, &mut waiting, &absent).await;
    }
}

/// Waits until it is time to fetch: `true` for the scheduled time, `false` when someone met an unknown key and it is
/// allowed to ask. Who comes too early waits for that moment, so that a made-up key id cannot make the next good token
/// look bad; or is told so, if it would rather not wait.
async fn wait(
    due: Instant,
    attempt: &mut Attempt,
    rules: &CacheRules,
    asked: &mut mpsc::Receiver<Question>,
    waiting: &mut Vec<Question>,
    absent: &Absent,
) -> bool {
    let scheduled = sleep_until(due.into());
    tokio::pin!(scheduled);
    loop {
        let cooled = sleep(attempt.until_force(clock::instant_now(), rules));
        tokio::select! {
            () = &mut scheduled => return true,
            () = cooled, if !waiting.is_empty() => {
                waiting.retain(|question| !question.done.is_closed());
                if !waiting.is_empty() && attempt.may_force(clock::instant_now(), rules) {
                    return false;
                }
            }
            Some(question) = asked.recv() => {
                let allowed = attempt.until_force(clock::instant_now(), rules).is_zero();
                if !allowed && absent.contains(question.kid) {
                    let _ = question.done.send(Checked::Now);
                    continue;
                }
                if !allowed && (!question.patient || waiting.len() >= WAITERS_MAX) {
                    let _ = question.done.send(Checked::TooEarly);
                    continue;
                }
                waiting.push(question);
                if attempt.may_force(clock::instant_now(), rules) {
                    return false;
                }
            }
        }
    }
}

fn note(outcome: Result<Fetched, String>, attempt: &mut Attempt, rules: &CacheRules, issuer: &str, publish: &watch::Sender<KeyState>) {
    let now = clock::instant_now();
    match outcome {
        Ok(fetched) => {
            attempt.succeeded(now);
            publish.send_modify(|state| {
                state.unreachable = false;
                state.last_success = Some(now);
                if let Fetched::Keys(keys) = fetched {
                    let new = state.keys.as_ref().is_none_or(|old| old.epoch != keys.epoch);
                    if new {
                        tracing::info!(target: "wicketgate::keys", issuer, keys = keys.len(), "key set fetched");
                        note_left_out(issuer, &keys);
                        state.keys = Some(Arc::new(keys));
                    }
                }
            });
        }
        Err(reason) => {
            attempt.failed();
            let usable = attempt.is_usable(now, rules);
            tracing::warn!(target: "wicketgate::keys", issuer, reason, failures = attempt.failures, usable, "key set not fetched");
            publish.send_modify(|state| {
                state.unreachable = true;
                state.failures_total += 1;
                if !usable {
                    state.keys = None;
                }
            });
        }
    }
}

fn note_left_out(issuer: &str, keys: &KeySet) {
    if !keys.left_out.is_empty() {
        tracing::warn!(target: "wicketgate::keys", issuer, left_out = keys.left_out.join("; "), "keys left out");
    }
}

/// A number in `-1.0..=1.0` from the hasher's random seed.
fn jitter() -> f64 {
    let random = RandomState::new().hash_one(0u8);
    (random % 2001) as f64 / 1000.0 - 1.0
}
