//! Step 3. WebSocket over HTTP/2 (RFC 8441): an extended CONNECT is decided on as the GET that it stands for, and goes on as
//! the upgrade that every service knows. What the two ends of an upgrade prove to each other, the gate proves for its client.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::ext::Protocol;

const WEBSOCKET: &str = "websocket";
/// RFC 6455 §4.2.2.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Makes an extended CONNECT to WebSocket the GET that it stands for; leaves every other request as it is.
pub fn as_get<B>(request: &mut Request<B>) {
    if *request.method() != Method::CONNECT {
        return;
    }
    // It has no content, and whoever says gRPC here would read our refusals as a 200, which opens a tunnel.
    request.headers_mut().remove(CONTENT_TYPE);
    let extended = request.version() == Version::HTTP_2;
    if extended && request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == WEBSOCKET) {
        *request.method_mut() = Method::GET;
    }
}

/// Marks an answer that opens a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Opened;

/// Whether a client would take an answer for an open tunnel, which it is not: any 2xx is one there, a document of the gate's own too.
pub fn misleads<B>(response: &Response<B>) -> bool {
    response.status().is_success() && response.extensions().get::<Opened>().is_none()
}

/// Whether a request was an extended CONNECT to WebSocket.
pub fn is_websocket<B>(request: &Request<B>) -> bool {
    // h2 refuses `:protocol` with any other method.
    *request.method() == Method::GET && request.extensions().get::<Protocol>().is_some()
}

/// The key that the service must answer.
#[derive(Debug)]
pub struct Key(String);

impl Key {
    /// `None` when the machine has no randomness to give.
    pub fn new() -> Option<Self> {
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        Some(Self(STANDARD.encode(nonce)))
    }

    /// Asks with it. What the client sent of its own means nothing over HTTP/2 (RFC 8441 §5).
    pub fn ask(&self, headers: &mut HeaderMap) {
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        if let Ok(key) = HeaderValue::try_from(self.0.as_str()) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
    }

    /// Whether an answer is one to this key, and so to this request.
    pub fn is_answered(&self, headers: &HeaderMap) -> bool {
        let expected = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{}{ACCEPT_SUFFIX}", self.0).as_bytes());
        let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        let first = accepts.next().is_some_and(|accept| accept.as_bytes() == STANDARD.encode(expected).as_bytes());
        first && accepts.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 §1.3.
    #[test]
    fn a_key_is_answered_by_the_one_value_that_belongs_to_it() {
        let key = Key("dGhlIHNhbXBsZSBub25jZQ==".to_owned());
        let answer = |values: &[&'static str]| values.iter().map(|value| (SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(value))).collect();
        let right = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert!(key.is_answered(&answer(&[right])));
        for wrong in [&[][..], &["S3pPLMBiTxaQ9kYGzzhZRbK+xOo="], &[right, right], &[""]] {
            assert!(!key.is_answered(&answer(wrong)), "{wrong:?}");
        }
        assert_ne!(Key::new().unwrap().0, Key::new().unwrap().0);
    }
}
