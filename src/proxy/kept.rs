//! What of a request's body is kept while it goes by, as long as it is small, so that it can be sent once more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

/// Pieces of a body that are kept at most: each costs more than its bytes.
pub const PARTS_MAX: usize = 256;

/// A body as it was sent: nothing of it is kept unless all of it is.
#[derive(Debug)]
pub struct KeptBody {
    inner: Mutex<Kept>,
    bytes_max: usize,
    hint: SizeHint,
}

#[derive(Debug, Default)]
struct Kept {
    parts: Vec<Part>,
    bytes: usize,
    /// Whether all of it has gone by.
    whole: bool,
    too_large: bool,
}

#[derive(Debug, Clone)]
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// A body, or the beginning of one, that is sent once more.
#[derive(Debug)]
pub struct Replay {
    parts: VecDeque<Part>,
    /// Of what is still to come.
    hint: SizeHint,
}

impl KeptBody {
    /// For a body of this size, or one that is known to be empty.
    pub fn new(bytes_max: usize, hint: SizeHint, empty: bool) -> Arc<Self> {
        let too_large = hint.lower() > bytes_max as u64;
        Arc::new(Self { inner: Mutex::new(Kept { whole: empty, too_large, ..Kept::default() }), bytes_max, hint })
    }

    /// Keeps what goes by.
    pub(super) fn keep(&self, frame: &Frame<Bytes>) {
        let mut kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.too_large {
            return;
        }
        let Some(part) = Part::of(frame) else { return };
        match &part {
            Part::Data(data) => kept.bytes += data.len(),
            // Nobody asks for what comes after them: nothing does.
            Part::Trailers(_) => kept.whole = true,
        }
        match kept.bytes > self.bytes_max || kept.parts.len() >= PARTS_MAX {
            true => (kept.too_large, kept.parts) = (true, Vec::new()),
            false => kept.parts.push(part),
        }
    }

    pub(super) fn end(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).whole = true;
    }

    /// The body once more, if all of it was kept. One that is partly gone is not to be had.
    pub fn replay(&self) -> Option<Replay> {
        let kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = (kept.whole && !kept.too_large).then(|| kept.parts.iter().cloned().collect())?;
        Some(Replay { parts, hint: self.hint })
    }
}

impl Part {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Some(Self::Data(data.clone())),
            (None, Some(trailers)) => Some(Self::Trailers(trailers.clone())),
            (None, None) => None,
        }
    }
}

impl Replay {
    /// A body of the gate's own.
    pub fn own(bytes: Bytes) -> Self {
        let hint = SizeHint::with_exact(bytes.len() as u64);
        let parts = Some(bytes).filter(|bytes| !bytes.is_empty()).map(Part::Data).into_iter().collect();
        Self { parts, hint }
    }

    /// The beginning of a body, of which nothing is known yet.
    pub fn beginning() -> Self {
        Self { parts: VecDeque::new(), hint: SizeHint::with_exact(0) }
    }

    /// Adds what went by.
    pub fn push(&mut self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        self.hint = SizeHint::with_exact(self.bytes() + bytes as u64);
        self.parts.extend(Part::of(frame));
    }

    /// Adds what follows, of which everything is there.
    pub fn append(&mut self, rest: Self) {
        self.hint = SizeHint::with_exact(self.bytes() + rest.bytes());
        self.parts.extend(rest.parts);
    }

    /// Whether it is more than may be kept.
    pub fn exceeds(&self, bytes_max: usize) -> bool {
        self.bytes() > bytes_max as u64 || self.parts.len() > PARTS_MAX
    }

    /// How much is known to be there.
    pub(super) fn bytes(&self) -> u64 {
        self.hint.lower()
    }

    pub(super) fn next(&mut self) -> Option<Frame<Bytes>> {
        Some(match self.parts.pop_front()? {
            Part::Data(data) => {
                if let Some(left) = self.hint.exact() {
                    self.hint = SizeHint::with_exact(left.saturating_sub(data.len() as u64));
                }
                Frame::data(data)
            }
            Part::Trailers(trailers) => Frame::trailers(trailers),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bytes_max: usize, pieces: &[&'static str], ends: bool) -> Option<String> {
        let kept = KeptBody::new(bytes_max, SizeHint::default(), false);
        for piece in pieces {
            kept.keep(&Frame::data(Bytes::from_static(piece.as_bytes())));
        }
        if ends {
            kept.end();
        }
        let mut replay = kept.replay()?;
        let mut text = String::new();
        while let Some(frame) = replay.next() {
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        Some(text)
    }

    #[test]
    fn a_body_is_sent_again_whole_or_not_at_all() {
        assert_eq!(kept(8, &["abcd", "efgh"], true).as_deref(), Some("abcdefgh"));
        assert_eq!(kept(8, &["abcd", "efgh"], false), None, "partly gone");
        assert_eq!(kept(8, &["abcd", "efghi"], true), None, "too large");
        assert_eq!(kept(8, &["abcdefghi", "j"], true), None, "too large, and what came later is small");
        assert_eq!(kept(0, &[], true).as_deref(), Some(""));
        assert!(kept(2 * PARTS_MAX, &["a"; PARTS_MAX], true).is_some());
        assert_eq!(kept(2 * PARTS_MAX, &["a"; PARTS_MAX + 1], true), None, "too many pieces");
        assert!(KeptBody::new(0, SizeHint::with_exact(0), true).replay().is_some(), "none is there from the start");
        assert!(KeptBody::new(8, SizeHint::with_exact(9), false).inner.lock().unwrap().too_large);
    }

    #[test]
    fn trailers_go_along() {
        let kept = KeptBody::new(8, SizeHint::default(), false);
        let trailers: HeaderMap = [(http::header::ETAG, http::HeaderValue::from_static("a"))].into_iter().collect();
        kept.keep(&Frame::trailers(trailers.clone()));
        assert_eq!(kept.replay().unwrap().next().unwrap().into_trailers().unwrap(), trailers);
    }
}
