//! Where to listen: `":443"`, `"127.0.0.1:8080"`, `"[::1]:443"`, `"unix:run/x.sock"`.

use crate::text::{ParseError, text_type};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// A socket to bind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddress {
    /// `":port"`: every address, IPv6 and IPv4 on one dual-stack socket.
    Any(u16),
    Ip(SocketAddr),
    /// A path, relative to the working directory.
    Unix(PathBuf),
}

text_type!(
    ListenAddress,
    format = "listen-address",
    expects = "an address to listen on, like \":443\", \"127.0.0.1:8080\", \"[::1]:443\" or \"unix:run/x.sock\""
);

impl ListenAddress {
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Any(port) => Some(*port),
            Self::Ip(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }

    pub fn with_port(&self, port: u16) -> Option<Self> {
        match self {
            Self::Any(_) => Some(Self::Any(port)),
            Self::Ip(address) => Some(Self::Ip(SocketAddr::new(address.ip(), port))),
            Self::Unix(_) => None,
        }
    }

    /// Whether both cannot be bound at once. Port 0 is always free.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(a), Self::Unix(b)) => a == b,
            (Self::Unix(_), _) | (_, Self::Unix(_)) => false,
            _ if self.port() != other.port() || self.port() == Some(0) => false,
            (Self::Any(_), _) | (_, Self::Any(_)) => true,
            (Self::Ip(a), Self::Ip(b)) => a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()),
        }
    }
}

/// The unspecified address of a family takes every address of it. (`::` is bound v6-only; [`ListenAddress::Any`] is dual.)
fn covers(wide: IpAddr, narrow: IpAddr) -> bool {
    wide.is_unspecified() && wide.is_ipv4() == narrow.is_ipv4()
}

impl FromStr for ListenAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        if let Some(path) = text.strip_prefix("unix:") {
            // sun_path holds 108 octets with the final NUL (unix(7)).
            let fits = (1..=107).contains(&path.len()) && !path.contains('\0');
            return if fits {
                Ok(Self::Unix(path.into()))
            } else {
                Err(wrong().because("a socket path has 1 to 107 characters"))
            };
        }
        if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            return port
                .parse()
                .ok()
                .filter(|_| digits)
                .map(Self::Any)
                .ok_or_else(|| wrong().because("a port is a number from 0 to 65535"));
        }
        text.parse().map(Self::Ip).map_err(|_| match text.parse::<IpAddr>() {
            Ok(_) => wrong().because("the port is missing"),
            Err(_) => wrong(),
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(port) => write!(f, ":{port}"),
            Self::Ip(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_alike() {
        for text in [":443", "127.0.0.1:0", "[::1]:443", "unix:run/x.sock"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for bad in ["", "443", ":", ":70000", "127.0.0.1", "::1", "localhost:80", "unix:", ":+80"] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_that_cannot_both_be_bound_conflict() {
        for (a, b, conflict) in [
            (":443", "127.0.0.1:443", true),
            (":443", ":444", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:a", "unix:a", true),
        ] {
            let address = |text: &str| text.parse::<ListenAddress>().unwrap();
            assert_eq!(address(a).conflicts_with(&address(b)), conflict, "{a} {b}");
        }
    }
}
