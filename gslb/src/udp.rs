//! The UDP road: a thread a socket, datagrams taken and sent in batches (recvmmsg, sendmmsg). Decides nothing itself.

use crate::server::{Answered, Service};
use nix::{
    errno::Errno,
    libc::{in_pktinfo, in6_pktinfo},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, sendmsg,
        setsockopt, sockopt,
    },
};
use std::{
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
};

/// Datagrams of one system call.
const BATCH: usize = 64;
/// A query is far smaller; what is longer is cut by the kernel, and then malformed.
const DATAGRAM_MAX: usize = 4_096;
/// Looks at an empty socket before the thread sleeps: some ten microseconds, in which a busy socket has the next datagram.
const SPINS: u32 = 30;

/// How replies leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The socket has one address.
    Bound,
    /// Bound to all addresses: each reply must leave from the one that was asked.
    PerDatagram,
}

/// Where a datagram came from, and to.
type Ends = (SockaddrStorage, Option<ControlMessageOwned>);

/// Serves one socket until `stop` is closed at its other end.
pub(crate) fn run(socket: &UdpSocket, source: Source, stop: &UnixStream, mut service: Service) -> std::io::Result<()> {
    let fd = socket.as_raw_fd();
    let space = match source {
        Source::Bound => None,
        Source::PerDatagram => Some(nix::cmsg_space!(in6_pktinfo, in_pktinfo)),
    };
    let mut received = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, space);
    let mut sent = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut buffers = vec![[0u8; DATAGRAM_MAX]; BATCH];
    let mut replies: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(DATAGRAM_MAX)).collect();
    let mut spins = 0;
    while !service.is_stopped() {
        let mut used = 0;
        let mut ends: [Option<Ends>; BATCH] = [const { None }; BATCH];
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            let batch = match recvmmsg(fd, &mut received, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(batch) => batch,
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    spins += 1;
                    if spins < SPINS {
                        std::hint::spin_loop();
                    } else if !wait(socket, stop) {
                        return Ok(());
                    } else {
                        spins = 0;
                    }
                    continue;
                }
                // An ICMP error of an earlier reply is told on the socket; it is about somebody else.
                Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENOMEM) => continue,
                Err(error) => return Err(error.into()),
            };
            spins = 0;
            service.begin_batch();
            for datagram in batch {
                let Some(address) = datagram.address else { continue };
                let Some(client) = socket_address(&address).filter(|client| client.port() != 0) else { continue };
                let Some(octets) = datagram.iovs().next() else { continue };
                let Some(reply) = replies.get_mut(used) else { break };
                if service.datagram(octets, client, reply) == Answered::Reply {
                    let to = datagram.cmsgs().ok().and_then(|mut messages| messages.next());
                    if let Some(place) = ends.get_mut(used) {
                        *place = Some((address, to));
                    }
                    used += 1;
                }
            }
        }
        match source {
            Source::Bound => send_batch(fd, &mut sent, &replies, &ends, used),
            Source::PerDatagram => send_each(fd, &replies, &ends, used),
        }
    }
    Ok(())
}

/// To be called before the socket is heard of: a datagram that came earlier does not say where it was sent to.
pub(crate) fn prepare(socket: &UdpSocket) -> std::io::Result<Source> {
    let address = socket.local_addr()?;
    if !address.ip().is_unspecified() {
        return Ok(Source::Bound);
    }
    match address {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(Source::PerDatagram)
}

/// Sleeps until there is something to read; `false`: the end has come.
fn wait(socket: &UdpSocket, stop: &UnixStream) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => !fds[1].any().unwrap_or(false),
        Err(error) => error == Errno::EINTR,
    }
}

fn send_batch(
    fd: i32,
    headers: &mut MultiHeaders<SockaddrStorage>,
    replies: &[Vec<u8>],
    ends: &[Option<Ends>],
    used: usize,
) {
    let mut at = 0;
    while at < used {
        let slices: Vec<[IoSlice<'_>; 1]> =
            replies.get(at..used).unwrap_or_default().iter().map(|reply| [IoSlice::new(reply)]).collect();
        let addresses: Vec<_> = ends.get(at..used).unwrap_or_default().iter().map(|end| end.map_address()).collect();
        let none: [ControlMessage<'_>; 0] = [];
        match sendmmsg(fd, headers, slices.iter(), addresses, none, MsgFlags::MSG_DONTWAIT) {
            // What does not go out now is lost, as UDP may be; one datagram that the kernel refuses holds up no other.
            Ok(results) => at += results.count().max(1),
            Err(_) => at += 1,
        }
    }
}

fn send_each(fd: i32, replies: &[Vec<u8>], ends: &[Option<Ends>], used: usize) {
    for (reply, end) in replies.iter().zip(ends).take(used) {
        let Some((address, to)) = end else { continue };
        let slices = [IoSlice::new(reply)];
        // The interface is left to the routing table: a reply may leave by another one.
        let sent = match to {
            Some(ControlMessageOwned::Ipv4PacketInfo(info)) => {
                let info = in_pktinfo { ipi_ifindex: 0, ..*info };
                sendmsg(fd, &slices, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::MSG_DONTWAIT, Some(address))
            }
            Some(ControlMessageOwned::Ipv6PacketInfo(info)) => {
                sendmsg(fd, &slices, &[ControlMessage::Ipv6PacketInfo(info)], MsgFlags::MSG_DONTWAIT, Some(address))
            }
            _ => sendmsg(fd, &slices, &[], MsgFlags::MSG_DONTWAIT, Some(address)),
        };
        // Lost as UDP may be.
        sent.ok();
    }
}

trait MapAddress {
    fn map_address(&self) -> Option<SockaddrStorage>;
}

impl MapAddress for Option<Ends> {
    fn map_address(&self) -> Option<SockaddrStorage> {
        self.as_ref().map(|(address, _)| *address)
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))
}

/// A client of a dual-stack socket is known by its IPv4 address.
pub(crate) fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
