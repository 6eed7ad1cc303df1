//! An upstream that speaks HTTP/2, by prior knowledge or over whatever a test hands to it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Upstream;

/// A request, and what answers it.
pub type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// Serves one connection, each request with the function.
pub async fn serve_http2<F, W>(stream: impl AsyncRead + AsyncWrite + Unpin, answer: F)
where
    F: Fn(Asked) -> W,
    W: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok(asked)) = connection.accept().await {
        tokio::spawn(answer(asked));
    }
}

/// One in clear text. The function also hears which connection it is, counted from zero.
pub async fn http2_upstream<F, W>(answer: F) -> Upstream
where
    F: Fn(usize, Asked) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    Upstream::by_hand(move |stream| {
        let (answer, number) = (answer.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move { serve_http2(stream, |asked| answer(number, asked)).await }
    })
    .await
}

/// Answers 200 with this text.
pub async fn answer_ok((request, mut respond): Asked, text: &'static str) {
    let mut body = request.into_body();
    while let Some(Ok(part)) = body.data().await {
        let _ = body.flow_control().release_capacity(part.len());
    }
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    let _ = stream.send_data(Bytes::from_static(text.as_bytes()), true);
}
