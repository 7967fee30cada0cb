//! Connects to checked addresses, and to nothing else: the only thing it takes is [`Checked`].
//!
//! In sequence, families taking turns (RFC 8305 §4 without the race): a second connection that is thrown away costs the
//! destination more than it saves an allowed caller.

use crate::{Checked, Reason};
use std::{io, net::SocketAddr, time::Duration};
use tokio::net::{TcpSocket, TcpStream};

/// How long and how often it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialLimits {
    pub attempts: usize,
    /// For one address.
    pub attempt_timeout: Duration,
    /// For all of them.
    pub timeout: Duration,
}

impl Default for DialLimits {
    fn default() -> Self {
        Self { attempts: 4, attempt_timeout: Duration::from_secs(3), timeout: Duration::from_secs(8) }
    }
}

/// Whether there is something to be sent as soon as a connection is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstWord {
    /// The client's first octets are here.
    Ready,
    /// They are yet to come, or the destination speaks first: it must not wait for an acknowledgement.
    Awaited,
}

/// An open connection and the address at its other end.
#[derive(Debug)]
pub struct Dialled {
    pub stream: TcpStream,
    pub to: Checked,
}

/// IPv6 first, then in turns; within a family as the name servers had them.
pub fn in_turns(candidates: &[Checked]) -> Vec<Checked> {
    let family = |v6: Family| {
        candidates.iter().copied().filter(move |checked| checked.socket_address().is_ipv6() == (v6 == Family::V6))
    };
    let (mut first, mut second) = (family(Family::V6), family(Family::V4));
    let mut ordered = Vec::with_capacity(candidates.len());
    loop {
        let (one, other) = (first.next(), second.next());
        if one.is_none() && other.is_none() {
            return ordered;
        }
        ordered.extend(one.into_iter().chain(other));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// The first address that takes a connection. The reason is that of the last one that did not.
pub async fn dial(candidates: &[Checked], limits: &DialLimits, first: FirstWord) -> Result<Dialled, Reason> {
    let tries = async {
        let mut reason = Reason::ConnectFailed;
        for to in in_turns(candidates).into_iter().take(limits.attempts) {
            match dial_one(to, limits.attempt_timeout, first).await {
                Ok(stream) => return Ok(Dialled { stream, to }),
                Err(failed) => reason = failed,
            }
        }
        Err(reason)
    };
    tokio::time::timeout(limits.timeout, tries).await.unwrap_or(Err(Reason::ConnectTimeout))
}

/// One address, in this time. For whoever chooses addresses by itself: each timer less is a system call less.
pub async fn dial_one(to: Checked, within: Duration, first: FirstWord) -> Result<TcpStream, Reason> {
    match tokio::time::timeout(within, connect(to.socket_address(), first)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Reason::ConnectRefused),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(Reason::ConnectTimeout),
        Ok(Err(_)) => Err(Reason::ConnectFailed),
        Err(_) => Err(Reason::ConnectTimeout),
    }
}

async fn connect(to: SocketAddr, first: FirstWord) -> io::Result<TcpStream> {
    let socket = if to.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_nodelay(true)?;
    if first == FirstWord::Ready {
        // The acknowledgement that ends the handshake goes with the first octets (tcp(7), TCP_QUICKACK): a packet less for each
        // connection. Where this cannot be said nothing is lost but that.
        let _ = rustix::net::sockopt::set_tcp_quickack(&socket, false);
    }
    socket.connect(to).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddressPolicy, PrivateRanges};
    use std::net::SocketAddr;
    use tokio::net::TcpListener;

    fn checked(address: SocketAddr) -> Checked {
        let private = PrivateRanges::new(&["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()]);
        AddressPolicy::default().check(address.ip(), address.port(), &private).unwrap()
    }

    #[test]
    fn families_take_turns() {
        let list = |texts: &[&str]| texts.iter().map(|text| checked(text.parse().unwrap())).collect::<Vec<_>>();
        let mixed = list(&["8.8.8.8:1", "8.8.4.4:1", "[2606::1]:1", "1.1.1.1:1", "[2606::2]:1"]);
        let turns = list(&["[2606::1]:1", "8.8.8.8:1", "[2606::2]:1", "8.8.4.4:1", "1.1.1.1:1"]);
        assert_eq!(in_turns(&mixed), turns);
        assert!(in_turns(&[]).is_empty());
    }

    #[tokio::test]
    async fn the_next_address_is_tried_and_tries_have_an_end() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = checked(closed.local_addr().unwrap());
        drop(closed);
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = checked(open.local_addr().unwrap());
        let limits = DialLimits { attempts: 2, ..DialLimits::default() };
        assert_eq!(dial(&[refusing, good], &limits, FirstWord::Ready).await.unwrap().to, good);
        assert_eq!(
            dial(&[refusing, refusing, good], &limits, FirstWord::Awaited).await.unwrap_err(),
            Reason::ConnectRefused
        );
        assert_eq!(dial(&[], &limits, FirstWord::Awaited).await.unwrap_err(), Reason::ConnectFailed);
    }
}
