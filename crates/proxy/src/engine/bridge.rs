//! h2 to an upstream over a connection of our own making: with our TLS, or through a parent proxy.
//!
//! pingora's h2 client takes only its own TLS, which cannot check a SAN, a CRL, or offer a post-quantum group. So the
//! connection is opened here, and pingora is handed one end of a socket pair as if the upstream spoke h2c; the bytes
//! cross in a task. The copy costs some microseconds a request on this path only; the peer's address is 0.0.0.0, for
//! which pingora skips the comparison with the socket's peer and so keeps the connection in its pool.

use super::dial::{DialTls, Dialer, Secured};
use async_trait::async_trait;
use pingora::{
    ErrorType, OrErr, Result,
    connectors::l4::Connect,
    protocols::l4::{socket::SocketAddr, stream::Stream},
};
use std::sync::Arc;
use tokio::net::UnixStream;

#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) dialer: Arc<Dialer>,
    pub(super) wants: Wants,
}

/// What is asked of the other side.
#[derive(Debug)]
pub(super) enum Wants {
    /// The TLS below; in it h2 and nothing else.
    H2(DialTls),
    /// h2, or else HTTP/1.1, which is [`SPOKE_H1`] here: the request then goes by another connection.
    AnyHttp(DialTls),
    /// h2 without asking, in the clear.
    H2c,
}

/// The error of a destination that could have chosen h2 and chose HTTP/1.1.
pub(super) const SPOKE_H1: &str = "HTTP/1.1 was chosen";

#[async_trait]
impl Connect for Bridge {
    async fn connect(&self, _: &SocketAddr) -> Result<Stream> {
        let secured = match &self.wants {
            Wants::H2(tls) | Wants::AnyHttp(tls) => self.dialer.connect_tls(tls).await?,
            Wants::H2c => Secured::Plain(self.dialer.connect().await?),
        };
        let (ours, mut theirs) = UnixStream::pair().or_err(ErrorType::InternalError, "socket pair")?;
        // Either side's end ends the other; how it ended is seen by the h2 client.
        match secured {
            Secured::Tls(mut tls) => {
                if !matches!(tls.get_ref().1.alpn_protocol(), Some(b"h2" | portcullis_mesh::ALPN_H2)) {
                    let kind = match self.wants {
                        Wants::AnyHttp(_) => ErrorType::Custom(SPOKE_H1),
                        Wants::H2(_) | Wants::H2c => ErrorType::TLSHandshakeFailure,
                    };
                    return pingora::Error::e_explain(kind, format!("{} does not speak h2", self.dialer.address));
                }
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tls, &mut theirs).await });
            }
            Secured::Plain(mut clear) => {
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut clear, &mut theirs).await });
            }
        }
        Ok(ours.into())
    }
}
