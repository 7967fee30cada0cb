//! The UDP road: a thread a socket, datagrams taken and sent in batches (recvmmsg, sendmmsg). Decides nothing itself.

use crate::{
    answer::{self, Transport},
    server::{Answered, Service, Updated},
    updates::ReplyTo,
};
use nix::{
    errno::Errno,
    libc::{in_pktinfo, in6_pktinfo},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg,
        sendmmsg, sendmsg, setsockopt, sockopt,
    },
};
use rustix::net::sockopt::{self as sockopt_of_net, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use std::{
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
};

/// Datagrams of one system call.
const BATCH: usize = 64;
/// A query is far smaller; what is longer is cut by the kernel, and then malformed.
const DATAGRAM_MAX: usize = 4_096;
/// From one buffer to the next: at a distance of whole pages all of them would share a few lines of the nearest cache.
const STRIDE: usize = DATAGRAM_MAX + 64;
/// Looks at an empty socket before the thread sleeps: some ten microseconds, in which a busy socket has the next datagram.
const SPINS: u32 = 30;
/// Datagrams of a batch after which it is worth while to look for the next one.
const FEW: usize = 32;
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

/// The far end of a socket of one family: no larger than it has to be, as each is copied more than once.
trait Peer: SockaddrLike + Copy + Send + 'static {
    fn socket_address(self) -> SocketAddr;
}

impl Peer for SockaddrIn {
    fn socket_address(self) -> SocketAddr {
        SocketAddr::V4(self.into())
    }
}

impl Peer for SockaddrIn6 {
    fn socket_address(self) -> SocketAddr {
        SocketAddr::V6(self.into())
    }
}

/// Replies of one batch: one behind the other, so that they lie in few lines of cache.
struct Replies<P> {
    octets: Vec<u8>,
    /// Where each begins and ends.
    places: Vec<Range<usize>>,
    peers: Vec<Option<P>>,
    /// What was asked, where that is not the same for all.
    asked: Vec<Option<ControlMessageOwned>>,
}

/// Serves one socket until `stop` is closed at its other end.
pub(crate) fn run(socket: &UdpSocket, source: Source, stop: &UnixStream, service: Service) -> std::io::Result<()> {
    match socket.local_addr()? {
        SocketAddr::V4(_) => serve::<SockaddrIn>(socket, source, stop, service),
        SocketAddr::V6(_) => serve::<SockaddrIn6>(socket, source, stop, service),
    }
}

fn serve<P: Peer>(socket: &UdpSocket, source: Source, stop: &UnixStream, mut service: Service) -> std::io::Result<()> {
    let fd = socket.as_raw_fd();
    let space = match source {
        Source::Bound => None,
        Source::PerDatagram => Some(nix::cmsg_space!(in6_pktinfo, in_pktinfo)),
    };
    let mut received = MultiHeaders::<P>::preallocate(BATCH, space);
    let mut sent = MultiHeaders::<P>::preallocate(BATCH, None);
    let mut buffers = vec![0u8; STRIDE * BATCH];
    let mut reply = Vec::with_capacity(DATAGRAM_MAX);
    let mut replies = Replies::new();
    let mut last = LAST_BATCHES;
    let mut received_last = 0;
    loop {
        if service.is_stopped() {
            last = last.saturating_sub(1);
        }
        if last == 0 {
            return Ok(());
        }
        replies.clear();
        let buffers = buffers.chunks_exact_mut(STRIDE).filter_map(|buffer| buffer.get_mut(..DATAGRAM_MAX));
        let mut slices: Vec<_> = buffers.map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let batch = match recvmmsg(fd, &mut received, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
            Ok(batch) => batch,
            Err(Errno::EAGAIN) if service.is_stopped() => return Ok(()),
            Err(Errno::EAGAIN | Errno::EINTR) => {
                // A wake-up costs as much as the looks; shared by many datagrams it is not worth them.
                wait(socket, stop, if received_last <= FEW { SPINS } else { 0 });
                continue;
            }
            // An ICMP error of an earlier reply is told on the socket; it is about somebody else.
            Err(error) if !matches!(error, Errno::EBADF | Errno::ENOTSOCK | Errno::EINVAL) => {
                // Whatever it is, it must neither end the service nor take a whole core.
                wait(socket, stop, 0);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        received_last = 0;
        service.begin_batch();
        for datagram in batch {
            received_last += 1;
            let Some(peer) = datagram.address else { continue };
            let client = peer.socket_address();
            let Some(octets) = datagram.iovs().next().filter(|_| client.port() != 0) else { continue };
            let asked = || datagram.cmsgs().ok().and_then(|mut messages| messages.next());
            match service.update(octets, client, Transport::Udp, &mut reply, || later(socket, peer, asked())) {
                Some(Updated::Later) => continue,
                Some(Updated::Answered) => {}
                None if service.datagram(octets, client, &mut reply) == Answered::Reply => {}
                None => continue,
            }
            let asked = if source == Source::PerDatagram { asked() } else { None };
            replies.push(&reply, peer, asked);
        }
        service.end_batch();
        match source {
            Source::Bound => replies.send(fd, &mut sent),
            Source::PerDatagram => replies.send_each(fd),
        }
    }
}

/// To be called before the socket is heard of: a datagram that came earlier does not say where it was sent to.
pub(crate) fn prepare(socket: &UdpSocket) -> std::io::Result<Source> {
    let address = socket.local_addr()?;
    // RFC 9715 §3.1: no reply is cut into fragments, which can be forged one by one, whatever ICMP says of the path. That the
    // kernel needs no number for fragments saves a hundredth of the whole query.
    if address.is_ipv6() {
        sockopt_of_net::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?;
    }
    sockopt_of_net::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?;
    if !address.ip().is_unspecified() {
        return Ok(Source::Bound);
    }
    match address {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(Source::PerDatagram)
}

/// Looks a few times, then sleeps until there is something to read, or the end has come.
fn wait(socket: &UdpSocket, stop: &UnixStream, looks: u32) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    for _ in 0..looks {
        if poll(&mut fds, PollTimeout::ZERO) != Ok(0) {
            return;
        }
    }
    // What it says is found out by reading; a signal is as good a reason to look.
    poll(&mut fds, PollTimeout::NONE).ok();
}

impl<P: Peer> Replies<P> {
    fn new() -> Self {
        Self { octets: Vec::new(), places: Vec::new(), peers: Vec::new(), asked: Vec::new() }
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.places.clear();
        self.peers.clear();
        self.asked.clear();
    }

    fn push(&mut self, reply: &[u8], peer: P, asked: Option<ControlMessageOwned>) {
        let begin = self.octets.len();
        self.octets.extend_from_slice(reply);
        self.places.push(begin..self.octets.len());
        self.peers.push(Some(peer));
        self.asked.push(asked);
    }

    fn slices(&self) -> impl Iterator<Item = [IoSlice<'_>; 1]> {
        self.places.iter().map(|place| [IoSlice::new(self.octets.get(place.clone()).unwrap_or_default())])
    }

    fn send(&self, fd: i32, headers: &mut MultiHeaders<P>) {
        let slices: Vec<_> = self.slices().collect();
        let mut at = 0;
        while let (Some(slices @ [_, ..]), Some(peers)) = (slices.get(at..), self.peers.get(at..)) {
            let none: [ControlMessage<'_>; 0] = [];
            match sendmmsg(fd, headers, slices, peers, none, MsgFlags::MSG_DONTWAIT) {
                // What does not go out now is lost, as UDP may be; one datagram that the kernel refuses holds up no other.
                Ok(results) => at += results.count().max(1),
                Err(Errno::EMSGSIZE) => {
                    if let ([slices, ..], [peer, ..]) = (slices, peers) {
                        send_from(fd, slices, peer.as_ref(), None);
                    }
                    at += 1;
                }
                Err(_) => at += 1,
            }
        }
    }

    fn send_each(&self, fd: i32) {
        for ((slices, peer), asked) in self.slices().zip(&self.peers).zip(&self.asked) {
            send_from(fd, &slices, peer.as_ref(), asked.as_ref());
        }
    }
}

/// Sends from the address that was asked. What is larger than the interface takes becomes a word that there is more by TCP.
fn send_from<P: Peer>(fd: i32, slices: &[IoSlice<'_>; 1], peer: Option<&P>, asked: Option<&ControlMessageOwned>) {
    if try_send_from(fd, slices, peer, asked) == Err(Errno::EMSGSIZE) {
        let [reply] = slices;
        let mut short = reply.to_vec();
        answer::truncate(&mut short, 0);
        // Lost as UDP may be, like any other.
        try_send_from(fd, &[IoSlice::new(&short)], peer, asked).ok();
    }
}

fn try_send_from<P: Peer>(
    fd: i32,
    slices: &[IoSlice<'_>; 1],
    peer: Option<&P>,
    asked: Option<&ControlMessageOwned>,
) -> nix::Result<usize> {
    // The interface is left to the routing table: a reply may leave by another one.
    match asked {
        Some(ControlMessageOwned::Ipv4PacketInfo(info)) => {
            let info = in_pktinfo { ipi_ifindex: 0, ..*info };
            sendmsg(fd, slices, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::MSG_DONTWAIT, peer)
        }
        Some(ControlMessageOwned::Ipv6PacketInfo(info)) => {
            sendmsg(fd, slices, &[ControlMessage::Ipv6PacketInfo(info)], MsgFlags::MSG_DONTWAIT, peer)
        }
        _ => sendmsg(fd, slices, &[], MsgFlags::MSG_DONTWAIT, peer),
    }
}

/// For a reply that has to wait: sent from another thread.
fn later<P: Peer>(socket: &UdpSocket, peer: P, asked: Option<ControlMessageOwned>) -> Option<ReplyTo> {
    let socket = socket.try_clone().ok()?;
    Some(Box::new(move |reply| send_from(socket.as_raw_fd(), &[IoSlice::new(&reply)], Some(&peer), asked.as_ref())))
}

/// A client of a dual-stack socket is known by its IPv4 address.
pub(crate) fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
