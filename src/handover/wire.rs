//! What the two processes say to each other: messages of bounded length, some with a descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::revocation::Carried;

/// The protocols that this version speaks. A change that an older process would not understand is another number.
pub const PROTOCOLS: &[u32] = &[1];

/// The longest message: as many revocations as go into one are far below it.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
const LENGTH_BYTES: usize = 4;

/// How long the other process may take for a step that needs no work of it.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// One message. What an older process does not know in one it leaves alone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    Hello {
        protocols: Vec<u32>,
        version: String,
        pid: u32,
    },
    Welcome {
        protocol: u32,
        version: String,
        pid: u32,
    },
    /// Goes with a descriptor.
    Socket {
        name: String,
    },
    Known(Carried),
    Offered {
        /// Issuers whose keys the old process does not have either.
        without_keys: Vec<String>,
        /// Whether the state that instances share is there.
        shared_state: bool,
    },
    Prepared {
        /// Names of the sockets that it goes on with.
        taken: Vec<String>,
    },
    Go,
    Serving,
    Leaving,
    Refused {
        reason: String,
    },
}

/// A connection between the two.
pub struct Link(UnixStream);

impl Link {
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// The user at the other end, as the kernel knows it.
    pub fn user(&self) -> io::Result<u32> {
        self.0.peer_cred().map(|credentials| credentials.uid())
    }

    /// Returns when there is something to receive, or the end.
    pub async fn readable(&self) {
        let _ = self.0.readable().await;
    }

    pub async fn send(&self, message: &Message) -> io::Result<()> {
        self.send_with(message, None).await
    }

    /// Sends a message; a descriptor goes with its first byte.
    pub async fn send_with(&self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message).map_err(io::Error::other)?;
        let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= MESSAGE_BYTES_MAX);
        let length = length.ok_or_else(|| io::Error::other("a message is too long"))?;
        let bytes = [&length.to_be_bytes()[..], &text].concat();
        let (mut sent, mut descriptor) = (0, descriptor);
        while sent < bytes.len() {
            let part = &bytes[sent..];
            let count = self.0.async_io(Interest::WRITABLE, || send_once(self.0.as_fd(), part, descriptor)).await?;
            sent += count;
            descriptor = None;
        }
        Ok(())
    }

    /// The next message, and its descriptor if one came with it; `None` when the other side ended between two messages.
    pub async fn receive(&self) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
        let mut descriptor = None;
        let mut length = [0; LENGTH_BYTES];
        match self.fill(&mut length, &mut descriptor).await? {
            0 => return Ok(None),
            LENGTH_BYTES => {}
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES_MAX {
            return Err(io::Error::other("a message is too long"));
        }
        let mut text = vec![0; length];
        if self.fill(&mut text, &mut descriptor).await? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message = serde_json::from_slice(&text).map_err(|_| io::Error::other("a message that makes no sense"))?;
        Ok(Some((message, descriptor)))
    }

    /// The next message, which must come soon, and whose absence has no other meaning.
    pub async fn expect(&self, patience: Duration) -> io::Result<(Message, Option<OwnedFd>)> {
        match timeout(patience, self.receive()).await {
            Ok(Ok(Some(received))) => Ok(received),
            Ok(Ok(None)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Fills the buffer, or as much of it as comes before the end.
    async fn fill(&self, buffer: &mut [u8], descriptor: &mut Option<OwnedFd>) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let room = &mut buffer[filled..];
            let (count, came) = self.0.async_io(Interest::READABLE, || receive_once(self.0.as_fd(), room)).await?;
            if came.is_some() {
                *descriptor = came;
            }
            match count {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }
}

fn send_once(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Descriptors beyond the first are closed by the kernel, for which there is no room.
fn receive_once(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last();
        }
    }
    Ok((received.bytes, descriptor))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as StdStream;

    use super::*;

    fn pair() -> (Link, Link) {
        let (one, other) = UnixStream::pair().unwrap();
        (Link::new(one), Link::new(other))
    }

    #[tokio::test]
    async fn a_descriptor_arrives_with_its_message_and_no_other() {
        let (one, other) = pair();
        let (mut near, far) = StdStream::pair().unwrap();
        let sending = async {
            one.send(&Message::Go).await.unwrap();
            one.send_with(&Message::Socket { name: "a".to_owned() }, Some(far.as_fd())).await.unwrap();
            one.send(&Message::Serving).await.unwrap();
            drop(one);
        };
        let receiving = async {
            assert!(matches!(other.receive().await, Ok(Some((Message::Go, None)))));
            let Ok(Some((Message::Socket { name }, Some(descriptor)))) = other.receive().await else { panic!() };
            assert!(matches!(other.receive().await, Ok(Some((Message::Serving, None)))));
            assert!(matches!(other.receive().await, Ok(None)));
            (name, descriptor)
        };
        let ((), (name, descriptor)) = tokio::join!(sending, receiving);
        assert_eq!(name, "a");
        near.write_all(b"x").unwrap();
        let mut read = [0];
        StdStream::from(descriptor).read_exact(&mut read).unwrap();
        assert_eq!(&read, b"x");
    }

    #[tokio::test]
    async fn a_message_larger_than_the_socket_s_buffer_arrives_whole() {
        let (one, other) = pair();
        let reason = "x".repeat(3 << 20);
        let sent = Message::Refused { reason: reason.clone() };
        let (sending, received) = tokio::join!(one.send(&sent), other.receive());
        sending.unwrap();
        assert!(matches!(received, Ok(Some((Message::Refused { reason: came }, None))) if came == reason));
        assert!(one.send(&Message::Refused { reason: "x".repeat(5 << 20) }).await.is_err());
    }

    #[tokio::test]
    async fn what_is_too_long_cut_off_or_nonsense_is_an_error() {
        for bytes in [&b"\xff\xff\xff\xff"[..], b"\0\0", b"\0\0\0\x05\"Go", b"\0\0\0\x02{}", b"\0\0\0\x06\"what\""] {
            let (one, other) = UnixStream::pair().unwrap();
            one.try_write(bytes).unwrap();
            drop(one);
            assert!(Link::new(other).receive().await.is_err(), "{bytes:?}");
        }
    }
}
