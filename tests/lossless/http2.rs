//! Clients that speak HTTP/2: many streams share a connection, and move to another when the gate says GOAWAY.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use h2::client::{SendRequest, handshake};
use http::Request;
use tokio::sync::Mutex;

use super::fates::Fate;
use super::load::{Load, Question};
use super::way::Protocol;

/// How often a request that was provably not taken may move to another connection.
const MOVES_MAX: usize = 5;

/// A connection that several clients share.
pub struct Shared {
    over_tls: bool,
    /// With its number, so that only one of those who found it closed replaces it.
    open: Mutex<(u64, Option<SendRequest<Bytes>>)>,
}

impl Shared {
    pub fn new(over_tls: bool) -> Arc<Self> {
        Arc::new(Self { over_tls, open: Mutex::new((0, None)) })
    }

    async fn sender(&self, load: &Load) -> Result<(u64, SendRequest<Bytes>), Fate> {
        let mut open = self.open.lock().await;
        if let (number, Some(sender)) = &*open {
            return Ok((*number, sender.clone()));
        }
        let wire = load.doors.connect(self.over_tls, Protocol::Http2).await;
        let wire = wire.map_err(|error| Fate::Refused(format!("connecting: {error}")))?;
        let (sender, connection) = handshake(wire).await.map_err(|error| Fate::Broken(error.to_string()))?;
        tokio::spawn(connection);
        *open = (open.0 + 1, Some(sender.clone()));
        Ok((open.0, sender))
    }

    /// That connection is of no more use.
    async fn leave(&self, number: u64) {
        let mut open = self.open.lock().await;
        if open.0 == number {
            open.1 = None;
        }
    }
}

pub async fn keep_asking(load: Arc<Load>, kind: &'static str, connection: Arc<Shared>) {
    while !load.is_over() {
        let question = load.question();
        load.follow(question.id, kind, question.post, ask(&load, &question, &connection)).await;
    }
}

async fn ask(load: &Load, question: &Question, connection: &Shared) -> Fate {
    for _ in 0..MOVES_MAX {
        let (number, sender) = match connection.sender(load).await {
            Ok(open) => open,
            Err(fate) => return fate,
        };
        match once(load, question, sender).await {
            Ok(fate) => return fate,
            Err(error) if is_untaken(&error) => {
                load.fates.again();
                connection.leave(number).await;
            }
            Err(error) => {
                connection.leave(number).await;
                return Fate::Broken(format!("{error:?}"));
            }
        }
    }
    Fate::Broken(format!("not taken over {MOVES_MAX} connections"))
}

/// Whether the gate said that it did not look at the stream (RFC 9113 §8.7).
fn is_untaken(error: &h2::Error) -> bool {
    let refused = error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away() && error.reason() == Some(Reason::NO_ERROR))
}

async fn once(load: &Load, question: &Question, sender: SendRequest<Bytes>) -> Result<Fate, h2::Error> {
    let request = Request::builder()
        .method(question.method())
        .uri("https://localhost/echo/question")
        .header("authorization", format!("Bearer {}", load.token))
        .header("x-id", question.id)
        .header("x-hold", question.hold_ms)
        .header("x-length", question.length)
        .body(())
        .unwrap();
    let mut sender = sender.ready().await?;
    let body = question.body();
    let (response, mut stream) = sender.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    let (head, mut answer) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(part) = answer.data().await {
        // From here on it was taken, whatever the error says.
        let part = match part {
            Ok(part) => part,
            Err(error) => return Ok(Fate::Broken(format!("in the body: {error:?}"))),
        };
        let _ = answer.flow_control().release_capacity(part.len());
        body.extend_from_slice(&part);
    }
    Ok(question.judge(head.status.as_u16(), head.headers.get("x-id").and_then(|id| id.to_str().ok()), &body))
}
