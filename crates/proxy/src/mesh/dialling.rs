//! The sidecar's own TCP connections: marked, so that capture leaves them alone.

use std::{io, net::SocketAddr, time::Duration};
use tokio::net::{TcpSocket, TcpStream};

/// A connected socket, in time.
pub(crate) async fn connect(address: SocketAddr, mark: Option<u32>, within: Duration) -> io::Result<TcpStream> {
    let opened = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        let tcp = socket.connect(address).await?;
        // What is carried is written whole; waiting to fill a segment only adds delay.
        let _ = tcp.set_nodelay(true);
        Ok(tcp)
    };
    tokio::time::timeout(within, opened).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Whether a failed handshake says that there is no TLS at the other end at all. A certificate that is refused, or an alert,
/// is TLS.
pub(crate) fn is_not_tls(error: &io::Error) -> bool {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => matches!(tls, rustls::Error::InvalidMessage(_)),
        None => matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
    }
}
