//! Tells secondaries that a zone has changed (RFC 1996).

use crate::{Name, RecordType, query::OPCODE_NOTIFY, record_type::CLASS_IN, server::Random};
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{net::UdpSocket, time::timeout};

/// RFC 1996 §3.6: sent again until answered, with growing pauses.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Sends until the secondary has answered, or will not.
pub(crate) async fn tell(apex: Name, to: SocketAddr, mut random: Random) {
    let id = random.draw() as u16;
    let octets = message(&apex, id);
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let Ok(socket) = UdpSocket::bind(any).await else { return };
    // A connected socket hears of nobody else.
    if socket.connect(to).await.is_err() {
        return;
    }
    for attempt in 0..TRIES {
        let wait = FIRST_WAIT * 2u32.saturating_pow(attempt);
        if socket.send(&octets).await.is_ok() {
            let mut reply = [0; 512];
            if let Ok(Ok(length)) = timeout(wait, socket.recv(&mut reply)).await
                && is_answer(reply.get(..length).unwrap_or_default(), id)
            {
                tracing::debug!(zone = %apex, %to, "secondary notified");
                return;
            }
        }
        tokio::time::sleep(wait).await;
    }
    tracing::warn!(zone = %apex, %to, "secondary does not answer to NOTIFY");
}

/// RFC 1996 §3.7: the apex's SOA as question, with AA.
fn message(apex: &Name, id: u16) -> Vec<u8> {
    let mut octets = id.to_be_bytes().to_vec();
    octets.extend([OPCODE_NOTIFY << 3 | 0x04, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    octets.extend(apex.as_wire());
    octets.extend(RecordType::SOA.0.to_be_bytes());
    octets.extend(CLASS_IN.to_be_bytes());
    octets
}

fn is_answer(octets: &[u8], id: u16) -> bool {
    matches!(octets, [id0, id1, flags, ..] if [*id0, *id1] == id.to_be_bytes() && flags & 0xf8 == 0x80 | OPCODE_NOTIFY << 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc1996_3_7_a_notify_asks_for_the_soa_and_is_answered_by_its_id() {
        let octets = message(&Name::absolute("a.test").unwrap(), 7);
        assert_eq!(octets, b"\0\x07\x24\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x06\0\x01");
        assert!(is_answer(&[0, 7, 0xa4, 0], 7));
        for other in [&[0, 8, 0xa4, 0][..], &[0, 7, 0x24, 0], &[0, 7, 0x84, 0], &[0]] {
            assert!(!is_answer(other, 7), "{other:?}");
        }
    }
}
