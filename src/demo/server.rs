//! A small HTTP/1 server on loopback, under everything that the demo serves.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// More than the gate lets through, so that what is too large is the gate's to refuse.
const HEAD_BYTES_MAX: usize = 128 * 1024;
const CONNECTIONS_MAX: usize = 1024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept, which mostly means that the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub type Body = UnsyncBoxBody<Bytes, io::Error>;
pub type Reply = Response<Body>;

/// A running server. It ends when it is stopped or dropped.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<()>,
    ended: watch::Receiver<()>,
}

/// Binds a loopback address; port 0 takes a free one.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is not a loopback address")));
    }
    TcpListener::bind(address).await
}

impl Server {
    /// Answers each request on the listener with what the handler returns.
    pub fn start<H, F>(listener: TcpListener, handler: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(());
        let (ending, ended) = watch::channel(());
        tokio::spawn(async move {
            accept(listener, handler, stopped).await;
            drop(ending);
        });
        Ok(Self { address, stop, ended })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and every connection, and waits until they are closed.
    pub async fn stop(&self) {
        self.stop.send_replace(());
        let mut ended = self.ended.clone();
        // Nothing is ever sent: it fails once the other side is gone.
        while ended.changed().await.is_ok() {}
    }
}

async fn accept<H, F>(listener: TcpListener, handler: H, mut stopped: watch::Receiver<()>)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // An error says that the server was dropped, which also ends it.
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, handler.clone()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve<H, F>(stream: TcpStream, handler: H)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    // A broken connection is the caller's affair.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// The whole body of a request, or the status that says why not.
pub async fn read_body(body: Incoming) -> Result<Bytes, StatusCode> {
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

pub fn json(status: StatusCode, value: &serde_json::Value) -> Reply {
    reply(status, "application/json; charset=utf-8", Bytes::from(value.to_string()))
}

pub fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(full(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    reply
}

pub fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_is_listened_on() {
        let refused = bind(SocketAddr::from(([0, 0, 0, 0], 0))).await.unwrap_err();
        assert_eq!(refused.to_string(), "0.0.0.0:0 is not a loopback address");
    }

    #[tokio::test]
    async fn a_stopped_server_has_closed_its_connections_and_its_port() {
        use tokio::io::AsyncReadExt;
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let server = Server::start(listener, |_| async { json(StatusCode::OK, &serde_json::Value::Null) }).unwrap();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        server.stop().await;
        // A connection not yet accepted is reset, an accepted one is closed.
        assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        assert!(TcpStream::connect(server.address()).await.is_err());
        server.stop().await;
    }
}
