//! A request's body on its way over HTTP/2: what was sent is kept as long as it is little, and what goes on after the answer
//! has an end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::future::{Either, select};
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::lent::Tail;
use super::pool::spawn;
use crate::proxy::kept::Replay;
use crate::proxy::request_body::{BodyError, RequestBody};

/// What may follow a request's head before it is known that there is room: a frame as every service takes it.
const FIRST_PIECE_BYTES_MAX: usize = 16 << 10;

/// A piece of a body, as h2 holds it.
pub struct Chunk {
    bytes: Bytes,
    _unwritten: Arc<Unwritten>,
}

/// Dropped when h2 has written the last chunk of a body, or thrown it away.
type Unwritten = oneshot::Sender<Infallible>;

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// A request's body on its way.
pub struct Upload {
    body: RequestBody,
    stream: SendStream<Chunk>,
    /// What was taken of it, as long as it is not too much to be kept.
    taken: Option<Replay>,
    keep_bytes_max: usize,
    /// What was taken and not sent.
    piece: Option<Piece>,
    /// `None` as soon as h2 has all of it.
    unwritten: Option<Arc<Unwritten>>,
    written: oneshot::Receiver<Infallible>,
}

struct Piece {
    bytes: Bytes,
    last: bool,
    /// Whether it needs no room.
    at_once: bool,
}

impl Upload {
    pub fn new(body: RequestBody, stream: SendStream<Chunk>, keep_bytes_max: usize) -> Self {
        let (unwritten, written) = oneshot::channel();
        let unwritten = (!body.is_end_stream()).then(|| Arc::new(unwritten));
        Self { body, stream, taken: Some(Replay::beginning()), keep_bytes_max, piece: None, unwritten, written }
    }

    /// Ends when h2 has all of it, or the stream has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(unwritten) = &self.unwritten {
            if self.stream.poll_reset(cx).is_ready() {
                self.unwritten = None;
                break;
            }
            let more = match &self.piece {
                None => ready!(self.poll_take(cx)),
                Some(piece) => {
                    let room = piece.at_once || ready!(poll_room(&mut self.stream, cx));
                    let chunk = |bytes| Chunk { bytes, _unwritten: unwritten.clone() };
                    room && self
                        .piece
                        .take()
                        .is_some_and(|piece| self.stream.send_data(chunk(piece.bytes), piece.last).is_ok() && !piece.last)
                }
            };
            if !more {
                self.unwritten = None;
            }
        }
        Poll::Ready(())
    }

    /// Takes the next piece of the body. Whether there was one.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let first = self.taken.as_ref().is_some_and(Replay::is_empty);
        self.keep(frame.as_ref());
        let _ended = match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(bytes))) => {
                let (last, length) = (self.body.is_end_stream(), bytes.len());
                let at_once = length == 0 || (first && length <= FIRST_PIECE_BYTES_MAX);
                if !at_once {
                    // h2 asks for room for all of it once it has it; to ask before would keep room from other streams.
                    self.stream.reserve_capacity(1);
                }
                self.piece = Some(Piece { bytes, last, at_once });
                return Poll::Ready(true);
            }
            Some(Ok(Err(frame))) => {
                self.stream.reserve_capacity(0);
                frame.into_trailers().map_or(Ok(()), |trailers| self.stream.send_trailers(trailers))
            }
            None => match &self.unwritten {
                Some(unwritten) => self.stream.send_data(Chunk { bytes: Bytes::new(), _unwritten: unwritten.clone() }, true),
                None => Ok(()),
            },
            Some(Err(_)) => {
                self.stream.send_reset(Reason::CANCEL);
                Ok(())
            }
        };
        Poll::Ready(false)
    }

    fn keep(&mut self, frame: Option<&Result<Frame<Bytes>, BodyError>>) {
        match (frame, &mut self.taken) {
            (Some(Ok(frame)), Some(taken)) => {
                taken.push(frame);
                if taken.exceeds(self.keep_bytes_max) {
                    self.taken = None;
                }
            }
            (Some(Err(_)), _) => self.taken = None,
            (None, _) | (_, None) => {}
        }
    }

    /// The body as it was, if that is to be had.
    pub fn take_back(self) -> Option<RequestBody> {
        Some(self.body.put_back(self.taken?))
    }

    /// What is still to be written goes on by itself, until it is given up.
    pub fn rest(mut self) -> Option<Tail> {
        if self.unwritten.is_none() && self.written.try_recv() == Err(TryRecvError::Closed) {
            return None;
        }
        self.taken = None;
        let (moves, over) = oneshot::channel();
        let (wanted, unwanted) = oneshot::channel();
        spawn(async move {
            let written = async {
                poll_fn(|cx| self.poll(cx)).await;
                let Err(_dropped) = (&mut self.written).await;
            };
            let given_up = matches!(select(pin!(written), unwanted).await, Either::Right(_));
            if given_up {
                self.stream.send_reset(Reason::CANCEL);
            }
            drop((self, moves));
        });
        Some(Tail { over, wanted: Some(wanted) })
    }
}

/// Whether there is room for a piece, as soon as that is known.
fn poll_room(stream: &mut SendStream<Chunk>, cx: &mut Context<'_>) -> Poll<bool> {
    while stream.capacity() == 0 {
        if !matches!(ready!(stream.poll_capacity(cx)), Some(Ok(_))) {
            return Poll::Ready(false);
        }
    }
    Poll::Ready(true)
}
