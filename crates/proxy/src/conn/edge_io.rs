//! The IO type that the HTTP engine is given for a client connection.
//!
//! The engine never sees a byte that `wire` has not passed: a message's head is parsed by the driver before the engine
//! starts, body framing is scanned here as it flows, and bytes behind the message stay here until the next one begins.
//! So the engine's own parser cannot be desynchronised, whatever it would accept.

use super::{ConnFacts, Fault, Transport, UnderWay, body_clock::BodyClock, h2_watch::H2Watch, linger};
use bytes::BytesMut;
use pingora::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use portcullis_wire::{BodyScanner, Framing};
use std::{
    fmt, io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// A client connection under an HTTP engine.
pub(crate) struct EdgeIo {
    /// `None` only while being dropped.
    transport: Option<Transport>,
    /// Bytes read from the wire and not yet given to the engine.
    ahead: BytesMut,
    reading: Reading,
    /// Writes are gathered until the engine flushes: one send per response, the largest single cost there is.
    gathered: Vec<u8>,
    wrote_since_message: bool,
    clock: BodyClock,
    facts: Arc<ConnFacts>,
    fd: UniqueIDType,
    /// How the facts travel through pingora to its sessions: as user data of a digest.
    carrier: Arc<ProxyDigest>,
    /// Held for as long as the socket lives, lingering included.
    _permit: Box<dyn std::any::Any + Send + Sync>,
}

/// What the engine may read next.
enum Reading {
    /// Between messages: the driver reads, the engine gets nothing.
    Idle,
    Message {
        head_left: usize,
        body: BodyScanner,
        /// `None`: it is whole, or there is none.
        under_way: Option<UnderWay>,
    },
    H2 {
        watch: Box<H2Watch>,
        frames: UnderWay,
    },
}

const GATHER_LIMIT: usize = 16 * 1024;
/// Read in one go while waiting for a head; on the stack, so that an idle connection holds no buffer.
const HEAD_READ: usize = 8 * 1024;
/// Pipelined bytes kept while a request is being answered. More is left in the kernel: back-pressure.
const AHEAD_LIMIT: usize = 64 * 1024;

impl EdgeIo {
    pub(crate) fn new(
        transport: Transport,
        ahead: BytesMut,
        facts: Arc<ConnFacts>,
        permit: Box<dyn std::any::Any + Send + Sync>,
    ) -> Self {
        let fd = transport.as_raw_fd();
        let head = pingora::http::ResponseHeader::build(200, Some(0)).expect("200 is a status code");
        let carrier = ProxyDigest::new(Box::new(head), Some(Box::new(facts.clone())));
        Self {
            transport: Some(transport),
            ahead,
            reading: Reading::Idle,
            gathered: Vec::new(),
            wrote_since_message: false,
            clock: BodyClock::default(),
            facts,
            fd,
            carrier: Arc::new(carrier),
            _permit: permit,
        }
    }

    pub(crate) fn facts(&self) -> &Arc<ConnFacts> {
        &self.facts
    }

    /// What the engine's sessions on this connection carry.
    pub(crate) fn session_digest(&self) -> Digest {
        Digest {
            ssl_digest: None,
            timing_digest: Vec::new(),
            proxy_digest: Some(self.carrier.clone()),
            socket_digest: None,
        }
    }

    /// Bytes of the next message read so far.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Reads more of the next message's head. 0: the client closed.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut stack = [std::mem::MaybeUninit::uninit(); HEAD_READ];
            let mut buf = ReadBuf::uninit(&mut stack);
            let transport = self.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            ready!(Pin::new(transport).poll_read(cx, &mut buf))?;
            self.ahead.extend_from_slice(buf.filled());
            self.facts.metrics.bytes_in(buf.filled().len() as u64);
            Poll::Ready(Ok(buf.filled().len()))
        })
        .await
    }

    /// The head of `head_len` octets at the front of [`Self::ahead`] was accepted: the engine may read this message.
    pub(crate) fn begin_message(&mut self, head_len: usize, framing: Framing, body: BodyScanner, clock: BodyClock) {
        let under_way = (framing != Framing::None).then(UnderWay::begin);
        self.reading = Reading::Message { head_left: head_len, body, under_way };
        self.wrote_since_message = false;
        self.clock = clock;
    }

    /// The engine handed the connection back after a complete exchange.
    pub(crate) fn end_message(&mut self) {
        self.reading = Reading::Idle;
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        if self.gathered.is_empty() {
            self.gathered = Vec::new();
        }
    }

    pub(crate) fn begin_h2(&mut self, watch: H2Watch) {
        self.reading = Reading::H2 { watch: Box::new(watch), frames: UnderWay::stream() };
    }

    /// The head of `len` octets is to be read as `spelt`, whose length is returned.
    pub(crate) fn replace_head(&mut self, len: usize, spelt: &[u8]) -> usize {
        let behind = self.ahead.split_off(len.min(self.ahead.len()));
        self.ahead = BytesMut::from(spelt);
        self.ahead.extend_from_slice(&behind);
        spelt.len()
    }

    /// Drops octets of a head that no engine is to see.
    pub(crate) fn consume(&mut self, len: usize) {
        let _ = self.ahead.split_to(len.min(self.ahead.len()));
    }

    /// What the connection consists of, for those who go on without HTTP: the octets read ahead come first.
    pub(crate) fn into_parts(mut self) -> Option<(Transport, BytesMut, Box<dyn std::any::Any + Send + Sync>)> {
        let permit = std::mem::replace(&mut self._permit, Box::new(()));
        Some((self.transport.take()?, std::mem::take(&mut self.ahead), permit))
    }

    /// Sends bytes of our own making, outside any engine.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Ends the connection kindly: what was said arrives even when the client is still talking.
    pub(crate) async fn close(mut self) {
        let _ = self.flush().await;
        if let Some(transport) = self.transport.take() {
            linger::close(transport).await;
        }
    }

    fn poll_flush_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let transport = self.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut sent = 0;
        let outcome = loop {
            match self.gathered.get(sent..) {
                None | Some([]) => break Poll::Ready(Ok(())),
                Some(rest) => match Pin::new(&mut *transport).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(n)) => sent += n,
                    Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                    Poll::Pending => break Poll::Pending,
                },
            }
        };
        if sent == self.gathered.len() {
            self.gathered.clear();
        } else {
            self.gathered.drain(..sent);
        }
        outcome
    }

    /// The bytes of one message, head first, then exactly its body.
    fn poll_read_message(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Reading::Message { head_left, body, under_way } = &mut self.reading else {
            return Poll::Ready(Err(io::Error::other("the engine read between messages")));
        };
        if *head_left > 0 {
            let taken = (*head_left).min(self.ahead.len()).min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(taken));
            *head_left -= taken;
            return Poll::Ready(Ok(()));
        }
        if self.facts.is_tunnel() && self.ahead.is_empty() {
            let octets = under_way.get_or_insert_with(UnderWay::stream);
            let transport = self.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            return octets.poll_read(Pin::new(transport), cx, buf);
        }
        if self.facts.is_tunnel() {
            return self.poll_read_ahead(buf);
        }
        let Some(reading) = under_way else { return self.poll_read_behind(cx) };
        let start = buf.filled().len();
        if self.ahead.is_empty() {
            let transport = self.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            match reading.poll_read(Pin::new(transport), cx, buf) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending if reading.is_pausing() => return Poll::Pending,
                Poll::Pending => {
                    if self.clock.poll_too_slow(cx, Instant::now()).is_ready() {
                        self.facts.set_fault(Fault::SlowBody);
                        return Poll::Ready(Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "request body came too slowly",
                        )));
                    }
                    return Poll::Pending;
                }
            }
            self.facts.metrics.bytes_in((buf.filled().len() - start) as u64);
        } else {
            let taken = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(taken));
        }
        let Some(fresh) = buf.filled().get(start..).filter(|fresh| !fresh.is_empty()) else {
            return Poll::Ready(Ok(()));
        };
        let advance = match body.advance(fresh) {
            Ok(advance) => advance,
            Err(refusal) => {
                buf.set_filled(start);
                self.facts.set_fault(Fault::Malformed(refusal));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal.as_str())));
            }
        };
        self.clock.received(advance.taken as u64, Instant::now());
        if advance.done {
            *under_way = None;
        }
        if let Some(behind) = fresh.get(advance.taken..).filter(|behind| !behind.is_empty()) {
            let mut ahead = BytesMut::with_capacity(behind.len() + self.ahead.len());
            ahead.extend_from_slice(behind);
            ahead.extend_from_slice(&self.ahead);
            self.ahead = ahead;
            buf.set_filled(start + advance.taken);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read_ahead(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let taken = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(taken));
        Poll::Ready(Ok(()))
    }

    /// The message is complete and the engine listens for a client that leaves: end of stream is reported, a pipelined
    /// message is kept for later and not reported.
    fn poll_read_behind(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < AHEAD_LIMIT {
            let mut stack = [std::mem::MaybeUninit::uninit(); 1024];
            let mut behind = ReadBuf::uninit(&mut stack);
            let transport = self.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            ready!(Pin::new(transport).poll_read(cx, &mut behind))?;
            if behind.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.facts.metrics.bytes_in(behind.filled().len() as u64);
            self.ahead.extend_from_slice(behind.filled());
        }
        Poll::Pending
    }

    fn poll_read_h2(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Reading::H2 { watch, frames } = &mut self.reading else {
            return Poll::Ready(Err(io::Error::other("not an h2 connection")));
        };
        let transport = self.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let start = buf.filled().len();
        if self.ahead.is_empty() {
            ready!(frames.poll_read(Pin::new(&mut *transport), cx, buf))?;
            self.facts.metrics.bytes_in((buf.filled().len() - start) as u64);
        } else {
            let taken = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(taken));
        }
        let Some(fresh) = buf.filled().get(start..) else { return Poll::Ready(Ok(())) };
        if let Some(abuse) = watch.inbound(fresh, Instant::now()) {
            self.facts.set_fault(Fault::H2Abuse(abuse));
            if let Some(goaway) = watch.goaway() {
                // Best effort: a peer that does not read its GOAWAY is cut all the same.
                let _ = Pin::new(transport).poll_write(cx, &goaway);
            }
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, abuse.as_str())));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for EdgeIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        match io.reading {
            Reading::H2 { .. } => io.poll_read_h2(cx, buf),
            Reading::Idle | Reading::Message { .. } => io.poll_read_message(cx, buf),
        }
    }
}

impl AsyncWrite for EdgeIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        if let Reading::H2 { watch, .. } = &mut io.reading {
            let transport = io.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let sent = ready!(Pin::new(transport).poll_write(cx, bytes))?;
            watch.outbound(bytes.get(..sent).unwrap_or_default());
            io.facts.metrics.bytes_out(sent as u64);
            return Poll::Ready(Ok(sent));
        }
        io.wrote_since_message = true;
        if io.gathered.len() + bytes.len() > GATHER_LIMIT {
            ready!(io.poll_flush_gathered(cx))?;
        }
        if bytes.len() >= GATHER_LIMIT {
            let transport = io.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let sent = ready!(Pin::new(transport).poll_write(cx, bytes))?;
            io.facts.metrics.bytes_out(sent as u64);
            return Poll::Ready(Ok(sent));
        }
        io.gathered.extend_from_slice(bytes);
        io.facts.metrics.bytes_out(bytes.len() as u64);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        ready!(io.poll_flush_gathered(cx))?;
        let transport = io.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Pin::new(transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.get_mut();
        ready!(io.poll_flush_gathered(cx))?;
        let transport = io.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Pin::new(transport).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = self.get_mut();
        if let Reading::H2 { watch, .. } = &mut io.reading {
            let transport = io.transport.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let sent = ready!(Pin::new(transport).poll_write_vectored(cx, slices))?;
            let mut left = sent;
            for slice in slices {
                let part = slice.get(..left.min(slice.len())).unwrap_or_default();
                watch.outbound(part);
                left -= part.len();
            }
            io.facts.metrics.bytes_out(sent as u64);
            return Poll::Ready(Ok(sent));
        }
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        Pin::new(io).poll_write(cx, first)
    }

    /// h2 frames go out as they are, header and payload in one send; h1 is gathered instead.
    fn is_write_vectored(&self) -> bool {
        matches!(self.reading, Reading::H2 { .. })
    }
}

/// A response that was sent while the client was still sending must not be lost to a reset (RFC 9112 §9.6).
impl Drop for EdgeIo {
    fn drop(&mut self) {
        let unread = match &self.reading {
            Reading::Message { under_way, .. } => under_way.is_some() || !self.ahead.is_empty(),
            Reading::Idle | Reading::H2 { .. } => false,
        };
        if !(unread && self.wrote_since_message) || self.facts.is_tunnel() {
            return;
        }
        let permit = std::mem::replace(&mut self._permit, Box::new(()));
        if let (Some(transport), Ok(runtime)) = (self.transport.take(), tokio::runtime::Handle::try_current()) {
            let gathered = std::mem::take(&mut self.gathered);
            runtime.spawn(async move {
                let mut transport = transport;
                if transport.write_all(&gathered).await.is_ok() {
                    linger::close(transport).await;
                }
                drop(permit);
            });
        }
    }
}

impl fmt::Debug for EdgeIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeIo").field("facts", &self.facts).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Shutdown for EdgeIo {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for EdgeIo {
    fn id(&self) -> UniqueIDType {
        self.fd
    }
}

impl Ssl for EdgeIo {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        None
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        None
    }
}

impl GetTimingDigest for EdgeIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for EdgeIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.carrier.clone())
    }
}

/// Addresses are the facts' business: the peer's may be that of a balancer, and nothing in the engine asks for it.
impl GetSocketDigest for EdgeIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for EdgeIo {}
