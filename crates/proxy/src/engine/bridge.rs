//! h2 over TLS to an upstream, with our TLS.
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
pub(super) struct TlsBridge {
    pub(super) dialer: Arc<Dialer>,
    pub(super) tls: DialTls,
}

#[async_trait]
impl Connect for TlsBridge {
    async fn connect(&self, _: &SocketAddr) -> Result<Stream> {
        let secured = self.dialer.connect_tls(&self.tls).await?;
        let (ours, mut theirs) = UnixStream::pair().or_err(ErrorType::InternalError, "socket pair")?;
        // Either side's end ends the other; how it ended is seen by the h2 client.
        match secured {
            Secured::Tls(mut tls) => {
                if !matches!(tls.get_ref().1.alpn_protocol(), Some(b"h2" | portcullis_mesh::ALPN_H2)) {
                    return pingora::Error::e_explain(
                        ErrorType::TLSHandshakeFailure,
                        format!("{} does not speak h2", self.dialer.address),
                    );
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
