//! How much of a body is read in one go, and how soon, so that exchanges whose other side takes nothing hold little.
//!
//! pingora hands bodies on through queues of pieces, as large as they were read and however slowly they are taken: a
//! client that does not read its download costs as many pieces as the queues have places. So the more bodies are under way,
//! the smaller the pieces; a few get large ones, which cost the fewest calls. And where memory is all but gone, each waits
//! between its pieces: requests that were let in before cannot use up what shedding the others has left.

use portcullis_ops::Shedding;
use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Sleep, sleep},
};

/// A body that is being read, or what else arrives without end; dropped when that has ended.
#[derive(Debug)]
pub(crate) struct UnderWay {
    core: Arc<Bodies>,
    kind: Kind,
    pause: Pause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Body,
    /// Of an exchange over HTTP/2.
    BodyOfStream,
    /// A tunnel, or the frames of an HTTP/2 connection. Not counted, since most rest most of the time.
    Stream,
}

/// Between two pieces when memory is short.
#[derive(Debug, Default)]
enum Pause {
    #[default]
    Due,
    Waiting(Pin<Box<Sleep>>),
    Over,
}

/// What all bodies of a core have in common. Cores share nothing that every response writes to.
#[derive(Debug, Default)]
struct Bodies {
    count: AtomicUsize,
    shedding: OnceLock<Shedding>,
}

thread_local! {
    static CORE: Arc<Bodies> = Arc::default();
}

tokio::task_local! {
    static OF_STREAM: ();
}

/// Octets that the pieces of all bodies on a core may take up. Pieces that were queued before more bodies came stay, so
/// many that come at once exceed it by the logarithm of their number.
const ROOM: usize = 24 << 20;
/// The same for bodies that are read for streams of HTTP/2: one client has a hundred with one connection, and may give none a
/// window.
const ROOM_OF_STREAMS: usize = 6 << 20;
/// Pieces of one body at a time: pingora's queue has four places, what empties it takes four more, and one is being read.
const PIECES: usize = 9;
/// Of pingora's own reads.
const PIECE_MAX: usize = 64 << 10;
/// Of a tunnel: WebSocket messages are seldom larger. The largest frame that we allow an HTTP/2 client.
const PIECE_OF_STREAM: usize = 16 << 10;
/// Below this the calls cost more than the memory is worth.
const PIECE_MIN: usize = 4 << 10;
/// As long as memory is measured at the longest.
const PAUSE: Duration = Duration::from_millis(250);

/// Tells the thread of a core, once, what says that memory is short.
pub(crate) fn watch_memory(shedding: Shedding) {
    let _ = CORE.with(|core| core.shedding.set(shedding));
}

/// Runs the exchange of one HTTP/2 stream: bodies that begin in it are known as such.
pub(crate) fn of_stream<E: Future>(exchange: E) -> impl Future<Output = E::Output> {
    OF_STREAM.scope((), exchange)
}

impl UnderWay {
    /// Another body, on the core that asks.
    pub(crate) fn begin() -> Self {
        Self::of(if OF_STREAM.try_with(|()| ()).is_ok() { Kind::BodyOfStream } else { Kind::Body })
    }

    /// Another protocol after a 101, or an HTTP/2 connection.
    pub(crate) fn stream() -> Self {
        Self::of(Kind::Stream)
    }

    fn of(kind: Kind) -> Self {
        let core = CORE.with(Arc::clone);
        if kind != Kind::Stream {
            core.count.fetch_add(1, Relaxed);
        }
        Self { core, kind, pause: Pause::Due }
    }

    /// Reads its next piece.
    pub(crate) fn poll_read(
        &mut self,
        from: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_short = self.core.shedding.get().is_some_and(Shedding::is_short_of_memory);
        let piece = match self.kind {
            _ if is_short => {
                ready!(self.pause.poll(cx));
                PIECE_MIN
            }
            Kind::Body => piece(ROOM, self.core.count.load(Relaxed)),
            Kind::BodyOfStream => piece(ROOM_OF_STREAMS, self.core.count.load(Relaxed)),
            Kind::Stream => PIECE_OF_STREAM,
        };
        if buf.remaining() <= piece {
            ready!(from.poll_read(cx, buf))?;
        } else if piece <= PIECE_OF_STREAM {
            // What is read is copied, instead of as much being zeroed as might be read: messages are small.
            let mut stack = [MaybeUninit::uninit(); PIECE_OF_STREAM];
            let mut part = ReadBuf::uninit(stack.get_mut(..piece).unwrap_or_default());
            ready!(from.poll_read(cx, &mut part))?;
            buf.put_slice(part.filled());
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(piece));
            ready!(from.poll_read(cx, &mut part))?;
            let read = part.filled().len();
            buf.advance(read);
        }
        self.pause = Pause::Due;
        Poll::Ready(Ok(()))
    }

    /// Whether it is we who let the other side wait.
    pub(crate) fn is_pausing(&self) -> bool {
        matches!(self.pause, Pause::Waiting(_))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.kind != Kind::Stream {
            self.core.count.fetch_sub(1, Relaxed);
        }
    }
}

impl Pause {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self {
                Self::Due => *self = Self::Waiting(Box::pin(sleep(PAUSE))),
                Self::Waiting(timer) => {
                    ready!(timer.as_mut().poll(cx));
                    *self = Self::Over;
                }
                Self::Over => return Poll::Ready(()),
            }
        }
    }
}

fn piece(room: usize, bodies: usize) -> usize {
    (room / PIECES / bodies.max(1)).clamp(PIECE_MIN, PIECE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_many_bodies_are_small() {
        for (bodies, expected) in [(0, PIECE_MAX), (1, PIECE_MAX), (42, PIECE_MAX), (400, 6990), (100_000, PIECE_MIN)] {
            assert_eq!(piece(ROOM, bodies), expected, "{bodies}");
        }
        for (bodies, expected) in [(1, PIECE_MAX), (10, PIECE_MAX), (100, 6990), (1_000, PIECE_MIN)] {
            assert_eq!(piece(ROOM_OF_STREAMS, bodies), expected, "{bodies}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_in_pieces_as_long_as_others_are_under_way() {
        let source = vec![7_u8; PIECE_MAX * 2];
        let read = |body: &mut UnderWay| {
            let mut buf = vec![0; PIECE_MAX];
            let mut buf = ReadBuf::new(&mut buf);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(body.poll_read(Pin::new(&mut &source[..]), &mut cx, &mut buf).is_ready());
            assert!(buf.filled().iter().all(|octet| *octet == 7));
            buf.filled().len()
        };
        let mut body = UnderWay::begin();
        assert_eq!(read(&mut body), PIECE_MAX);
        let others: Vec<_> = (0..399).map(|_| UnderWay::begin()).collect();
        assert_eq!(read(&mut body), 6990);
        let mut of_stream = of_stream(async { UnderWay::begin() }).await;
        assert_eq!(read(&mut of_stream), PIECE_MIN);
        drop((others, of_stream));
        let mut tunnels: Vec<_> = (0..399).map(|_| UnderWay::stream()).collect();
        assert_eq!((read(&mut body), read(&mut tunnels[0])), (PIECE_MAX, PIECE_OF_STREAM));
    }
}
