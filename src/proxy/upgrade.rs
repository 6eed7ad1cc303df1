//! Step 12. Tunnels: after the upstream's 101, bytes go both ways until one side ends, nothing moves for too long, the
//! token that opened it counts no more, or the gate goes down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::accept::Held;
use super::admission::Place;
use super::connection::Berth;
use super::ending::{CUT_AFTER, Reason, Watch};
use super::gate::Phase;
use super::stream::StreamFacts;
use super::upstream;
use super::websocket::{CLOSE_CODE, Frames, GOING_AWAY, close_frame};
use crate::observe::{Limit, Record};

/// What is read at once: most messages are small, and a tunnel at rest keeps its buffers.
const BUFFER_BYTES: usize = 1 << 10;
const BUFFER_BYTES_MAX: usize = 16 << 10;

/// The two ends of a tunnel that is about to open.
pub struct Tunnel {
    pub client: OnUpgrade,
    pub upstream: OnUpgrade,
    pub facts: Option<Arc<StreamFacts>>,
    pub idle: Duration,
    /// How long a client may stay that was told to leave.
    pub leave_within: Duration,
    pub _held: Arc<Held>,
    /// Its places among the connections to the endpoint, and among the tunnels of the gate.
    pub _places: (Option<Arc<upstream::Place>>, Place),
    /// Becomes true when the gate's drain deadline has passed.
    pub closing: watch::Receiver<bool>,
    /// The connection that it was opened on, and whether that is to end.
    pub berth: Option<Berth>,
    /// Whether its token still counts; `None` where that is nobody's matter.
    pub watch: Option<Watch>,
}

/// Why a tunnel is to end, once it is.
type Ending = watch::Receiver<Option<End>>;

#[derive(Debug, Clone, Copy)]
enum End {
    /// The gate drains, or the listener is gone: the client is told, and what both sides still have to say is heard.
    Leaving,
    /// Its token counts no more: nothing goes on.
    Token(Reason),
    /// The client was told that the gate leaves, and had its time to listen: nothing goes on either.
    Overdue,
}

impl End {
    /// Whether nothing goes on.
    fn is_over(self) -> bool {
        match self {
            Self::Leaving => false,
            Self::Token(_) | Self::Overdue => true,
        }
    }
}

const IDLE: &str = "idle for too long";
/// The client's own word for a tunnel that ends because the gate goes away.
const LEAVING: Reason = "going away";

impl Tunnel {
    /// Runs to its end. The record is written then.
    pub async fn run(self, mut record: Record) {
        if let Some(facts) = &self.facts {
            facts.becomes_tunnel();
        }
        let (client, upstream) = match tokio::try_join!(self.client, self.upstream) {
            Ok(ends) => ends,
            Err(error) => {
                record.detail = format!("the tunnel did not open: {error}").into();
                return;
            }
        };
        let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
        let (upstream_read, upstream_write) = tokio::io::split(TokioIo::new(upstream));
        let moved = AtomicU64::new(0);
        let down = AtomicU64::new(0);
        let (tell, ending) = watch::channel(None);
        let both = async {
            let up = copy_up(client_read, upstream_write, &moved, ending.clone());
            tokio::join!(up, copy_down(upstream_read, client_write, &moved, &down, ending.clone()));
        };
        let phase = self.berth.as_ref().map(|berth| berth.phase.clone());
        let told = async {
            tell_end(self.watch, (phase, self.leave_within), &tell).await;
            tokio::time::sleep(CUT_AFTER).await;
        };
        let mut closing = self.closing;
        let reason = tokio::select! {
            // In this order: once the tunnel is to end, no byte is read before that is known.
            biased;
            () = told => "cut",
            () = both => "closed",
            () = idle(&moved, self.idle) => IDLE,
            _ = closing.wait_for(|closing| *closing) => "the gate goes down",
        };
        record.reason = match *ending.borrow() {
            Some(End::Token(reason)) => Some(reason),
            Some(End::Leaving | End::Overdue) | None => None,
        };
        if reason == IDLE {
            record.limited(Limit::TunnelIdle);
        }
        record.detail = reason.into();
        record.response_bytes = down.load(Ordering::Relaxed);
    }
}

/// Tells a tunnel that it is to end: once that the gate leaves, and for good, when this returns, that its token counts no more
/// or that it had its time to leave.
async fn tell_end(
    watch: Option<Watch>,
    (phase, leave_within): (Option<watch::Receiver<Phase>>, Duration),
    tell: &watch::Sender<Option<End>>,
) {
    let mut token = std::pin::pin!(async {
        match watch {
            Some(watch) => watch.end().await,
            None => std::future::pending().await,
        }
    });
    let leaving = async {
        match phase {
            Some(mut phase) => drop(phase.wait_for(|phase| *phase >= Phase::Draining).await),
            None => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        reason = &mut token => End::Token(reason),
        () = leaving => {
            tell.send_replace(Some(End::Leaving));
            tokio::select! {
                reason = token => End::Token(reason),
                () = tokio::time::sleep(leave_within) => End::Overdue,
            }
        }
    };
    tell.send_replace(Some(end));
}

/// Ends when nothing may go on.
async fn over(ending: &mut Ending) {
    if ending.wait_for(|end| end.is_some_and(End::is_over)).await.is_err() {
        std::future::pending().await
    }
}

/// Copies what the client sends until the end and passes the end on, so that a half-closed tunnel still works the other
/// way. Once its token counts no more nothing is passed on; what comes is read until the client has read our close.
async fn copy_up(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &AtomicU64, mut ending: Ending) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let copied = async {
        loop {
            let count = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
                break;
            }
            moved.fetch_add(1, Ordering::Relaxed);
            fit(&mut buffer, count);
        }
    };
    let whole = tokio::select! {
        () = copied => true,
        () = over(&mut ending) => false,
    };
    let _ = to.shutdown().await;
    if !whole {
        while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    }
}

/// Copies what the service sends. Once the tunnel is to end, to the end of the frame, and then a close of our own. A client
/// that is told that the gate leaves answers with a close of its own, which the service gets and answers in turn: until then
/// what the service sends is read and let go, since nothing may follow a close (RFC 6455 §5.5.1).
async fn copy_down(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
    counter: &AtomicU64,
    mut ending: Ending,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut frames = Frames::default();
    let mut said = false;
    loop {
        let told = *ending.borrow_and_update();
        let over = told.is_some_and(End::is_over);
        if let Some(end) = told.filter(|_| frames.is_between() && !said) {
            said = true;
            let (code, reason) = match end {
                End::Token(reason) => (CLOSE_CODE, reason),
                End::Leaving | End::Overdue => (GOING_AWAY, LEAVING),
            };
            // A service that has said its own close has said it for both.
            if !frames.has_closed() && (to.write_all(&close_frame(code, reason)).await.is_err() || to.flush().await.is_err()) {
                break;
            }
        }
        if said && over {
            break;
        }
        // Between two reads alone: a write is not given up in the middle.
        let read = tokio::select! {
            biased;
            Ok(()) = ending.changed(), if !over => continue,
            read = from.read(&mut buffer) => read,
        };
        let mut part = match read {
            Ok(0) | Err(_) => break,
            Ok(_) if said => continue,
            Ok(count) => &buffer[..count],
        };
        match told {
            Some(_) => part = &part[..frames.pass_to_boundary(part)],
            None => frames.pass(part),
        }
        if to.write_all(part).await.is_err() || to.flush().await.is_err() {
            break;
        }
        moved.fetch_add(1, Ordering::Relaxed);
        counter.fetch_add(part.len() as u64, Ordering::Relaxed);
        let count = part.len();
        fit(&mut buffer, count);
    }
    let _ = to.flush().await;
    let _ = to.shutdown().await;
}

/// Makes a buffer larger that was filled, and one small again that was not by far: what moved last tells what comes next.
fn fit(buffer: &mut Vec<u8>, count: usize) {
    if count == buffer.len() && count < BUFFER_BYTES_MAX {
        buffer.resize(count * 4, 0);
    } else if count < BUFFER_BYTES && buffer.len() > BUFFER_BYTES {
        *buffer = vec![0; BUFFER_BYTES];
    }
}

async fn idle(moved: &AtomicU64, limit: Duration) {
    loop {
        let before = moved.load(Ordering::Relaxed);
        tokio::time::sleep(limit).await;
        if moved.load(Ordering::Relaxed) == before {
            return;
        }
    }
}
