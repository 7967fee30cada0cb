//! Where to connect: `"10.0.0.11:8080"`, `"[2001:db8::1]:443"`, `"unix:/run/app.sock"`.

use crate::text::{ParseError, text_type};
use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// An address that can be dialled without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    Ip(SocketAddr),
    Unix(PathBuf),
}

text_type!(
    EndpointAddress,
    format = "endpoint-address",
    expects = "an address to connect to, like \"10.0.0.11:8080\", \"[2001:db8::1]:443\" or \"unix:/run/app.sock\""
);

impl EndpointAddress {
    /// The address and port, where it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for EndpointAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = (1..=107).contains(&path.len()) && !path.contains('\0');
            return if fits {
                Ok(Self::Unix(path.into()))
            } else {
                Err(wrong().because("a socket path has 1 to 107 characters"))
            };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => Err(wrong().because("port 0 cannot be connected to")),
            Ok(address) => Ok(Self::Ip(address)),
            Err(_) if text.parse::<std::net::IpAddr>().is_ok() => Err(wrong().because("the port is missing")),
            Err(_) if crate::normalise_host(text).is_some() => {
                Err(wrong().because("host names are not supported by this version; write the address"))
            }
            Err(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_with_a_port_or_a_path() {
        for text in ["10.0.0.11:8080", "[2001:db8::1]:443", "unix:/run/app.sock"] {
            assert_eq!(text.parse::<EndpointAddress>().unwrap().to_string(), text);
        }
        for bad in ["", "10.0.0.11", "10.0.0.11:0", "app.internal:80", "unix:", "10.0.0.11:80:80"] {
            assert!(bad.parse::<EndpointAddress>().is_err(), "{bad}");
        }
    }
}
