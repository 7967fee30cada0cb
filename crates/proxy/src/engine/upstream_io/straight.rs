//! The same connection, held to the same rules, for [`lane`](crate::engine::lane): heads whole, and content without its framing.

use super::{HeadGate, Reading, Then, UpstreamIo, bad};
use crate::conn::large_piece;
use bytes::{Bytes, BytesMut};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::unconstrained,
};

/// Of one read; as pingora's.
const PIECE: usize = 64 << 10;
/// What is placed for a quick copy takes 2 KiB more: little beside this, and too much beside the pieces that are read when memory is short.
const LARGE: usize = 16 << 10;
/// Heads of most requests fit: the buffer for the next one is kept.
const RESTING_BUFFER: usize = 2 << 10;

thread_local! {
    /// What a read fills before as much of it as came is kept.
    static PIECES: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into_boxed_slice());
}

impl UpstreamIo {
    /// Writes a request's head, which the next flush sends.
    pub(in crate::engine) fn begin(&mut self, head: &[u8]) {
        self.note_request(head);
        self.gathered.extend_from_slice(head);
    }

    pub(in crate::engine) fn gate(&self) -> HeadGate {
        self.gate.clone()
    }

    /// The head of the next answer, whole; after an interim one there is another. `None`: the connection ended before it.
    pub(in crate::engine) async fn head(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// More of the body that follows the head; `None` at its end.
    pub(in crate::engine) async fn content(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_content(cx)).await
    }

    /// The answer was read to its end.
    pub(in crate::engine) fn is_answered(&self) -> bool {
        matches!(self.reading, Reading::Resting)
    }

    /// Nothing came on a connection that rests, and nobody needs its place. The task of `cx` is woken when that changes.
    pub(in crate::engine) fn is_at_rest(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.ahead.is_empty() || !self.gathered.is_empty() || !self.is_answered() {
            return false;
        }
        let mut octet = [0];
        let mut octet = ReadBuf::new(&mut octet);
        // Whoever has used up tokio's budget would be told that nothing came, without a look.
        let looking = pin!(unconstrained(poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, &mut octet))));
        looking.poll(cx).is_pending()
    }

    /// Gives back what a large message needed.
    pub(in crate::engine) fn rest_lightly(&mut self) {
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        if self.gathered.is_empty() && self.gathered.capacity() > RESTING_BUFFER {
            self.gathered = Vec::new();
        }
    }

    /// Says goodbye, if the socket takes it at once.
    pub(in crate::engine) fn end(mut self: Box<Self>) {
        let _ = Pin::new(&mut *self).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if ready!(self.poll_read_head(cx))?.is_none() {
            return Poll::Ready(Ok(None));
        }
        ready!(self.poll_hold(cx))?;
        let Reading::HandOut { left, .. } = self.reading else {
            return Poll::Ready(Err(io::Error::other("a head was asked for in the middle of a body")));
        };
        let head = self.ahead.split_to(left).freeze();
        self.read_on();
        Poll::Ready(Ok(Some(head)))
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if self.is_answered() {
                return Poll::Ready(Ok(None));
            }
            let piece = ready!(self.poll_piece(cx))?;
            let Reading::Body(scanner) = &mut self.reading else {
                return Poll::Ready(Ok(Some(piece).filter(|piece| !piece.is_empty())));
            };
            if piece.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut content = Content::default();
            let advance = scanner.advance_through(&piece, |part| content.add(&piece, part)).map_err(bad)?;
            if advance.taken < piece.len() {
                // More than one response to one request: the origin or somebody before it is confused.
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "octets after the response")));
            }
            if advance.done {
                self.read(Then::Done);
            }
            if let Some(content) = content.take() {
                return Poll::Ready(Ok(Some(content)));
            }
        }
    }

    /// Octets as they came; none at the connection's end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut self.ahead).freeze()));
        }
        PIECES.with_borrow_mut(|room| {
            let mut piece = ReadBuf::new(room);
            ready!(self.poll_fill(cx, &mut piece))?;
            Poll::Ready(Ok(kept(piece.filled())))
        })
    }
}

/// Most go to a client, by TLS.
fn kept(octets: &[u8]) -> Bytes {
    if octets.len() < LARGE {
        return Bytes::copy_from_slice(octets);
    }
    let mut piece = large_piece(octets.len(), 0);
    piece.extend_from_slice(octets);
    piece.freeze()
}

/// What is left of one piece without its framing.
#[derive(Default)]
struct Content {
    first: Option<Bytes>,
    rest: BytesMut,
}

impl Content {
    fn add(&mut self, piece: &Bytes, part: std::ops::Range<usize>) {
        match &self.first {
            None => self.first = Some(piece.slice(part)),
            Some(_) => self.rest.extend_from_slice(piece.get(part).unwrap_or_default()),
        }
    }

    fn take(self) -> Option<Bytes> {
        let first = self.first?;
        if self.rest.is_empty() {
            return Some(first);
        }
        Some([&first[..], &self.rest[..]].concat().into())
    }
}
