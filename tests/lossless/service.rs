//! The service behind the gate: it knows which requests came and how often, takes its time, and gives back what it got.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::websocket;

type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// Events of one stream, and the time between two.
pub const EVENTS: u64 = 10;
const EVENT_EVERY: Duration = Duration::from_millis(100);

/// How often each id was seen.
pub type Seen = Arc<Mutex<HashMap<u64, usize>>>;

/// What it speaks.
pub use super::way::Protocol;

pub struct Service {
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub seen: Seen,
    leaving: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    pub async fn start(protocol: Protocol) -> Self {
        Self::start_at(super::support::loopback(), protocol, Seen::default()).await
    }

    /// At an address, with what was seen before: one that comes back, or one beside another.
    pub async fn start_at(address: SocketAddr, protocol: Protocol, seen: Seen) -> Self {
        let listener = listen(address);
        let address = listener.local_addr().unwrap();
        let (known, leaving) = (seen.clone(), watch::Sender::new(false));
        let (mut told, leave) = (leaving.subscribe(), leaving.subscribe());
        let task = tokio::spawn(async move {
            // With this task they all end.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((stream, _)) = accepted {
                            let (known, leave) = (known.clone(), leave.clone());
                            match protocol {
                                Protocol::Http1 => connections.spawn(serve(stream, known, leave)),
                                Protocol::Http2 => connections.spawn(serve_http2(stream, known, leave)),
                            };
                        }
                    }
                    _ = told.wait_for(|leaving| *leaving) => break,
                    Some(_) = connections.join_next() => {}
                }
            }
            drop(listener);
            while connections.join_next().await.is_some() {}
        });
        Self { address, protocol, seen, leaving, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Goes as a service should: takes no connection more, says so with each answer or with GOAWAY, and closes none on which a
    /// request may be under way. Returns when the last one has gone.
    pub async fn leave(&mut self) {
        self.leaving.send_replace(true);
        (&mut self.task).await.unwrap();
    }

    /// Goes as `kill -9` has it.
    pub async fn die(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Comes back to where it was.
    pub async fn again(&mut self) {
        *self = Self::start_at(self.address, self.protocol, self.seen.clone()).await;
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

async fn serve(stream: TcpStream, seen: Seen, leaving: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let (seen, leaving) = (seen.clone(), leaving.clone());
        async move {
            let mut response = answer(request, seen).await?;
            if *leaving.borrow() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert("connection", HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

async fn serve_http2(stream: TcpStream, seen: Seen, mut leaving: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, seen.clone()));
    let mut connection = pin!(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = leaving.wait_for(|leaving| *leaving) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// The bytes that belong to an id.
pub fn pattern(id: u64, length: usize) -> Bytes {
    let line = format!("{id:016x}.");
    line.as_bytes().iter().copied().cycle().take(length).collect()
}

fn number(request: &Request<Incoming>, name: &str) -> Option<u64> {
    request.headers().get(name)?.to_str().ok()?.parse().ok()
}

async fn answer(mut request: Request<Incoming>, seen: Seen) -> Result<Response<AnswerBody>, Infallible> {
    let Some(id) = number(&request, "x-id") else { return Ok(status(StatusCode::BAD_REQUEST)) };
    *seen.lock().unwrap().entry(id).or_default() += 1;
    let hold = Duration::from_millis(number(&request, "x-hold").unwrap_or(0));
    let mut response = match request.uri().path() {
        "/echo/socket" => {
            let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
            for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgraded.await {
                    websocket::echo(TokioIo::new(upgraded)).await;
                }
            });
            response
        }
        "/echo/events" => {
            let mut response = Response::new(events(id));
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
            response
        }
        _ => {
            let length = usize::try_from(number(&request, "x-length").unwrap_or(0)).unwrap();
            let post = request.method() == http::Method::POST;
            let Ok(body) = request.into_body().collect().await else { return Ok(status(StatusCode::BAD_REQUEST)) };
            tokio::time::sleep(hold).await;
            Response::new(whole_or_in_parts(id, if post { body.to_bytes() } else { pattern(id, length) }))
        }
    };
    response.headers_mut().insert("x-id", HeaderValue::from(id));
    Ok(response)
}

fn status(status: StatusCode) -> Response<AnswerBody> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = status;
    response
}

/// With its length, or in chunks.
fn whole_or_in_parts(id: u64, body: Bytes) -> AnswerBody {
    if id.is_multiple_of(3) {
        return Full::new(body).boxed_unsync();
    }
    let parts: Vec<_> = body.chunks(16 << 10).map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
    BodyExt::boxed_unsync(StreamBody::new(stream::iter(parts)))
}

/// What one event of a stream says.
pub fn event(id: u64, number: u64) -> String {
    format!("id: {number}\ndata: {id}\n\n")
}

fn events(id: u64) -> AnswerBody {
    let events = stream::unfold(0, move |number| async move {
        if number == EVENTS {
            return None;
        }
        if number > 0 {
            tokio::time::sleep(EVENT_EVERY).await;
        }
        Some((Ok(Frame::data(Bytes::from(event(id, number)))), number + 1))
    });
    BodyExt::boxed_unsync(StreamBody::new(events))
}
