//! A client that speaks HTTP/2, by prior knowledge or over a TLS stream that a test made.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Answer, soon};

pub struct Http2 {
    sender: SendRequest<Bytes>,
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
        let (sender, connection) = soon("the preface", h2::client::handshake(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
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

    /// Reads the answer to its end.
    pub async fn answer(self) -> Answer {
        let response = soon("an answer", self.response).await.unwrap();
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
