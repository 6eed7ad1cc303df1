//! An upstream on raw sockets: what it received is known to the byte, and it answers whatever a test wants.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;

use super::{Connection, loopback, soon};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub line: String,
    /// Names as they came.
    pub headers: Vec<(String, String)>,
    /// With chunk framing, if the body was chunked.
    pub body: Vec<u8>,
}

impl Received {
    /// All values of a header, whatever the case of its name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands there {} times", all.len());
        all.first().copied()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

type Handler = Arc<dyn Fn(TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

pub struct Upstream {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    /// Answers 200 with `ok` to everything, on connections that stay open.
    pub async fn friendly() -> Self {
        Self::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await
    }

    /// Answers every request with these bytes.
    pub async fn answering(bytes: &'static [u8]) -> Self {
        Self::answering_each(move |_| bytes.to_vec()).await
    }

    /// Answers each request with the bytes that the function makes of it.
    pub async fn answering_each(answer: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (received.clone(), Arc::new(answer));
        let handler: Handler = Arc::new(move |mut stream| {
            let (seen, answer) = (seen.clone(), answer.clone());
            Box::pin(async move {
                let mut buffer = Vec::new();
                while let Some(request) = read_request(&mut stream, &mut buffer).await {
                    seen.lock().unwrap().push(request.clone());
                    if stream.write_all(&answer(&request)).await.is_err() {
                        return;
                    }
                }
            })
        });
        Self::start(handler, received).await
    }

    /// Hands each connection to the test, which reads and writes on it step by step.
    pub async fn manual() -> (Self, Calls) {
        let (sender, receiver) = unbounded_channel();
        let handed = Self::by_hand(move |stream| {
            let _ = sender.send(Connection::over(stream));
            async {}
        });
        (handed.await, Calls(receiver))
    }

    /// Takes requests, and answers one for each permit that the test adds.
    pub async fn held() -> (Self, Arc<Semaphore>) {
        let (received, permits) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let (seen, wanted) = (received.clone(), permits.clone());
        let handler: Handler = Arc::new(move |mut stream| {
            let (seen, wanted) = (seen.clone(), wanted.clone());
            Box::pin(async move {
                let mut buffer = Vec::new();
                while let Some(request) = read_request(&mut stream, &mut buffer).await {
                    seen.lock().unwrap().push(request);
                    wanted.acquire().await.unwrap().forget();
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                        return;
                    }
                }
            })
        });
        (Self::start(handler, received).await, permits)
    }

    /// Serves each connection with a function.
    pub async fn by_hand<F, W>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        Self::start(Arc::new(move |stream| Box::pin(serve(stream))), Arc::default()).await
    }

    async fn start(handler: Handler, received: Arc<Mutex<Vec<Received>>>) -> Self {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(handler(stream));
            }
        });
        Self { address, received, connections, task: task.abort_handle() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The one request that arrived.
    pub fn only(&self) -> Received {
        let received = self.received();
        assert_eq!(received.len(), 1, "requests that arrived: {received:#?}");
        received[0].clone()
    }
}

/// The connections of an upstream that a test plays itself.
pub struct Calls(UnboundedReceiver<Connection>);

impl Calls {
    /// The next connection of the gate.
    pub async fn next(&mut self) -> Connection {
        soon("a connection to the upstream", self.0.recv()).await.unwrap()
    }

    /// Whether the gate has made no connection that was not taken yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads one request with its body, chunk framing kept. `None` at the end of the connection.
pub async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let end = loop {
        match buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => more(stream, buffer).await?,
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let mut request = Received { line, headers, body: Vec::new() };
    if let Some(length) = request.one("content-length").and_then(|length| length.parse::<usize>().ok()) {
        while buffer.len() < length {
            more(stream, buffer).await?;
        }
        request.body = buffer.drain(..length).collect();
    } else if request.one("transfer-encoding").is_some() {
        // The last chunk ends with an empty line, after trailers if there are any.
        loop {
            let text = String::from_utf8_lossy(buffer).into_owned();
            let last = if text.starts_with("0\r\n") { Some(0) } else { text.find("\r\n0\r\n").map(|at| at + 2) };
            if let Some(end) = last.and_then(|at| text[at..].find("\r\n\r\n").map(|end| at + end + 4)) {
                request.body = buffer.drain(..end).collect();
                break;
            }
            more(stream, buffer).await?;
        }
    }
    Some(request)
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut part = vec![0; 64 << 10];
    let count = stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
    buffer.extend_from_slice(&part[..count]);
    Some(())
}
