//! Where endpoints are found: what a `discover` table was compiled to.

use crate::{DnsName, Families, Nameservers};
use portcullis_auth::HttpUrl;
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// Equal sources are the same source: a reload that leaves one as it was does not disturb it, and upstreams that name the
/// same one share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    Dns(DnsSource),
    File(FileSource),
    Http(HttpSource),
}

/// A list that a registry answers with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpSource {
    pub url: HttpUrl,
    /// Between two questions.
    pub every: Duration,
}

/// A name in DNS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DnsSource {
    pub seek: Seek,
    pub families: Families,
    /// How long endpoints are kept when their name has no answer any more.
    pub grace: Duration,
    pub through: Arc<Nameservers>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Seek {
    /// The addresses of a name, all on one port.
    Addresses { name: DnsName, port: u16 },
    /// The hosts and ports of a service (RFC 2782), and their addresses.
    Services { name: DnsName },
}

/// A list that something else writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileSource {
    pub path: PathBuf,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(dns) => match &dns.seek {
                Seek::Addresses { name, port } => write!(f, "dns {name}:{port}"),
                Seek::Services { name } => write!(f, "srv {name}"),
            },
            Self::Http(http) => write!(f, "http {}", http.url),
            Self::File(file) => write!(f, "file {}", file.path.display()),
        }
    }
}
