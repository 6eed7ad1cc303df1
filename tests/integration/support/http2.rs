//! A client that speaks HTTP/2, by prior knowledge or over a TLS stream that a test made.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{Answer, soon};

/// More than any test's answers are long.
const CONNECTION_ROOM_BYTES: u32 = 64 << 20;

pub struct Http2 {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A request that was begun, and whose body may follow.
pub struct Exchange {
    response: ResponseFuture,
    pub body: SendStream<Bytes>,
}

impl Http2 {
    pub async fn open(address: SocketAddr) -> Self {
        Self::over(soon("connecting", TcpStream::connect(address)).await.unwrap()).await
    }

    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self::shake(stream, &Builder::new()).await
    }

    /// One that gives each answer this much room at first, and more only as it reads.
    pub async fn with_room(address: SocketAddr, bytes: u32) -> Self {
        Self::with_room_over(soon("connecting", TcpStream::connect(address)).await.unwrap(), bytes).await
    }

    pub async fn with_room_over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, bytes: u32) -> Self {
        Self::shake(stream, Builder::new().initial_window_size(bytes).initial_connection_window_size(CONNECTION_ROOM_BYTES)).await
    }

    async fn shake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, builder: &Builder) -> Self {
        let (sender, connection) = soon("the preface", builder.handshake(stream)).await.unwrap();
        Self { sender, connection: tokio::spawn(connection) }
    }

    /// Waits until the gate closes the connection.
    pub async fn closed(self) {
        let _ = soon("the end of the connection", self.connection).await.unwrap();
    }

    /// Sends a request without a body and reads the answer to its end.
    pub async fn send(&mut self, request: Request<()>) -> Answer {
        self.begin(request, true).await.answer().await
    }

    /// Sends an extended CONNECT (RFC 8441), once the gate has said that it takes one.
    pub async fn connect(&mut self, mut request: Request<()>, protocol: &'static str) -> Exchange {
        let enabled = || async { self.sender.is_extended_connect_protocol_enabled() };
        super::until("extended CONNECT is enabled", enabled).await;
        *request.method_mut() = http::Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
        self.begin(request, false).await
    }

    /// Sends the head of a request.
    pub async fn begin(&mut self, request: Request<()>, ends: bool) -> Exchange {
        let mut sender = soon("room for a stream", self.sender.clone().ready()).await.unwrap();
        let (response, body) = sender.send_request(request, ends).unwrap();
        Exchange { response, body }
    }
}

impl Exchange {
    pub fn write(&mut self, bytes: &'static str) {
        self.body.send_data(Bytes::from_static(bytes.as_bytes()), false).unwrap();
    }

    /// The answer that opens a tunnel, and its two ends.
    pub async fn tunnel(self) -> (Response<()>, SendStream<Bytes>, Incoming) {
        let (parts, body) = soon("an answer", self.response).await.unwrap().into_parts();
        (Response::from_parts(parts, ()), self.body, Incoming { body, buffer: Vec::new() })
    }

    /// The answer whose body is still to be read.
    pub async fn head(self) -> Response<RecvStream> {
        soon("an answer", self.response).await.unwrap()
    }

    /// The answer, or why there is none.
    pub async fn outcome(self) -> Result<Response<RecvStream>, h2::Error> {
        soon("an answer", self.response).await
    }

    /// Waits for an error instead of an answer.
    pub async fn fails(&mut self) {
        let answer = soon("an error", &mut self.response).await;
        assert!(answer.is_err(), "{answer:?}");
    }

    /// Reads the answer to its end.
    pub async fn answer(self) -> Answer {
        let response = self.head().await;
        let lines = |headers: &HeaderMap| -> Vec<(String, String)> {
            headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
        };
        let mut answer = Answer { status: response.status().as_u16(), headers: lines(response.headers()), ..Answer::default() };
        let mut body = response.into_body();
        while let Some(part) = soon("a part of the body", body.data()).await {
            let Ok(part) = part else { return answer };
            let _ = body.flow_control().release_capacity(part.len());
            answer.body.extend_from_slice(&part);
        }
        if let Ok(Some(trailers)) = soon("the trailers", body.trailers()).await {
            answer.trailers = lines(&trailers);
        }
        answer.complete = true;
        answer
    }
}

/// What comes out of a stream, read step by step.
pub struct Incoming {
    body: RecvStream,
    buffer: Vec<u8>,
}

impl Incoming {
    /// Reads until so many bytes are there, and takes them.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.more().await, "ended before {count} bytes were there: {:?}", self.buffer);
        }
        self.buffer.drain(..count).collect()
    }

    /// Everything until the stream ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }

    /// The trailers behind it.
    pub async fn trailers(&mut self) -> HeaderMap {
        soon("the trailers", self.body.trailers()).await.unwrap().unwrap_or_default()
    }

    async fn more(&mut self) -> bool {
        let Some(Ok(part)) = soon("a part of the stream", self.body.data()).await else { return false };
        let _ = self.body.flow_control().release_capacity(part.len());
        self.buffer.extend_from_slice(&part);
        true
    }
}

/// Takes what there is room for and gives no more, until the gate resets the stream: how much came, and the reason.
pub async fn take_nothing_more(body: &mut RecvStream) -> (usize, Option<Reason>) {
    let mut bytes = 0;
    loop {
        match soon("a reset", body.data()).await {
            Some(Ok(part)) => bytes += part.len(),
            Some(Err(error)) => return (bytes, error.reason()),
            None => return (bytes, None),
        }
    }
}
