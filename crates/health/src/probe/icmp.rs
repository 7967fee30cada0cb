//! An echo by ICMP, over a socket that Linux gives to whom `net.ipv4.ping_group_range` names: no privilege, and no other ICMP.

use crate::Failure;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Octets that come back as they were sent.
const NONCE: usize = 16;
/// RFC 792 and RFC 4443 §4: kind, code, checksum, identifier, number. The kernel fills in checksum and identifier.
const HEADER: usize = 8;

pub(super) async fn ask(member: IpAddr) -> Result<(), Failure> {
    // Who may not ask knows nothing of the member.
    let socket = socket(member).map_err(|_| Failure::NoWord)?;
    let socket = tokio::net::UdpSocket::from_std(socket).map_err(|_| Failure::NoWord)?;
    socket.connect(SocketAddr::new(member, 0)).await.map_err(|_| Failure::Connect)?;
    let (request, reply) = if member.is_ipv4() { (8, 0) } else { (128, 129) };
    let nonce = fastrand::u128(..).to_be_bytes();
    let mut packet = [0; HEADER + NONCE];
    packet[0] = request;
    packet[HEADER..].copy_from_slice(&nonce);
    socket.send(&packet).await.map_err(|_| Failure::Connect)?;
    let mut heard = [0; 256];
    loop {
        let length = socket.recv(&mut heard).await.map_err(|_| Failure::Connect)?;
        let is_ours = heard.first() == Some(&reply) && heard.get(HEADER..length) == Some(&nonce);
        if is_ours {
            return Ok(());
        }
    }
}

fn socket(member: IpAddr) -> std::io::Result<UdpSocket> {
    let (domain, protocol) =
        if member.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    Ok(Socket::new(domain, Type::DGRAM.nonblocking(), Some(protocol))?.into())
}
