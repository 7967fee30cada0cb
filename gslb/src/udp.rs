//! The UDP road: a thread a socket, datagrams taken and sent in batches (recvmmsg, sendmmsg). Decides nothing itself.

use crate::{
    answer::Transport,
    server::{Answered, Service, Updated},
    updates::ReplyTo,
};
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
/// Batches that are still answered once the end has come: more than the kernel keeps for a socket.
const LAST_BATCHES: usize = 64;

/// How replies leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The socket has one address.
    Bound,
    /// Bound to all addresses: each reply must leave from the one that was asked.
    PerDatagram,
}

/// Where a datagram came from, and to.
type Ends = (Option<SockaddrStorage>, Option<ControlMessageOwned>);

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
    let mut ends: Vec<Ends> = Vec::with_capacity(BATCH);
    let mut spins = 0;
    let mut last = LAST_BATCHES;
    loop {
        if service.is_stopped() {
            last = last.saturating_sub(1);
        }
        if last == 0 {
            return Ok(());
        }
        ends.clear();
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            let batch = match recvmmsg(fd, &mut received, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(batch) => batch,
                Err(Errno::EAGAIN) if service.is_stopped() => return Ok(()),
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    spins += 1;
                    if spins < SPINS {
                        std::hint::spin_loop();
                    } else {
                        wait(socket, stop);
                        spins = 0;
                    }
                    continue;
                }
                // An ICMP error of an earlier reply is told on the socket; it is about somebody else.
                Err(error) if !matches!(error, Errno::EBADF | Errno::ENOTSOCK | Errno::EINVAL) => {
                    // Whatever it is, it must neither end the service nor take a whole core.
                    wait(socket, stop);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            spins = 0;
            service.begin_batch();
            for datagram in batch {
                let Some(address) = datagram.address else { continue };
                let Some(client) = socket_address(&address).filter(|client| client.port() != 0) else { continue };
                let Some(octets) = datagram.iovs().next() else { continue };
                let Some(reply) = replies.get_mut(ends.len()) else { break };
                let later = || later(socket, address, datagram.cmsgs().ok().and_then(|mut messages| messages.next()));
                match service.update(octets, client, Transport::Udp, reply, later) {
                    None => {}
                    Some(Updated::Later) => continue,
                    Some(Updated::Answered) => {
                        let to = datagram.cmsgs().ok().and_then(|mut messages| messages.next());
                        ends.push((Some(address), to));
                        continue;
                    }
                }
                if service.datagram(octets, client, reply) == Answered::Reply {
                    let to = datagram.cmsgs().ok().and_then(|mut messages| messages.next());
                    ends.push((Some(address), to));
                }
            }
        }
        match source {
            Source::Bound => send_batch(fd, &mut sent, &replies, &ends),
            Source::PerDatagram => send_each(fd, &replies, &ends),
        }
    }
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

/// Sleeps until there is something to read, or the end has come.
fn wait(socket: &UdpSocket, stop: &UnixStream) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    // What it says is found out by reading; a signal is as good a reason to look.
    poll(&mut fds, PollTimeout::NONE).ok();
}

fn send_batch(fd: i32, headers: &mut MultiHeaders<SockaddrStorage>, replies: &[Vec<u8>], ends: &[Ends]) {
    let mut at = 0;
    while let Some(rest) = ends.get(at..).filter(|rest| !rest.is_empty()) {
        let replies = replies.get(at..at + rest.len()).unwrap_or_default();
        let slices: Vec<[IoSlice<'_>; 1]> = replies.iter().map(|reply| [IoSlice::new(reply)]).collect();
        let addresses: Vec<_> = rest.iter().map(|(address, _)| *address).collect();
        let none: [ControlMessage<'_>; 0] = [];
        match sendmmsg(fd, headers, slices.iter(), addresses, none, MsgFlags::MSG_DONTWAIT) {
            // What does not go out now is lost, as UDP may be; one datagram that the kernel refuses holds up no other.
            Ok(results) => at += results.count().max(1),
            Err(_) => at += 1,
        }
    }
}

fn send_each(fd: i32, replies: &[Vec<u8>], ends: &[Ends]) {
    for (reply, (address, to)) in replies.iter().zip(ends) {
        let slices = [IoSlice::new(reply)];
        let address = address.as_ref();
        // The interface is left to the routing table: a reply may leave by another one.
        let sent = match to {
            Some(ControlMessageOwned::Ipv4PacketInfo(info)) => {
                let info = in_pktinfo { ipi_ifindex: 0, ..*info };
                sendmsg(fd, &slices, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::MSG_DONTWAIT, address)
            }
            Some(ControlMessageOwned::Ipv6PacketInfo(info)) => {
                sendmsg(fd, &slices, &[ControlMessage::Ipv6PacketInfo(info)], MsgFlags::MSG_DONTWAIT, address)
            }
            _ => sendmsg(fd, &slices, &[], MsgFlags::MSG_DONTWAIT, address),
        };
        // Lost as UDP may be.
        sent.ok();
    }
}

/// For a reply that has to wait: sent from another thread, from the address that was asked.
fn later(socket: &UdpSocket, address: SockaddrStorage, to: Option<ControlMessageOwned>) -> Option<ReplyTo> {
    let socket = socket.try_clone().ok()?;
    Some(Box::new(move |reply| send_each(socket.as_raw_fd(), &[reply], &[(Some(address), to)])))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))
}

/// A client of a dual-stack socket is known by its IPv4 address.
pub(crate) fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
