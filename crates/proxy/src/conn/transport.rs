//! The byte stream under an HTTP connection: clear or TLS, with bytes that were read ahead put back in front.

use super::Socket;
use bytes::{Buf, Bytes};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// A socket with bytes in front of it that were read before anybody knew what they were (PROXY header, ClientHello).
#[derive(Debug)]
pub(crate) struct Prefixed {
    front: Bytes,
    socket: Socket,
}

impl Prefixed {
    pub(crate) fn new(front: Bytes, socket: Socket) -> Self {
        Self { front, socket }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The octets still in front, and the socket.
    pub(crate) fn into_parts(self) -> (Bytes, Socket) {
        (self.front, self.socket)
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.front.is_empty() {
            let taken = self.front.len().min(buf.remaining());
            buf.put_slice(&self.front.split_to(taken));
            if !self.front.has_remaining() {
                self.front = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// What a client's HTTP travels in.
#[derive(Debug)]
pub(crate) enum Transport {
    Clear(Prefixed),
    Tls(Box<TlsStream<Prefixed>>),
    /// TLS inside a tunnel, opened in its destination's place.
    Inspected(Box<TlsStream<Fronted>>),
}

/// A transport with octets in front of it that were read before anybody knew what they were.
#[derive(Debug)]
pub(crate) struct Fronted {
    front: Bytes,
    inner: Transport,
}

impl Fronted {
    pub(crate) fn new(front: Bytes, inner: Transport) -> Self {
        Self { front, inner }
    }
}

impl AsyncRead for Fronted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.front.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let taken = self.front.len().min(buf.remaining());
        buf.put_slice(&self.front.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Fronted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Transport {
    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Self::Clear(clear) => clear.socket(),
            Self::Tls(tls) => tls.get_ref().0.socket(),
            Self::Inspected(tls) => tls.get_ref().0.inner.socket(),
        }
    }
}

impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }
}

macro_rules! on_both {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Clear($stream) => $call,
            Transport::Tls(boxed) => {
                let $stream = boxed.as_mut();
                $call
            }
            Transport::Inspected(boxed) => {
                let $stream = boxed.as_mut();
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_both!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_both!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_both!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_both!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_both!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
