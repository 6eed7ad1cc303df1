//! The load: clients of every kind, each asking anew as soon as it was answered, for as long as a scenario lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::fates::{Fate, Fates, Sent};
use super::http1::Between;
use super::service::{Seen, pattern};
use super::way::{Doors, Protocol};
use super::{http1, http2};

/// The fewest requests in flight while something is done to the gate.
pub const IN_FLIGHT_MIN: usize = 500;
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
const PAUSE_AFTER_LOSS: Duration = Duration::from_millis(200);
const SAMPLE_EVERY: Duration = Duration::from_millis(5);

/// What the service may see, and clients must bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Every request once.
    Once,
    /// Requests that are safe to repeat perhaps twice.
    Retried,
    /// The same, and answers that were under way when the service was killed are lost; so is the answer to a request that is
    /// not safe to repeat.
    KilledService,
}

pub struct Load {
    pub doors: Doors,
    pub fates: Fates,
    pub token: String,
    /// Not where the service speaks HTTP/2 alone.
    sockets: bool,
    next: AtomicU64,
    over: AtomicBool,
}

/// What one request asks for, all of it made from its number.
#[derive(Debug, Clone)]
pub struct Question {
    pub id: u64,
    pub post: bool,
    pub hold_ms: u64,
    pub length: usize,
}

impl Question {
    fn new(id: u64) -> Self {
        let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let hold_ms = [0, 50, 400, 600, 600, 800, 800, 1000][(mixed % 8) as usize];
        let length = [0, 20, 500, 4_000, 500, 20, 500, 70_000][(mixed / 8 % 8) as usize];
        Self { id, post: mixed / 64 % 5 < 2, hold_ms, length }
    }

    pub fn method(&self) -> &'static str {
        if self.post { "POST" } else { "GET" }
    }

    pub fn body(&self) -> Bytes {
        pattern(self.id, if self.post { self.length } else { 0 })
    }

    /// Whether an answer is the one to this question.
    pub fn judge(&self, status: u16, id: Option<&str>, body: &[u8]) -> Fate {
        if status != 200 {
            return Fate::Refused(format!("{status} {}", String::from_utf8_lossy(body)));
        }
        if id != Some(self.id.to_string().as_str()) {
            return Fate::Wrong(format!("the answer to {id:?}"));
        }
        match body == pattern(self.id, self.length) {
            true => Fate::Right,
            false => Fate::Wrong(format!("{} bytes instead of {}", body.len(), self.length)),
        }
    }
}

impl Load {
    pub fn new(doors: Doors, token: String, service: Protocol) -> Arc<Self> {
        let sockets = service == Protocol::Http1;
        Arc::new(Self { doors, fates: Fates::default(), token, sockets, next: AtomicU64::new(1), over: AtomicBool::new(false) })
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn question(&self) -> Question {
        Question::new(self.id())
    }

    /// Has a request's fate decided in bounded time, and notes it.
    pub async fn follow(&self, id: u64, kind: &'static str, once: bool, work: impl Future<Output = Fate>) {
        let _in_flight = self.fates.begin();
        let fate = timeout(REQUEST_TIME_MAX, work).await.unwrap_or(Fate::TimedOut);
        let good = matches!(fate, Fate::Right | Fate::ToldToGo);
        self.fates.note(Sent { id, kind, once }, fate);
        if !good {
            // Where all is lost, losing it faster shows nothing more.
            sleep(PAUSE_AFTER_LOSS).await;
        }
    }

    /// Starts every client.
    fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for over_tls in [false, true] {
            let kind = |clear, tls| if over_tls { tls } else { clear };
            let http1 = [
                (kind("h1 kept, clear", "h1 kept, TLS"), Between::Hurries, 140),
                (kind("h1 now and then, clear", "h1 now and then, TLS"), Between::Pauses, 40),
                (kind("h1 anew, clear", "h1 anew, TLS"), Between::Leaves, 40),
            ];
            for (kind, between, count) in http1 {
                for _ in 0..count {
                    clients.spawn(http1::keep_asking(self.clone(), kind, over_tls, between));
                }
            }
            for _ in 0..6 {
                let connection = http2::Shared::new(over_tls);
                for _ in 0..20 {
                    clients.spawn(http2::keep_asking(self.clone(), kind("h2, clear", "h2, TLS"), connection.clone()));
                }
            }
            for _ in 0..10 {
                clients.spawn(http1::keep_listening(self.clone(), kind("events, clear", "events, TLS"), over_tls));
                if self.sockets {
                    clients.spawn(http1::keep_talking(self.clone(), kind("socket, clear", "socket, TLS"), over_tls));
                }
            }
        }
        clients
    }

    /// Waits until so many more requests have their fate.
    pub async fn goes_on(&self, requests: usize) {
        let before = self.fates.count();
        super::support::until("requests go on", || async { self.fates.count() > before + requests }).await;
    }

    /// Keeps the load up while something is done, and says how many requests were in flight at the least.
    pub async fn during(self: &Arc<Self>, done: impl Future<Output = ()>) -> usize {
        let mut clients = self.start();
        super::support::until("the load is on", || async { self.fates.in_flight() > IN_FLIGHT_MIN && self.fates.count() > IN_FLIGHT_MIN })
            .await;
        let least = AtomicUsize::new(usize::MAX);
        let sample = async {
            loop {
                least.fetch_min(self.fates.in_flight(), Ordering::Relaxed);
                sleep(SAMPLE_EVERY).await;
            }
        };
        tokio::select! {
            () = done => {}
            () = sample => {}
        }
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        least.into_inner()
    }

    /// Holds the count against what the service saw.
    pub fn settle(&self, what: &str, seen: &Seen, in_flight: usize, expected: Expected) {
        println!("{what}: {in_flight} in flight at the least; {}", self.fates);
        let all = self.fates.all();
        let forgiven = |sent: &Sent, fate: &Fate| match fate {
            Fate::Right | Fate::ToldToGo => true,
            // Nobody can know whether it was done, so nobody does it again.
            Fate::Refused(why) => expected == Expected::KilledService && sent.once && why.starts_with("502 "),
            // What it was reading is gone with who was writing it.
            Fate::Broken(_) => expected == Expected::KilledService,
            Fate::Wrong(_) | Fate::TimedOut => false,
        };
        let bad: Vec<_> = all.iter().filter(|(sent, fate)| !forgiven(sent, fate)).collect();
        assert!(bad.is_empty(), "{} of {} requests were lost or failed\n{}", bad.len(), all.len(), self.fates);
        assert!(in_flight >= IN_FLIGHT_MIN, "the load was not steady: {in_flight}");
        let mut seen = seen.lock().unwrap().clone();
        for (sent, fate) in &all {
            let times = seen.remove(&sent.id).unwrap_or(0);
            assert!(times > 0 || *fate != Fate::Right, "{sent:?} was answered by somebody else");
            assert!(times <= 1 || (expected != Expected::Once && !sent.once), "{sent:?} reached the service {times} times");
        }
        assert!(seen.is_empty(), "the service saw what nobody sent: {seen:?}");
    }
}
