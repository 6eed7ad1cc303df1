//! Clients that speak HTTP/1.1: one question after the other, event streams, WebSockets.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, sleep};

use super::fates::Fate;
use super::load::{Load, Question};
use super::service::{EVENTS, event};
use super::way::{Protocol, Wire};
use super::websocket::{CLOSE, TEXT, read_frame, write_frame};

/// How often a request that provably never left may move to another connection.
const MOVES_MAX: usize = 5;
const PAUSE_MS_MAX: u64 = 600;
const MESSAGES: u8 = 10;
const MESSAGE_EVERY: Duration = Duration::from_millis(100);

type Sender = Option<SendRequest<Full<Bytes>>>;

/// What a client does with its connection between two questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// It asks on at once.
    Hurries,
    /// It pauses: long enough for the gate to put the connection to rest, and never for as long as `shutdown.delay`, so that
    /// it hears in time that the gate goes.
    Pauses,
    /// It closes the connection and makes a new one.
    Leaves,
}

/// Asks one question after the other.
pub async fn keep_asking(load: Arc<Load>, kind: &'static str, over_tls: bool, between: Between) {
    let mut sender = None;
    while !load.is_over() {
        let question = load.question();
        let asked = ask(&load, &question, over_tls, between != Between::Leaves, &mut sender);
        load.follow(question.id, kind, question.post, asked).await;
        match between {
            Between::Hurries => {}
            Between::Pauses => sleep(Duration::from_millis(question.id * 37 % PAUSE_MS_MAX)).await,
            Between::Leaves => sender = None,
        }
    }
}

async fn open(load: &Load, over_tls: bool) -> Result<Sender, Fate> {
    let wire = load.doors.connect(over_tls, Protocol::Http1).await.map_err(|error| Fate::Refused(format!("connecting: {error}")))?;
    let (sender, connection) = handshake(TokioIo::new(wire)).await.map_err(|error| Fate::Broken(error.to_string()))?;
    tokio::spawn(connection.with_upgrades());
    Ok(Some(sender))
}

async fn ask(load: &Load, question: &Question, over_tls: bool, kept: bool, sender: &mut Sender) -> Fate {
    let mut request = Request::builder()
        .method(question.method())
        .uri("/echo/question")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {}", load.token))
        .header("x-id", question.id)
        .header("x-hold", question.hold_ms)
        .header("x-length", question.length);
    if !kept {
        request = request.header("connection", "close");
    }
    let mut request = request.body(Full::new(question.body())).unwrap();
    for _ in 0..MOVES_MAX {
        let usable = match sender {
            Some(open) => open.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            *sender = match open(load, over_tls).await {
                Ok(sender) => sender,
                Err(fate) => return fate,
            };
        }
        let open = sender.as_mut().unwrap();
        let response = match open.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                *sender = None;
                match error.take_message() {
                    Some(unsent) => {
                        load.fates.again();
                        request = unsent;
                        continue;
                    }
                    None => return Fate::Broken(format!("{:?}", error.into_error())),
                }
            }
        };
        let (head, body) = response.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Fate::Broken(format!("in the body: {error:?}")),
        };
        return question.judge(head.status.as_u16(), head.headers.get("x-id").and_then(|id| id.to_str().ok()), &body);
    }
    Fate::Broken(format!("never left over {MOVES_MAX} connections"))
}

/// Opens one event stream after the other and reads each to its end.
pub async fn keep_listening(load: Arc<Load>, kind: &'static str, over_tls: bool) {
    while !load.is_over() {
        let id = load.id();
        let listened = async {
            let (mut wire, head) = match begin(&load, over_tls, "/echo/events", id, "Connection: close\r\n").await {
                Ok(begun) => begun,
                Err(fate) => return fate,
            };
            let mut body = Vec::new();
            if let Err(error) = wire.read_to_end(&mut body).await {
                return Fate::Broken(format!("{error} after {} bytes", body.len()));
            }
            if !head.starts_with("HTTP/1.1 200 ") {
                return Fate::Refused(head);
            }
            // Each event is a chunk, as it was sent.
            let chunk = |event: String| format!("{:X}\r\n{event}\r\n", event.len());
            let expected: String = (0..EVENTS).map(|number| chunk(event(id, number))).chain(["0\r\n\r\n".to_owned()]).collect();
            match String::from_utf8_lossy(&body) {
                body if body == expected => Fate::Right,
                body if expected.starts_with(&*body) => Fate::Broken(format!("cut after {body:?}")),
                body => Fate::Wrong(body.into_owned()),
            }
        };
        load.follow(id, kind, false, listened).await;
    }
}

/// Opens one WebSocket after the other and has a few words on each.
pub async fn keep_talking(load: Arc<Load>, kind: &'static str, over_tls: bool) {
    const UPGRADE: &str =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    while !load.is_over() {
        let id = load.id();
        let talked = async {
            let (mut wire, head) = match begin(&load, over_tls, "/echo/socket", id, UPGRADE).await {
                Ok(begun) => begun,
                Err(fate) => return fate,
            };
            match head.starts_with("HTTP/1.1 101 ") {
                true => talk(&mut wire, id).await.unwrap_or_else(|error| Fate::Broken(error.to_string())),
                false => Fate::Refused(head),
            }
        };
        load.follow(id, kind, false, talked).await;
    }
}

async fn talk(wire: &mut Box<dyn Wire>, id: u64) -> std::io::Result<Fate> {
    let mask = Some([1, 2, 3, 4]);
    for number in 0..MESSAGES {
        let message = format!("{id} {number}").into_bytes();
        write_frame(wire, TEXT, &message, mask).await?;
        match read_frame(wire).await? {
            (TEXT, echo) if echo == message => {}
            // 1001, RFC 6455 §7.4.1: going away.
            (CLOSE, code) if code.starts_with(&[0x03, 0xe9]) => return Ok(Fate::ToldToGo),
            (opcode, other) => return Ok(Fate::Wrong(format!("frame {opcode} with {:?}", String::from_utf8_lossy(&other)))),
        }
        sleep(MESSAGE_EVERY).await;
    }
    write_frame(wire, CLOSE, &[0x03, 0xe8], mask).await?;
    match read_frame(wire).await? {
        (CLOSE, _) => Ok(Fate::Right),
        (opcode, _) => Ok(Fate::Wrong(format!("frame {opcode} instead of a close"))),
    }
}

/// Sends a GET and reads the head of its answer.
async fn begin(load: &Load, over_tls: bool, target: &str, id: u64, more: &str) -> Result<(Box<dyn Wire>, String), Fate> {
    let wire = load.doors.connect(over_tls, Protocol::Http1).await;
    let mut wire = wire.map_err(|error| Fate::Refused(format!("connecting: {error}")))?;
    let broken = |error: std::io::Error| Fate::Broken(error.to_string());
    let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nX-Id: {id}\r\n{more}\r\n", load.token);
    wire.write_all(head.as_bytes()).await.map_err(broken)?;
    wire.flush().await.map_err(broken)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(wire.read_u8().await.map_err(broken)?);
    }
    Ok((wire, String::from_utf8_lossy(&answer).into_owned()))
}
