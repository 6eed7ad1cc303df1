//! What an HTTP/1 parser does not show: where each request's head begins and ends on the wire, whether it said its
//! length in two ways, and whether its target had a fragment. hyper drops `Content-Length` beside `Transfer-Encoding`, and
//! fragments, so that nobody after it can refuse.
//!
//! The tracker only watches bytes go by. It never changes one, and hyper stays the one parser that decides.

use std::collections::VecDeque;

/// Bytes of one line that are looked at; the names and lengths of interest are far shorter.
const LINE_BYTES_MAX: usize = 128;
/// Heads that may wait for their handlers on one connection (pipelining): more than hyper reads ahead.
const HEADS_MAX: usize = 8192;

/// What was seen of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeadFacts {
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.3).
    pub both_lengths: bool,
    /// A `#` in the request line: no target has a fragment (RFC 9112 §3.2).
    pub fragment: bool,
}

#[derive(Debug)]
pub struct FramingTracker {
    state: State,
    line: Vec<u8>,
    /// The byte before the one that comes next, also of a line that is cut.
    last: u8,
    heads: VecDeque<HeadFacts>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct HeadSoFar {
    lines: usize,
    length: Option<u64>,
    coded: bool,
    fragment: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head(HeadSoFar),
    Body(u64),
    ChunkSize,
    Chunk(u64),
    Trailers,
    /// The bytes are none of ours: a tunnel, or something that hyper will refuse.
    Lost,
}

impl Default for FramingTracker {
    fn default() -> Self {
        Self { state: State::Head(HeadSoFar::default()), line: Vec::new(), last: 0, heads: VecDeque::new() }
    }
}

impl FramingTracker {
    /// Watches bytes that the client sent.
    pub fn watch(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Lost => return,
                State::Body(left) => self.skip(bytes, left, State::Head(HeadSoFar::default()), State::Body),
                State::Chunk(left) => self.skip(bytes, left, State::ChunkSize, State::Chunk),
                State::Head(_) | State::ChunkSize | State::Trailers => self.read_line(bytes),
            };
        }
    }

    /// Whether the last request ended and no other has begun.
    pub fn is_between_heads(&self) -> bool {
        matches!(self.state, State::Head(_)) && !self.is_inside_head() && self.heads.is_empty()
    }

    /// Whether a body has begun and not ended.
    pub fn is_inside_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::ChunkSize | State::Chunk(_) | State::Trailers)
    }

    /// Whether a head has begun and not ended.
    pub fn is_inside_head(&self) -> bool {
        matches!(self.state, State::Head(head) if head.lines > 0 || !self.line.is_empty())
    }

    /// The facts of the next head, in the order of the requests. One that the tracker did not see, because it had lost its
    /// way before, counts as one that said its length in two ways: a guard that can be led astray guards nothing.
    pub fn next_head(&mut self) -> HeadFacts {
        self.heads.pop_front().unwrap_or(HeadFacts { both_lengths: true, ..HeadFacts::default() })
    }

    fn skip<'b>(&mut self, bytes: &'b [u8], left: u64, after: State, during: fn(u64) -> State) -> &'b [u8] {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - taken as u64;
        self.state = if left == 0 { after } else { during(left) };
        &bytes[taken..]
    }

    fn read_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if let State::Head(head) = &mut self.state
            && head.lines == 0
        {
            // Behind the method: `#` is a letter of methods (RFC 9110 §5.6.2).
            let method_ended = self.line.contains(&b' ');
            let target = part.iter().skip_while(|byte| !method_ended && **byte != b' ');
            head.fragment |= target.into_iter().any(|byte| *byte == b'#');
        }
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        self.last = part.last().copied().unwrap_or(self.last);
        let Some(end) = end else { return &[] };
        let line = std::mem::take(&mut self.line);
        // hyper ends a line of a chunked body by CR LF alone; whoever ends it earlier sees other requests.
        let ended = std::mem::take(&mut self.last) == b'\r';
        let cut = line.len() >= LINE_BYTES_MAX;
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        self.state = match self.state {
            State::Head(head) => self.head_line(head, line),
            State::ChunkSize | State::Trailers if !ended => State::Lost,
            State::ChunkSize if cut && !line.contains(&b';') => State::Lost,
            State::ChunkSize => match chunk_size(line) {
                Some(0) => State::Trailers,
                Some(size) => State::Chunk(size.saturating_add(2)),
                None => State::Lost,
            },
            State::Trailers if line.is_empty() => State::Head(HeadSoFar::default()),
            other @ (State::Trailers | State::Body(_) | State::Chunk(_) | State::Lost) => other,
        };
        &bytes[end + 1..]
    }

    fn head_line(&mut self, mut head: HeadSoFar, line: &[u8]) -> State {
        if !line.is_empty() {
            if head.lines > 0 {
                let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
                let (name, value) = (line[..colon].trim_ascii(), line[colon..].trim_ascii_start());
                if name.eq_ignore_ascii_case(b"content-length") {
                    let length = decimal(value.strip_prefix(b":").unwrap_or(value)).filter(|_| line.len() < LINE_BYTES_MAX);
                    let Some(length) = length else { return State::Lost };
                    head.length = Some(length);
                }
                head.coded |= name.eq_ignore_ascii_case(b"transfer-encoding");
            }
            head.lines += 1;
            return State::Head(head);
        }
        // Empty lines before a request are skipped (RFC 9112 §2.2).
        if head.lines == 0 {
            return State::Head(head);
        }
        if self.heads.len() >= HEADS_MAX {
            return State::Lost;
        }
        self.heads.push_back(HeadFacts { both_lengths: head.coded && head.length.is_some(), fragment: head.fragment });
        match (head.coded, head.length) {
            (true, _) => State::ChunkSize,
            (false, Some(length)) if length > 0 => State::Body(length),
            (false, _) => State::Head(HeadSoFar::default()),
        }
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value.trim_ascii()).ok().and_then(|text| text.parse().ok())
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heads(bytes: &[u8], step: usize) -> (Vec<bool>, bool) {
        let mut tracker = FramingTracker::default();
        let mut seen = Vec::new();
        for part in bytes.chunks(step.max(1)) {
            tracker.watch(part);
            while !tracker.heads.is_empty() {
                seen.push(tracker.next_head().both_lengths);
            }
        }
        (seen, tracker.is_inside_head())
    }

    const PIPELINE: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n\
        POST /b HTTP/1.1\r\nContent-Length: 6\r\nHost: x\r\n\r\nab\r\n\r\n\
        \r\nPOST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n3\r\n\r\n\n\r\n0\r\nTrailer: x\r\n\r\n\
        POST /d HTTP/1.1\r\ncontent-LENGTH: 3\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n\
        GET /e HTTP/1.1\r\nHo";

    #[test]
    fn a_fragment_is_one_in_the_target_and_not_in_the_method() {
        for (head, fragment) in
            [("GET /a#b HTTP/1.1", true), ("GET /a HTTP/1.1", false), ("x#y /a HTTP/1.1", false), ("x#y /a#b HTTP/1.1", true)]
        {
            for step in 1..head.len() {
                let mut tracker = FramingTracker::default();
                for part in format!("{head}\r\nHost: x#y\r\n\r\n").as_bytes().chunks(step) {
                    tracker.watch(part);
                }
                assert_eq!(tracker.next_head().fragment, fragment, "{head} in pieces of {step}");
            }
        }
    }

    proptest! {
        #[test]
        fn heads_are_found_however_the_bytes_arrive(step in 1usize..400) {
            prop_assert_eq!(heads(PIPELINE, step), (vec![false, false, false, true], true));
        }

        #[test]
        fn what_hyper_reads_otherwise_is_lost(step in 1usize..400) {
            let start = "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            let fake = "GET /f HTTP/1.1\nHost: x\n\n";
            let long = format!("{}1f\r\n\r\n{fake}", "0".repeat(130));
            for body in [format!("0\r\nX: a\n\n{fake}Y: b\r\n\r\n"), format!("0\r\n\n{fake}\r\n\r\n"), long] {
                prop_assert_eq!(heads(format!("{start}{body}").as_bytes(), step), (vec![false], false));
            }
        }

        #[test]
        fn no_bytes_confuse_it_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..2000), step in 1usize..64) {
            heads(&bytes, step);
        }
    }
}
