//! Opening listening sockets: one per core on the same port, so that the kernel spreads connections.

use portcullis_names::ListenAddress;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

/// A bound and listening socket that no runtime owns yet.
#[derive(Debug)]
pub enum BoundSocket {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

impl BoundSocket {
    /// Opens `count` sockets on one address. Port 0 is chosen by the first and shared by the rest.
    pub fn bind(address: &ListenAddress, count: usize) -> io::Result<Vec<Self>> {
        match address {
            ListenAddress::Unix(path) => Self::bind_unix(path, count),
            ListenAddress::Ip(address) => Self::bind_tcp(*address, V6Only::Yes, count),
            ListenAddress::Any(port) => {
                match Self::bind_tcp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), *port), V6Only::No, count) {
                    // A kernel without IPv6 still has every IPv4 address.
                    Err(error) if error.raw_os_error() == Some(libc_eafnosupport()) => Self::bind_tcp(
                        SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), *port),
                        V6Only::No,
                        count,
                    ),
                    other => other,
                }
            }
        }
    }

    fn bind_tcp(mut address: SocketAddr, v6_only: V6Only, count: usize) -> io::Result<Vec<Self>> {
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count.max(1) {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
            if address.is_ipv6() {
                socket.set_only_v6(matches!(v6_only, V6Only::Yes))?;
            }
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            let listener = std::net::TcpListener::from(socket);
            address = listener.local_addr()?;
            sockets.push(Self::Tcp(listener));
        }
        Ok(sockets)
    }

    /// One socket, shared by all cores: SO_REUSEPORT does not spread unix connections.
    fn bind_unix(path: &Path, count: usize) -> io::Result<Vec<Self>> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        // A socket file that nobody answers is what a killed process left.
        if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(BACKLOG)?;
        let first = UnixListener::from(OwnedFd::from(socket));
        let mut sockets = Vec::with_capacity(count);
        for _ in 1..count.max(1) {
            sockets.push(Self::Unix(first.try_clone()?));
        }
        sockets.push(Self::Unix(first));
        Ok(sockets)
    }

    /// Takes sockets that another process opened (systemd, or our predecessor) and shares them over `count` cores.
    pub fn adopt(fds: Vec<OwnedFd>, count: usize) -> io::Result<Vec<Self>> {
        let mut sockets = Vec::with_capacity(count);
        for fd in fds {
            let socket = Socket::from(fd);
            socket.set_nonblocking(true)?;
            let unix = socket.local_addr()?.is_unix();
            sockets.push(if unix { Self::Unix(OwnedFd::from(socket).into()) } else { Self::Tcp(socket.into()) });
        }
        let given = sockets.len();
        for extra in given..count {
            let Some(model) = sockets.get(extra % given.max(1)) else { break };
            let shared = model.try_clone()?;
            sockets.push(shared);
        }
        Ok(sockets)
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(tcp) => Self::Tcp(tcp.try_clone()?),
            Self::Unix(unix) => Self::Unix(unix.try_clone()?),
        })
    }

    /// As [`take_for_anybody`].
    pub fn set_transparent(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => take_for_anybody(tcp),
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The address as bound: with the port that was chosen for port 0.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Lets a listening socket of TCP take connections to addresses that are not ours, which the packet filter hands over
/// (TPROXY). Needs CAP_NET_ADMIN; holds for every handle of the socket.
pub fn take_for_anybody(socket: impl AsFd) -> io::Result<()> {
    let socket = socket2::SockRef::from(&socket);
    // A socket of IPv6 takes both families.
    if socket.local_addr()?.is_ipv6() {
        socket.set_ip_transparent_v6(true)?;
    }
    socket.set_ip_transparent_v4(true)
}

impl From<BoundSocket> for OwnedFd {
    fn from(socket: BoundSocket) -> Self {
        match socket {
            BoundSocket::Tcp(tcp) => tcp.into(),
            BoundSocket::Unix(unix) => unix.into(),
        }
    }
}

#[derive(Clone, Copy)]
enum V6Only {
    Yes,
    No,
}

/// EAFNOSUPPORT of Linux, the one platform this serves on.
const fn libc_eafnosupport() -> i32 {
    97
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sockets_of_a_listener_share_the_chosen_port() {
        let sockets = BoundSocket::bind(&"127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[test]
    fn any_address_takes_ipv4_and_ipv6() {
        let sockets = BoundSocket::bind(&":0".parse().unwrap(), 1).unwrap();
        let port = sockets[0].local_addr().unwrap().port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn what_one_handle_takes_for_anybody_all_take() {
        let socket = BoundSocket::bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let other: OwnedFd = socket.try_clone().unwrap().into();
        match take_for_anybody(&other) {
            Ok(()) => {
                let BoundSocket::Tcp(tcp) = &socket else { panic!("it is one of TCP") };
                assert!(socket2::SockRef::from(tcp).ip_transparent_v4().unwrap());
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "it needs a capability"),
        }
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = ListenAddress::Unix(folder.path().join("run/x.sock"));
        drop(BoundSocket::bind(&address, 2).unwrap());
        let live = BoundSocket::bind(&address, 2).unwrap();
        assert_eq!(live.len(), 2);
        assert!(BoundSocket::bind(&address, 1).is_err());
    }
}
