//! Connection attempts on loopback, whether or not anybody answered: the only trace of a request to a dead origin.
//!
//! Needs the right to open a packet socket (CAP_NET_RAW); without it such attempts are not counted, and it says so.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::HashSet,
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

#[derive(Debug, Clone, Default)]
pub(crate) struct Wiretap {
    syns: Arc<Mutex<Vec<Syn>>>,
}

#[derive(Debug, Clone, Copy)]
struct Syn {
    port: u16,
    at: Instant,
}

/// `ETH_P_IP`, in network order as the kernel wants it.
const IPV4: i32 = 0x0800_u16.to_be() as i32;

impl Wiretap {
    pub(crate) fn start() -> Self {
        let tap = Self::default();
        match Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(IPV4))) {
            Ok(socket) => {
                let syns = tap.syns.clone();
                thread::spawn(move || listen(socket, &syns));
            }
            Err(error) => eprintln!("left out: connection attempts at dead origins are not seen ({error})"),
        }
        tap
    }

    /// When somebody tried to connect to this address.
    pub(crate) fn attempts(&self, address: SocketAddr) -> Vec<Instant> {
        let syns = self.syns.lock().unwrap_or_else(PoisonError::into_inner);
        syns.iter().filter(|syn| syn.port == address.port()).map(|syn| syn.at).collect()
    }
}

fn listen(mut socket: Socket, syns: &Mutex<Vec<Syn>>) {
    // Each packet passes loopback twice, and an unanswered SYN is sent again: one attempt has one port and sequence number.
    let mut seen = HashSet::new();
    let mut packet = [0; 64];
    while let Ok(length) = socket.read(&mut packet) {
        if let Some((port, key)) = packet.get(..length).and_then(syn)
            && seen.insert(key)
        {
            syns.lock().unwrap_or_else(PoisonError::into_inner).push(Syn { port, at: Instant::now() });
        }
    }
}

/// The port that a SYN goes to, and what tells it from others.
fn syn(packet: &[u8]) -> Option<(u16, [u8; 8])> {
    const TCP: u8 = 6;
    const SYN_NOT_ACK: (u8, u8) = (0x12, 0x02);
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let tcp = packet.get(header..)?;
    let flags = *tcp.get(13)?;
    if *packet.get(9)? != TCP || flags & SYN_NOT_ACK.0 != SYN_NOT_ACK.1 {
        return None;
    }
    // Source port, destination port, sequence number.
    let key: [u8; 8] = tcp.get(..8)?.try_into().ok()?;
    Some((u16::from_be_bytes([key[2], key[3]]), key))
}
