//! A connection that we opened: in clear text, or inside our TLS.

use super::Socket;
use std::{
    fmt, io,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

/// A connection as it could be had.
pub(crate) enum Secured {
    Tls(Box<TlsStream<Socket>>),
    /// In clear text: nobody asked for more, or the endpoint of a permissive service has no sidecar.
    Plain(Socket),
}

impl Secured {
    /// Whether h2 may be spoken: by ALPN; in clear text nobody was asked.
    pub(crate) fn takes_h2(&self) -> bool {
        match self {
            Self::Tls(tls) => {
                matches!(tls.get_ref().1.alpn_protocol(), Some(b"h2" | portcullis_mesh::ALPN_H2))
            }
            Self::Plain(_) => true,
        }
    }
}

macro_rules! on_both {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Secured::Tls($stream) => $call,
            Secured::Plain($stream) => $call,
        }
    };
}

impl AsyncRead for Secured {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_both!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Secured {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_both!(self, stream => Pin::new(stream).poll_write(cx, bytes))
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

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_both!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_both!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl AsRawFd for Secured {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tls(tls) => tls.get_ref().0.as_raw_fd(),
            Self::Plain(socket) => socket.as_raw_fd(),
        }
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("fd", &self.as_raw_fd()).finish_non_exhaustive()
    }
}
