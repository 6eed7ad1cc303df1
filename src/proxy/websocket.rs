//! As much of WebSocket as ending one takes (RFC 6455 §5): where the frames of a server begin and end, and a close frame.

use super::ending::Reason;

/// The close code of a tunnel whose token counts no more: of the private range (§7.4.2), after HTTP's 401.
pub const CLOSE_CODE: u16 = 4401;

/// The close code of a tunnel whose gate goes away (§7.4.1): the client opens it anew, and finds another gate.
pub const GOING_AWAY: u16 = 1001;

/// The opcode of a close frame (§5.2).
const CLOSE: u8 = 8;

/// Follows frames as they go by; it never changes one.
#[derive(Debug, Default)]
pub struct Frames {
    head: Vec<u8>,
    left: u64,
    closed: bool,
}

impl Frames {
    /// Whether the next byte begins a frame.
    pub fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    /// Whether a close frame has begun: nothing comes after one (§5.5.1).
    pub fn has_closed(&self) -> bool {
        self.closed
    }

    /// Passes all bytes.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.pass_to_boundary(bytes);
            bytes = &bytes[count..];
        }
    }

    /// Passes bytes up to the end of a frame, or all; how many these are.
    pub fn pass_to_boundary(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() {
            if self.left > 0 {
                let part = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - passed);
                self.left -= part as u64;
                passed += part;
            } else {
                self.head.push(bytes[passed]);
                passed += 1;
                if let Some(length) = payload_length(&self.head) {
                    self.left = length;
                    self.closed |= self.head[0] & 0x0f == CLOSE;
                    self.head.clear();
                }
            }
            if self.is_between() {
                break;
            }
        }
        passed
    }
}

/// What follows a frame's head, once it is whole. A mask, which a server does not send, counts to the head.
fn payload_length(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if head.len() < 2 + extended + mask {
        return None;
    }
    match extended {
        0 => Some(u64::from(second & 0x7f)),
        _ => Some(head[2..2 + extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte))),
    }
}

/// A close frame, as a server sends it.
pub fn close_frame(code: u16, reason: Reason) -> Vec<u8> {
    // A control frame has 125 bytes at most (§5.5); our reasons are short.
    let reason = &reason.as_bytes()[..reason.len().min(120)];
    let mut frame = vec![0x88, reason.len() as u8 + 2];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_followed_however_their_bytes_arrive() {
        let frames: [Vec<u8>; 6] = [
            vec![0x81, 0],
            vec![0x81, 2, b'h', b'i'],
            [vec![0x82, 126, 1, 0], vec![7; 256]].concat(),
            [vec![0x02, 127, 0, 0, 0, 0, 0, 1, 0, 0], vec![7; 65_536]].concat(),
            vec![0x81, 0x82, 1, 2, 3, 4, 9, 9],
            close_frame(CLOSE_CODE, "expired"),
        ];
        let bytes = frames.concat();
        let ends: Vec<usize> = frames.iter().scan(0, |at, frame| Some(std::mem::replace(at, *at + frame.len()) + frame.len())).collect();
        for step in [1, 2, 3, 5, 8, 1000, bytes.len()] {
            let (mut watched, mut found, mut at) = (Frames::default(), Vec::new(), 0);
            for mut part in bytes.chunks(step) {
                while !part.is_empty() {
                    let count = watched.pass_to_boundary(part);
                    at += count;
                    part = &part[count..];
                    if watched.is_between() {
                        found.push(at);
                    }
                }
            }
            assert_eq!(found, ends, "{step}");
        }
        let mut watched = Frames::default();
        watched.pass(&bytes[..5]);
        assert!(!watched.is_between() && !watched.has_closed());
        watched.pass(&bytes[5..]);
        assert!(watched.is_between() && watched.has_closed());
    }

    #[test]
    fn a_close_frame_says_4401_and_why() {
        assert_eq!(close_frame(CLOSE_CODE, "expired"), [&[0x88, 9, 0x11, 0x31][..], b"expired"].concat());
    }
}
