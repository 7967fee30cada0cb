//! Where another program is asked over HTTP: an issuer's keys, an external authority.

use std::{fmt, net::IpAddr, str::FromStr};

/// `https://host[:port]/path[?query]`, or `http://…`. Without user, password or fragment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl {
    transport: Transport,
    /// Lower case; an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// Starts with `/`; a query is part of it.
    target: String,
}

/// Whether TLS is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Clear,
    Tls,
}

/// Why a text is no such URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("`{0}` is not a URL like \"https://id.example.com/keys\"")]
    NotAUrl(String),
    /// Who can change keys on their way can sign any token.
    #[error("`{0}` would be fetched in the clear; use https (http is for loopback addresses)")]
    InTheClear(String),
}

const URL_MAX_BYTES: usize = 2048;

impl HttpUrl {
    /// A URL whose answer must not be changed on its way: https, or http that stays on this machine.
    pub fn parse_protected(text: &str) -> Result<Self, UrlError> {
        let url: Self = text.parse()?;
        if url.transport == Transport::Tls || url.is_loopback() {
            Ok(url)
        } else {
            Err(UrlError::InTheClear(text.to_owned()))
        }
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The value of Host: without the scheme's own port (RFC 9110 §7.2).
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.transport, self.port) {
            (Transport::Clear, 80) | (Transport::Tls, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    fn is_loopback(&self) -> bool {
        // A name other than `localhost` (RFC 6761 §6.3) is whatever a resolver says.
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for HttpUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let wrong = || UrlError::NotAUrl(text.chars().take(80).collect());
        if text.len() > URL_MAX_BYTES || !text.bytes().all(|octet| octet.is_ascii_graphic()) || text.contains('#') {
            return Err(wrong());
        }
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let (transport, port) = match uri.scheme_str() {
            Some("https") => (Transport::Tls, 443),
            Some("http") => (Transport::Clear, 80),
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().to_ascii_lowercase();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host).to_owned();
        let says_port = authority.as_str().rsplit(']').next().is_some_and(|rest| rest.contains(':'));
        let port = if says_port { authority.port_u16().filter(|port| *port != 0).ok_or_else(wrong)? } else { port };
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Ok(Self { transport, host, port, target })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Clear => "http",
            Transport::Tls => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_printed_back() {
        for (text, printed) in [
            ("https://id.example.com/keys?x=1", Some("https://id.example.com/keys?x=1")),
            ("https://ID.example.com", Some("https://id.example.com/")),
            ("https://id.example.com:443/", Some("https://id.example.com/")),
            ("http://127.0.0.1:8080/a", Some("http://127.0.0.1:8080/a")),
            ("https://[::1]:8443/a", Some("https://[::1]:8443/a")),
            ("https://[::1]/a", Some("https://[::1]/a")),
            ("ftp://x/", None),
            ("//x/", None),
            ("/x", None),
            ("x", None),
            ("", None),
            ("https://", None),
            ("https:///x", None),
            ("https://user@x/", None),
            ("https://user:pw@x/", None),
            ("https://x:0/", None),
            ("https://x:99999/", None),
            ("https://x:/", None),
            ("https://x/#f", None),
            ("https://x/a b", None),
            ("https://x/\u{e9}", None),
        ] {
            assert_eq!(text.parse::<HttpUrl>().ok().map(|url| url.to_string()).as_deref(), printed, "{text}");
        }
    }

    #[test]
    fn what_must_not_be_changed_on_its_way_is_not_fetched_in_the_clear() {
        for (text, protected) in [
            ("https://id.example.com/", true),
            ("http://127.0.0.1/", true),
            ("http://127.9.9.9:1/", true),
            ("http://[::1]/", true),
            ("http://localhost:80/", true),
            ("http://id.example.com/", false),
            ("http://10.0.0.1/", false),
            ("http://localhost.example.com/", false),
            ("http://127.0.0.1.example.com/", false),
            ("http://[::2]/", false),
        ] {
            assert_eq!(HttpUrl::parse_protected(text).is_ok(), protected, "{text}");
        }
    }
}
