//! Frames of an HTTP/2 connection, counted as they go by: PING, SETTINGS, PRIORITY, WINDOW_UPDATE and unknown ones cost the
//! gate work and their client nothing, and h2 answers as many as come (CVE-2019-9512, -9515); so do streams that are opened
//! and reset at once (CVE-2023-44487). What else can be a flood, h2 bounds itself: CONTINUATION, empty and tiny DATA.
//!
//! The watch only counts. It never changes a byte, and h2 stays the one parser that decides.

use std::time::{Duration, Instant};

use super::connection::PREFACE;
use crate::observe::Limit;

/// In which time frames are counted.
const WINDOW: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 9;
/// A client that gives room for each piece that it read, however small, says so twice: for the stream and the connection.
const EXPLAINED_BY_FRAME: u64 = 2;
const BYTES_EXPLAIN_ONE: u64 = 512;
/// As much as half a gigabyte on its way explains.
const EXPLAINED_KEPT_MAX: u64 = 1 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;

/// GOAWAY for no stream in particular, with the code that says why (RFC 9113 §6.8, §7).
const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame's head (RFC 9113 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameHead {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the heads of frames, however their bytes arrive.
#[derive(Debug, Default)]
struct FrameHeads {
    head: [u8; HEAD_BYTES],
    filled: u8,
    left: u32,
}

impl FrameHeads {
    /// Passes bytes, and shows each head as it becomes whole.
    fn pass(&mut self, mut bytes: &[u8], mut seen: impl FnMut(FrameHead)) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let part = bytes.len().min(self.left as usize);
                self.left -= part as u32;
                bytes = &bytes[part..];
                continue;
            }
            let filled = usize::from(self.filled);
            let part = bytes.len().min(HEAD_BYTES - filled);
            self.head[filled..filled + part].copy_from_slice(&bytes[..part]);
            self.filled += part as u8;
            bytes = &bytes[part..];
            if usize::from(self.filled) == HEAD_BYTES {
                let [a, b, c, kind, flags, s1, s2, s3, s4] = self.head;
                let head = FrameHead {
                    length: u32::from_be_bytes([0, a, b, c]),
                    kind,
                    flags,
                    stream: u32::from_be_bytes([s1, s2, s3, s4]) & 0x7fff_ffff,
                };
                (self.filled, self.left) = (0, head.length);
                seen(head);
            }
        }
    }

    fn is_between(&self) -> bool {
        self.filled == 0 && self.left == 0
    }
}

/// How many frames a client may send within ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodLimits {
    pub resets: u32,
    pub control_frames: u32,
}

/// What one connection sends and is sent.
#[derive(Debug)]
pub struct FloodWatch {
    limits: FloodLimits,
    /// Bytes of the preface that are still to come.
    preface: u8,
    received: FrameHeads,
    sent: FrameHeads,
    begun: Option<Instant>,
    resets: u64,
    control: u64,
    /// Control frames that answers explain: room is given for what was read.
    explained: u64,
    last_stream: u32,
}

impl FloodWatch {
    pub fn new(limits: FloodLimits) -> Self {
        Self {
            limits,
            preface: PREFACE.len() as u8,
            received: FrameHeads::default(),
            sent: FrameHeads::default(),
            begun: None,
            resets: 0,
            control: 0,
            explained: 0,
            last_stream: 0,
        }
    }

    /// Bytes that came from the client; the limit that they are over.
    pub fn received(&mut self, bytes: &[u8], now: Instant) -> Option<Limit> {
        let preface = bytes.len().min(usize::from(self.preface));
        self.preface -= preface as u8;
        if self.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= WINDOW) {
            self.begun = Some(now);
            // What was sent just before is read just after.
            self.explained = self.explained.saturating_sub(self.control).min(EXPLAINED_KEPT_MAX);
            (self.resets, self.control) = (0, 0);
        }
        let (mut resets, mut control, mut last_stream) = (0, 0, self.last_stream);
        self.received.pass(&bytes[preface..], |frame| match frame.kind {
            DATA | PUSH_PROMISE | CONTINUATION => {}
            HEADERS => last_stream = last_stream.max(frame.stream),
            RST_STREAM => resets += 1,
            SETTINGS if frame.flags & ACK != 0 => {}
            // PING with ACK, too: our own are few, and h2 takes those that answer nothing.
            _ => control += 1,
        });
        (self.resets, self.control, self.last_stream) = (self.resets + resets, self.control + control, last_stream);
        if self.resets > u64::from(self.limits.resets) {
            return Some(Limit::Http2Resets);
        }
        (self.control > self.explained + u64::from(self.limits.control_frames)).then_some(Limit::Http2ControlFrames)
    }

    /// Bytes that went to the client.
    pub fn sent(&mut self, bytes: &[u8]) {
        let explained = &mut self.explained;
        self.sent.pass(bytes, |frame| {
            if matches!(frame.kind, DATA | HEADERS) {
                *explained += EXPLAINED_BY_FRAME + u64::from(frame.length) / BYTES_EXPLAIN_ONE;
            }
        });
    }

    /// What tells the client why its connection ends, if it can be told: not in the middle of a frame.
    pub fn farewell(&self) -> Option<[u8; HEAD_BYTES + 8]> {
        if !self.sent.is_between() {
            return None;
        }
        let mut frame = [0; HEAD_BYTES + 8];
        (frame[2], frame[3]) = (8, 7);
        frame[HEAD_BYTES..HEAD_BYTES + 4].copy_from_slice(&self.last_stream.to_be_bytes());
        frame[HEAD_BYTES + 4..].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    const LIMITS: FloodLimits = FloodLimits { resets: 5, control_frames: 10 };
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let mut bytes = (payload as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEAD_BYTES + payload, 0xff);
        bytes
    }

    fn opened() -> (FloodWatch, Instant) {
        let (mut watch, now) = (FloodWatch::new(LIMITS), clock::instant_now());
        assert_eq!(watch.received(PREFACE, now), None);
        (watch, now)
    }

    #[test]
    fn each_kind_of_frame_that_costs_nothing_is_a_flood_beyond_its_limit() {
        let kinds =
            [(PING, 0, 8), (PING, ACK, 8), (SETTINGS, 0, 0), (SETTINGS, 0, 6), (2, 0, 5), (WINDOW_UPDATE, 0, 4), (7, 0, 8), (0x42, 0, 100)];
        for (kind, flags, payload) in kinds {
            let (mut watch, now) = opened();
            let at = (1..100).find(|_| watch.received(&frame(kind, flags, 0, payload), now).is_some());
            assert_eq!(at, Some(11), "{kind}");
        }
        let (mut watch, now) = opened();
        let over: Vec<_> = (0..7).map(|_| watch.received(&frame(RST_STREAM, 0, 1, 4), now)).collect();
        assert_eq!(over, [None, None, None, None, None, Some(Limit::Http2Resets), Some(Limit::Http2Resets)]);
    }

    #[test]
    fn what_h2_refuses_by_itself_and_what_carries_something_is_no_flood() {
        let (mut watch, now) = opened();
        for (kind, flags, payload) in [(SETTINGS, ACK, 0), (DATA, 0, 1), (HEADERS, 4, 20), (CONTINUATION, 4, 20)] {
            assert!((0..100).all(|_| watch.received(&frame(kind, flags, 1, payload), now).is_none()), "{kind}");
        }
    }

    #[test]
    fn a_client_that_gives_room_for_each_small_piece_that_it_reads_is_no_flood() {
        let (mut watch, now) = opened();
        for _ in 0..1000 {
            watch.sent(&frame(DATA, 0, 1, 25));
            for stream in [0, 1] {
                assert_eq!(watch.received(&frame(WINDOW_UPDATE, 0, stream, 4), now), None);
            }
        }
        watch.sent(&frame(DATA, 0, 1, 16 << 10));
        assert!((0..32).all(|_| watch.received(&frame(WINDOW_UPDATE, 0, 1, 4), now).is_none()));
    }

    #[test]
    fn what_is_sent_before_the_count_begins_anew_explains_what_comes_after() {
        let (mut watch, now) = opened();
        watch.received(&frame(PING, 0, 0, 8), now);
        for _ in 0..100 {
            watch.sent(&frame(DATA, 0, 1, 4096));
        }
        let later = now + WINDOW;
        assert!((0..1000).all(|_| watch.received(&frame(WINDOW_UPDATE, 0, 1, 4), later).is_none()));
        let over = (0..20).find_map(|_| watch.received(&frame(WINDOW_UPDATE, 0, 1, 4), later));
        assert_eq!(over, Some(Limit::Http2ControlFrames));
        assert!((0..10).all(|_| watch.received(&frame(PING, 0, 0, 8), later + WINDOW).is_none()), "nothing is left, nothing is owed");
    }

    /// Or whoever sends PING after PING would earn the next with each answer.
    #[test]
    fn our_own_acknowledgements_explain_nothing() {
        let (mut watch, now) = opened();
        let mut over = None;
        for _ in 0..11 {
            over = watch.received(&frame(PING, 0, 0, 8), now);
            watch.sent(&frame(PING, ACK, 0, 8));
            watch.sent(&frame(SETTINGS, ACK, 0, 0));
        }
        assert_eq!(over, Some(Limit::Http2ControlFrames));
    }

    #[test]
    fn after_ten_seconds_the_count_begins_anew() {
        let (mut watch, now) = opened();
        for i in 0..5 {
            let now = now + WINDOW * i;
            assert!((0..10).all(|_| watch.received(&frame(PING, 0, 0, 8), now).is_none()), "{i}");
        }
    }

    #[test]
    fn the_farewell_is_a_goaway_between_two_frames() {
        let (mut watch, now) = opened();
        watch.received(&frame(HEADERS, 4, 7, 3), now);
        watch.received(&frame(HEADERS, 4, 5, 3), now);
        assert_eq!(watch.farewell(), Some([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 11]));
        watch.sent(&frame(DATA, 0, 1, 100)[..50]);
        assert_eq!(watch.farewell(), None);
    }

    proptest! {
        #[test]
        fn frames_are_found_however_their_bytes_arrive(
            frames in proptest::collection::vec((any::<u8>(), any::<u8>(), 0u32..1000, 0usize..300), 1..30),
            step in 1usize..64,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, *payload)).collect();
            let (mut heads, mut found) = (FrameHeads::default(), Vec::new());
            for part in bytes.chunks(step) {
                heads.pass(part, |head| found.push((head.kind, head.flags, head.stream, head.length as usize)));
            }
            prop_assert_eq!(found, frames);
            prop_assert!(heads.is_between());
        }

        #[test]
        fn no_bytes_confuse_it_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..2000), step in 1usize..64) {
            let mut watch = FloodWatch::new(LIMITS);
            for part in bytes.chunks(step) {
                watch.received(part, clock::instant_now());
                watch.sent(part);
            }
        }
    }
}
