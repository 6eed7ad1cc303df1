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
