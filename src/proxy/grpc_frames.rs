//! Step 11. How messages lie in the bytes of a gRPC or gRPC-Web stream, and what ends one: followed as they go by, never changed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use http::HeaderMap;

/// Where the messages of a stream begin and end: a byte, four of length, and as many.
#[derive(Debug, Default)]
pub struct Messages {
    head: Vec<u8>,
    left: u64,
}

const MESSAGE_HEAD_BYTES: usize = 5;

impl Messages {
    pub fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    pub fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let count = self.pass_to_boundary(data);
            data.advance(count);
        }
    }

    /// Passes bytes up to the next place between two messages, or all; how many these are.
    pub fn pass_to_boundary(&mut self, data: &[u8]) -> usize {
        let mut passed = 0;
        while passed < data.len() {
            if self.left == 0 {
                let wanted = (MESSAGE_HEAD_BYTES - self.head.len()).min(data.len() - passed);
                self.head.extend_from_slice(&data[passed..passed + wanted]);
                passed += wanted;
                if let [_, a, b, c, d] = self.head[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]).into();
                    self.head.clear();
                }
            } else {
                let part = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len() - passed);
                self.left -= part as u64;
                passed += part;
            }
            if self.is_between() {
                break;
            }
        }
        passed
    }
}

/// The same for gRPC-Web, whose stream may be Base64 as a whole. There nobody looks into it: it may end where four characters do.
#[derive(Debug)]
pub enum WebFrames {
    Binary(Messages),
    Text(u64),
}

/// The flag of the message that holds the trailers.
const TRAILERS: u8 = 0x80;

impl WebFrames {
    /// By the type of the body.
    pub fn of(essence: &str) -> Option<Self> {
        let lower = essence.to_ascii_lowercase();
        let rest = lower.strip_prefix("application/grpc-web")?;
        match rest.strip_prefix("-text") {
            Some(rest) if rest.is_empty() || rest.starts_with('+') => Some(Self::Text(0)),
            None if rest.is_empty() || rest.starts_with('+') => Some(Self::Binary(Messages::default())),
            _ => None,
        }
    }

    pub fn is_between(&self) -> bool {
        match self {
            Self::Binary(messages) => messages.is_between(),
            Self::Text(count) => count.is_multiple_of(4),
        }
    }

    pub fn pass(&mut self, data: &[u8]) {
        match self {
            Self::Binary(messages) => messages.pass(data),
            Self::Text(count) => *count += data.len() as u64,
        }
    }

    /// Passes bytes up to the next place where the stream may end, or all; how many these are.
    pub fn pass_to_boundary(&mut self, data: &[u8]) -> usize {
        match self {
            Self::Binary(messages) => messages.pass_to_boundary(data),
            Self::Text(count) => {
                let passed = data.len().min(4 - (*count % 4) as usize);
                *count += passed as u64;
                passed
            }
        }
    }

    /// Trailers as a message.
    pub fn trailers(&self, trailers: &HeaderMap) -> Bytes {
        let mut text = Vec::new();
        for (name, value) in trailers {
            text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let message = [&[TRAILERS][..], &length.to_be_bytes(), &text].concat();
        match self {
            Self::Binary(_) => message.into(),
            Self::Text(_) => STANDARD.encode(message).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_stream_ends_between_two_messages_however_its_bytes_arrive() {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for length in [0_u32, 1, 300, 5] {
            bytes.push(0);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend(std::iter::repeat_n(7, length as usize));
            ends.push(bytes.len());
        }
        for step in [1, 2, 3, 4, 5, 7, 100, bytes.len()] {
            let (mut messages, mut found, mut at) = (Messages::default(), Vec::new(), 0);
            for mut part in bytes.chunks(step) {
                while !part.is_empty() {
                    let count = messages.pass_to_boundary(part);
                    at += count;
                    part.advance(count);
                    if messages.is_between() {
                        found.push(at);
                    }
                }
            }
            assert_eq!(found, ends, "{step}");
        }
        let mut messages = Messages::default();
        messages.pass(&bytes[..7]);
        assert!(!messages.is_between());
        messages.pass(&bytes[7..]);
        assert!(messages.is_between());
    }

    #[test]
    fn a_grpc_web_stream_ends_with_a_message_of_trailers_in_its_own_form() {
        for (essence, text) in
            [("application/grpc-web", false), ("Application/grpc-web+proto", false), ("application/grpc-web-text+proto", true)]
        {
            let mut frames = WebFrames::of(essence).unwrap();
            let body: &[u8] = if text { b"AAAAAAJo" } else { b"\0\0\0\0\x02hi" };
            frames.pass(&body[..3]);
            assert!(!frames.is_between(), "{essence}");
            let mut at = 3;
            while !frames.is_between() {
                at += frames.pass_to_boundary(&body[at..]);
            }
            assert_eq!(at, if text { 4 } else { body.len() }, "{essence}");
            let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("16"))]);
            let last = frames.trailers(&trailers);
            let last = if text { STANDARD.decode(last).unwrap() } else { last.to_vec() };
            assert_eq!(last, b"\x80\0\0\0\x11grpc-status: 16\r\n", "{essence}");
        }
        for other in ["application/grpc", "application/grpc-webx", "application/grpc-web-texty", "text/plain"] {
            assert!(WebFrames::of(other).is_none(), "{other}");
        }
    }
}
