//! SOCKS 5 (RFC 1928) as a proxy reads it: CONNECT by remote name or address, without or with a user name and password
//! (RFC 1929). Deliberately absent: GSSAPI, BIND, UDP ASSOCIATE, SOCKS 4.

use crate::Parse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a SOCKS client is refused. All but [`SocksError::NotSocks`] have a reply to be sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    #[error("the first octet is not that of SOCKS 5")]
    NotSocks,
    #[error("the client offers none of the ways to say who it is that are taken")]
    NoMethod,
    #[error("the message is malformed")]
    Malformed,
    #[error("only CONNECT is served")]
    Command,
    #[error("the address type is not one of RFC 1928 §4")]
    AddressType,
}

/// How a client says who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocksMethod {
    None,
    Password,
}

impl SocksMethod {
    /// The answer that picks it.
    pub const fn reply(self) -> [u8; 2] {
        match self {
            Self::None => [VERSION, 0],
            Self::Password => [VERSION, 2],
        }
    }
}

/// Sent when [`SocksError::NoMethod`].
pub const NO_METHOD_REPLY: [u8; 2] = [VERSION, 0xff];

/// A user name and password as they came. A secret: no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SocksLogin {
    pub user: Vec<u8>,
    pub password: Vec<u8>,
}

/// The answer to a login (RFC 1929 §2); after a refusal the connection is closed.
pub const LOGIN_ACCEPTED: [u8; 2] = [1, 0];
pub const LOGIN_REFUSED: [u8; 2] = [1, 1];

/// Where a client wants to go. The name is ASCII and otherwise as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocksTarget {
    pub host: SocksHost,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocksHost {
    Name(String),
    Address(IpAddr),
}

/// What became of a request (RFC 1928 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocksReply {
    Succeeded,
    Failure,
    NotAllowed,
    NetworkUnreachable,
    HostUnreachable,
    Refused,
    TimedOut,
    CommandNotSupported,
    AddressTypeNotSupported,
}

impl SocksReply {
    /// Without the bound address: clients do not need it, and it would tell them of our inside.
    pub const fn octets(self) -> [u8; 10] {
        let code = match self {
            Self::Succeeded => 0,
            Self::Failure => 1,
            Self::NotAllowed => 2,
            Self::NetworkUnreachable => 3,
            Self::HostUnreachable => 4,
            Self::Refused => 5,
            Self::TimedOut => 6,
            Self::CommandNotSupported => 7,
            Self::AddressTypeNotSupported => 8,
        };
        [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

impl SocksError {
    /// What is answered to a request that is refused so.
    pub const fn reply(self) -> SocksReply {
        match self {
            Self::Command => SocksReply::CommandNotSupported,
            Self::AddressType => SocksReply::AddressTypeNotSupported,
            Self::NotSocks | Self::NoMethod | Self::Malformed => SocksReply::Failure,
        }
    }
}

const VERSION: u8 = 5;

/// The greeting: picks `wanted` if the client offers it (RFC 1928 §3).
pub fn parse_greeting(buf: &[u8], wanted: SocksMethod) -> Result<Parse<SocksMethod>, SocksError> {
    let (count, rest) = match buf {
        [] => return Ok(Parse::Incomplete),
        [VERSION] => return Ok(Parse::Incomplete),
        [VERSION, 0, ..] => return Err(SocksError::NoMethod),
        [VERSION, count, rest @ ..] => (usize::from(*count), rest),
        _ => return Err(SocksError::NotSocks),
    };
    let Some(offered) = rest.get(..count) else { return Ok(Parse::Incomplete) };
    let [_, code] = wanted.reply();
    if offered.contains(&code) {
        Ok(Parse::Complete { head: wanted, len: 2 + count })
    } else {
        Err(SocksError::NoMethod)
    }
}

/// User name and password (RFC 1929 §2).
pub fn parse_login(buf: &[u8]) -> Result<Parse<SocksLogin>, SocksError> {
    if buf.first().is_some_and(|version| *version != 1) {
        return Err(SocksError::Malformed);
    }
    let Some((user, after_user)) = text_at(buf, 1)? else { return Ok(Parse::Incomplete) };
    let Some((password, len)) = text_at(buf, after_user)? else { return Ok(Parse::Incomplete) };
    Ok(Parse::Complete { head: SocksLogin { user: user.to_vec(), password: password.to_vec() }, len })
}

/// One octet of length, then so many, at least one; with the offset behind.
fn text_at(buf: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, SocksError> {
    let Some(length) = buf.get(at) else { return Ok(None) };
    if *length == 0 {
        return Err(SocksError::Malformed);
    }
    let end = at + 1 + usize::from(*length);
    Ok(buf.get(at + 1..end).map(|text| (text, end)))
}

/// The request (RFC 1928 §4).
pub fn parse_request(buf: &[u8]) -> Result<Parse<SocksTarget>, SocksError> {
    match buf {
        [] | [VERSION] => return Ok(Parse::Incomplete),
        [VERSION, 1, ..] => {}
        [VERSION, ..] => return Err(SocksError::Command),
        _ => return Err(SocksError::Malformed),
    }
    if buf.get(2).is_some_and(|reserved| *reserved != 0) {
        return Err(SocksError::Malformed);
    }
    let Some(kind) = buf.get(3) else { return Ok(Parse::Incomplete) };
    let (host, at) = match kind {
        1 => match buf.get(4..8).and_then(|octets| <[u8; 4]>::try_from(octets).ok()) {
            Some(octets) => (SocksHost::Address(Ipv4Addr::from(octets).into()), 8),
            None => return Ok(Parse::Incomplete),
        },
        4 => match buf.get(4..20).and_then(|octets| <[u8; 16]>::try_from(octets).ok()) {
            Some(octets) => (SocksHost::Address(Ipv6Addr::from(octets).into()), 20),
            None => return Ok(Parse::Incomplete),
        },
        3 => {
            let Some((name, end)) = text_at(buf, 4)? else { return Ok(Parse::Incomplete) };
            if !name.iter().all(u8::is_ascii_graphic) {
                return Err(SocksError::Malformed);
            }
            (SocksHost::Name(String::from_utf8_lossy(name).into_owned()), end)
        }
        _ => return Err(SocksError::AddressType),
    };
    match buf.get(at..at + 2) {
        Some([high, low]) => {
            Ok(Parse::Complete { head: SocksTarget { host, port: u16::from_be_bytes([*high, *low]) }, len: at + 2 })
        }
        Some(_) | None => Ok(Parse::Incomplete),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete<T>(parse: Result<Parse<T>, SocksError>) -> Result<Option<(T, usize)>, SocksError> {
        Ok(match parse? {
            Parse::Complete { head, len } => Some((head, len)),
            Parse::Incomplete => None,
        })
    }

    #[test]
    fn greetings_pick_the_one_method_that_is_wanted() {
        use SocksMethod::{None as Nothing, Password};
        for (octets, wanted, expected) in [
            (&[5, 1, 0][..], Nothing, Ok(Some((Nothing, 3)))),
            (&[5, 3, 0, 1, 2], Password, Ok(Some((Password, 5)))),
            (&[5, 2, 0, 2, 5, 1], Nothing, Ok(Some((Nothing, 4)))),
            (&[5, 1, 0], Password, Err(SocksError::NoMethod)),
            (&[5, 1, 2], Nothing, Err(SocksError::NoMethod)),
            (&[5, 0], Nothing, Err(SocksError::NoMethod)),
            (&[5, 2, 0], Nothing, Ok(None)),
            (&[5], Nothing, Ok(None)),
            (&[], Nothing, Ok(None)),
            (&[4, 1], Nothing, Err(SocksError::NotSocks)),
            (b"GET ", Nothing, Err(SocksError::NotSocks)),
        ] {
            assert_eq!(complete(parse_greeting(octets, wanted)), expected, "{octets:?}");
        }
    }

    #[test]
    fn logins_are_read_whole() {
        let octets = [&[1, 2][..], b"ci", &[3], b"pw!"].concat();
        let (login, len) = complete(parse_login(&octets)).unwrap().unwrap();
        assert_eq!((login.user.as_slice(), login.password.as_slice(), len), (&b"ci"[..], &b"pw!"[..], 8));
        for cut in 0..octets.len() {
            assert!(complete(parse_login(&octets[..cut])).unwrap().is_none(), "{cut}");
        }
        for bad in [&[5, 1][..], &[1, 0], &[1, 1, b'x', 0]] {
            assert!(parse_login(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn requests_name_a_host_and_a_port() {
        let name = [&[5, 1, 0, 3, 6][..], b"a.test", &[1, 187]].concat();
        let v6 = [&[5, 1, 0, 4][..], &[0; 15], &[1, 0, 80]].concat();
        for (octets, expected) in [
            (name.as_slice(), SocksTarget { host: SocksHost::Name("a.test".into()), port: 443 }),
            (&[5, 1, 0, 1, 8, 8, 8, 8, 0, 53], SocksTarget { host: SocksHost::Address([8, 8, 8, 8].into()), port: 53 }),
            (&v6, SocksTarget { host: SocksHost::Address(Ipv6Addr::LOCALHOST.into()), port: 80 }),
        ] {
            assert_eq!(complete(parse_request(octets)), Ok(Some((expected, octets.len()))));
            for cut in 0..octets.len() {
                assert_eq!(complete(parse_request(&octets[..cut])), Ok(None), "{octets:?} {cut}");
            }
        }
        for (octets, error) in [
            (&[5, 2, 0, 1][..], SocksError::Command),
            (&[5, 3], SocksError::Command),
            (&[5, 1, 1], SocksError::Malformed),
            (&[5, 1, 0, 2], SocksError::AddressType),
            (&[5, 1, 0, 3, 0], SocksError::Malformed),
            (&[5, 1, 0, 3, 1, 0], SocksError::Malformed),
            (&[5, 1, 0, 3, 1, 0xe9], SocksError::Malformed),
            (&[4, 1], SocksError::Malformed),
        ] {
            assert_eq!(complete(parse_request(octets)), Err(error), "{octets:?}");
        }
    }

    #[test]
    fn mutated_messages_are_read_or_refused() {
        let seed = [&[5, 1, 0, 3, 6][..], b"a.test", &[1, 187]].concat();
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..50_000 {
            let mut octets = seed.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..octets.len());
                octets[at] = random.u8(..);
            }
            octets.truncate(random.usize(..=octets.len()));
            for len in [
                complete(parse_request(&octets)).ok().flatten().map(|(_, len)| len),
                complete(parse_login(&octets)).ok().flatten().map(|(_, len)| len),
                complete(parse_greeting(&octets, SocksMethod::None)).ok().flatten().map(|(_, len)| len),
            ] {
                assert!(len.is_none_or(|len| len <= octets.len()));
            }
        }
    }
}
