//! The IO type that pingora's HTTP/1 client is given for an upstream connection: what the origin says is held to
//! RFC 9112 before pingora's parser sees it, so a garbled answer becomes a 502, not somebody else's response.

mod straight;

use super::head_gate::HeadGate;
use crate::conn::{Secured, UnderWay};
use bytes::BytesMut;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use portcullis_upstream::{Rest, Seat};
use portcullis_wire::{
    BodyLimits, BodyScanner, Cursor, Framing, Parse, Refusal, RequestKind, ResponseFraming, ResponseLimits,
    parse_response_head,
};
use std::{
    fmt, io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Sleep, sleep_until},
};

/// An upstream HTTP/1 connection.
pub(crate) struct UpstreamIo {
    raw: Secured,
    fd: UniqueIDType,
    /// Response octets read and judged, not yet taken by the engine; or a head that is not whole yet.
    ahead: BytesMut,
    reading: Reading,
    /// The body that is being read.
    under_way: Option<UnderWay>,
    request: RequestKind,
    /// Answers before the final one.
    interims: u32,
    waits: Waits,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Since when nothing more of the request was taken.
    stuck: Option<Instant>,
    gathered: Vec<u8>,
    /// While it is closed a request is gathered and not sent.
    gate: HeadGate,
    socket: Arc<SocketDigest>,
    /// Counted by the upstream's circuit breaker as long as it is open.
    seat: Seat,
}

/// How long is waited where pingora's own clocks do not do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// For the answer to an upgrade: pingora's clock allows the rests of the protocol that follows.
    pub(crate) head: Duration,
    /// Until more of a request is taken. pingora's clock ends the sending only, and goes on waiting for an answer.
    pub(crate) write: Duration,
}

/// Where in a response we are.
enum Reading {
    /// No request was sent since the last response ended: whatever comes now was not asked for.
    Resting,
    Head(Cursor),
    /// A head whose small body is not whole yet: handed out together, so that an answer cut short can be asked for again
    /// elsewhere and the client never sees half of it.
    Held {
        head: usize,
        whole: usize,
        then: Then,
    },
    /// The judged head in front of `ahead` is being handed out; then `then` follows.
    HandOut {
        left: usize,
        then: Then,
    },
    Body(BodyScanner),
    /// Close-delimited (RFC 9112 §6.3 item 8) or switched to another protocol: bytes without rules of ours.
    Raw,
}

enum Then {
    /// After a 1xx the final head follows.
    Head,
    Body(BodyScanner),
    Done,
    /// A body until the connection's end.
    Raw,
    /// Another protocol.
    Tunnel,
}

/// 1xx answers to one request (RFC 9110 §15.2 sets no limit): they are passed on as they come, and keep every clock from
/// running out.
const INTERIMS_MOST: u32 = 32;
const GATHER_LIMIT: usize = 16 * 1024;
const HEAD_READ: usize = 8 * 1024;
/// A body of a known length up to this is awaited before its head is passed on,
const HELD_BODY: u64 = 16 * 1024;
/// but not for longer: an origin may send a short answer slowly on purpose.
const HELD_TIME: Duration = Duration::from_millis(500);

impl UpstreamIo {
    pub(super) fn new(raw: Secured, waits: Waits, seat: Seat) -> Self {
        let fd = raw.as_raw_fd();
        Self {
            raw,
            fd,
            ahead: BytesMut::new(),
            reading: Reading::Resting,
            under_way: None,
            request: RequestKind::Other,
            interims: 0,
            waits,
            alarm: None,
            stuck: None,
            gathered: Vec::new(),
            gate: HeadGate::default(),
            socket: Arc::new(SocketDigest::from_raw_fd(fd)),
            seat,
        }
    }

    /// The first octets of a request say whether its response can have a body.
    fn note_request(&mut self, bytes: &[u8]) {
        if matches!(self.reading, Reading::Resting) {
            self.seat.work();
            self.request = RequestKind::of(bytes);
            self.interims = 0;
            if self.request == RequestKind::Upgrade {
                self.alarm = Some(Box::pin(tokio::time::sleep(self.waits.head)));
            }
            self.reading = Reading::Head(Cursor::default());
        }
    }

    fn note_progress(&mut self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if sent.is_pending() {
            self.stuck.get_or_insert_with(Instant::now);
        } else if self.stuck.take().is_some() {
            self.alarm = None;
        }
        sent
    }

    fn poll_read_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<()>>> {
        loop {
            let Reading::Head(cursor) = &mut self.reading else { return Poll::Ready(Ok(Some(()))) };
            match parse_response_head(&self.ahead, self.request, &ResponseLimits::default(), cursor) {
                Ok(Parse::Complete { head, .. }) if head.status == 101 && self.request != RequestKind::Upgrade => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "an upgrade nobody asked for")));
                }
                Ok(Parse::Complete { head, .. }) if head.is_interim() && self.interims >= INTERIMS_MOST => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "interim responses without end",
                    )));
                }
                Ok(Parse::Complete { head, len }) => {
                    self.interims += u32::from(head.is_interim());
                    if !head.is_interim() || head.status == 101 {
                        self.alarm = None;
                    }
                    let then = match head.framing {
                        _ if head.status == 101 => Then::Tunnel,
                        _ if head.is_interim() => Then::Head,
                        ResponseFraming::Message(Framing::None | Framing::Length(0)) => Then::Done,
                        ResponseFraming::Message(framing) => {
                            Then::Body(BodyScanner::new(framing, BodyLimits::default()))
                        }
                        ResponseFraming::UntilClose => Then::Raw,
                    };
                    self.reading = match (then, head.framing) {
                        (then @ Then::Body(_), ResponseFraming::Message(Framing::Length(length)))
                            if length <= HELD_BODY =>
                        {
                            Reading::Held { head: len, whole: len + usize::try_from(length).unwrap_or(0), then }
                        }
                        (then, _) => Reading::HandOut { left: len, then },
                    };
                    return Poll::Ready(Ok(Some(())));
                }
                Ok(Parse::Incomplete) => {}
                Err(refusal) => return Poll::Ready(Err(bad(refusal))),
            }
            let mut stack = [std::mem::MaybeUninit::uninit(); HEAD_READ];
            let mut fresh = ReadBuf::uninit(&mut stack);
            if Pin::new(&mut self.raw).poll_read(cx, &mut fresh)?.is_pending() {
                if let Some(since) = self.stuck {
                    self.alarm.get_or_insert_with(|| Box::pin(sleep_until((since + self.waits.write).into())));
                }
                return match self.alarm.as_mut().map(|alarm| alarm.as_mut().poll(cx)) {
                    Some(Poll::Ready(())) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    Some(Poll::Pending) | None => Poll::Pending,
                };
            }
            if fresh.filled().is_empty() {
                return Poll::Ready(if self.ahead.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                });
            }
            self.ahead.extend_from_slice(fresh.filled());
        }
    }

    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Reading::Held { head, whole, .. } = self.reading else { return Poll::Ready(Ok(())) };
        while self.ahead.len() < whole {
            let mut stack = [std::mem::MaybeUninit::uninit(); HEAD_READ];
            let mut fresh = ReadBuf::uninit(&mut stack);
            if Pin::new(&mut self.raw).poll_read(cx, &mut fresh)?.is_pending() {
                let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(HELD_TIME)));
                ready!(alarm.as_mut().poll(cx));
                break;
            }
            if fresh.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.ahead.extend_from_slice(fresh.filled());
        }
        if self.ahead.len() > whole {
            // Nothing of it was passed on yet, and so nothing need be.
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "octets after the response")));
        }
        self.alarm = None;
        if let Reading::Held { then, .. } = std::mem::replace(&mut self.reading, Reading::Resting) {
            self.reading = Reading::HandOut { left: head, then };
        }
        Poll::Ready(Ok(()))
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let Reading::HandOut { left, .. } = &mut self.reading else { return };
        let taken = (*left).min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(taken));
        *left -= taken;
        if *left == 0 {
            self.read_on();
        }
    }

    /// The head was handed out: what follows it is read.
    fn read_on(&mut self) {
        if let Reading::HandOut { then, .. } = std::mem::replace(&mut self.reading, Reading::Resting) {
            self.read(then);
        }
    }

    fn read(&mut self, then: Then) {
        self.under_way = match then {
            Then::Head | Then::Done => None,
            Then::Body(_) | Then::Raw => Some(UnderWay::begin()),
            Then::Tunnel => Some(UnderWay::stream()),
        };
        self.reading = match then {
            Then::Head => Reading::Head(Cursor::default()),
            Then::Body(scanner) => Reading::Body(scanner),
            Then::Done => {
                self.seat.done();
                Reading::Resting
            }
            Then::Raw | Then::Tunnel => Reading::Raw,
        };
    }

    fn poll_read_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        ready!(self.poll_fill(cx, buf))?;
        let Reading::Body(scanner) = &mut self.reading else { return Poll::Ready(Ok(())) };
        let Some(fresh) = buf.filled().get(start..).filter(|fresh| !fresh.is_empty()) else {
            return Poll::Ready(Ok(()));
        };
        match scanner.advance(fresh) {
            Ok(advance) => {
                if advance.taken < fresh.len() {
                    // More than one response to one request: the origin or somebody before it is confused.
                    buf.set_filled(start);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "octets after the response")));
                }
                if advance.done {
                    self.read(Then::Done);
                }
                Poll::Ready(Ok(()))
            }
            Err(refusal) => {
                buf.set_filled(start);
                Poll::Ready(Err(bad(refusal)))
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return match &mut self.under_way {
                Some(body) => body.poll_read(Pin::new(&mut self.raw), cx, buf),
                None => Pin::new(&mut self.raw).poll_read(cx, buf),
            };
        }
        let taken = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(taken));
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let sent = Pin::new(&mut self.raw).poll_write(cx, &self.gathered);
            let sent = ready!(self.note_progress(sent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

fn bad(refusal: Refusal) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, refusal.as_str())
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        if matches!(io.reading, Reading::Head(_)) {
            match ready!(io.poll_read_head(cx))? {
                Some(()) => {}
                None => return Poll::Ready(Ok(())),
            }
        }
        ready!(io.poll_hold(cx))?;
        match &io.reading {
            Reading::HandOut { .. } => {
                io.hand_out(buf);
                Poll::Ready(Ok(()))
            }
            Reading::Body(_) => io.poll_read_body(cx, buf),
            // A pooled connection is watched for its end; anything else that arrives makes pingora drop it. Its end may be
            // that its place is needed.
            Reading::Resting => match io.seat.rest(cx) {
                Rest::Leave => Poll::Ready(Ok(())),
                Rest::Stay => io.poll_fill(cx, buf),
            },
            Reading::Raw | Reading::Head(_) | Reading::Held { .. } => io.poll_fill(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        // Of what is held back there is only the head, which was limited when it came in.
        let sends = !io.gate.is_closed();
        if sends && io.gathered.len() + bytes.len() > GATHER_LIMIT {
            ready!(io.poll_flush_gathered(cx))?;
        }
        io.note_request(bytes);
        if sends && bytes.len() >= GATHER_LIMIT {
            let sent = Pin::new(&mut io.raw).poll_write(cx, bytes);
            return io.note_progress(sent);
        }
        io.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        if io.gate.is_closed() {
            return Poll::Ready(Ok(()));
        }
        ready!(io.poll_flush_gathered(cx))?;
        Pin::new(&mut io.raw).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        if io.gate.is_closed() {
            // The verdict was against it, or nobody waits for one any more.
            io.gathered.clear();
        }
        ready!(io.poll_flush_gathered(cx))?;
        Pin::new(&mut io.raw).poll_shutdown(cx)
    }
}

impl fmt::Debug for UpstreamIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamIo").field("fd", &self.fd).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Shutdown for UpstreamIo {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for UpstreamIo {
    fn id(&self) -> UniqueIDType {
        self.fd
    }
}

impl Ssl for UpstreamIo {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        None
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        None
    }
}

impl GetTimingDigest for UpstreamIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for UpstreamIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.gate.carried()
    }
}

impl GetSocketDigest for UpstreamIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl Peek for UpstreamIo {}
