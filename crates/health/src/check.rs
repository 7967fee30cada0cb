//! A health check with every value settled.

use crate::{BodyRule, ExpiryRule, Failure, ProbeProtocol};
use http::{
    Method,
    uri::{Authority, PathAndQuery},
};
use portcullis_names::Percent;
use rustls::pki_types::ServerName;
use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

/// The settings with every value settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub ask: Ask,
    /// In place of the upstream's own name.
    pub sni: Option<ServerName<'static>>,
    /// In place of the endpoint's own.
    pub port: Option<u16>,
    pub tls_expiry: Option<ExpiryRule>,
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy: u32,
    pub unhealthy: u32,
    pub jitter: Percent,
}

/// What is asked on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Nothing: that it opens is enough.
    Connect,
    Http(HttpCheck),
    Grpc(GrpcCheck),
    Dns(DnsCheck),
    /// An echo.
    Icmp,
    /// A program and its arguments.
    Command(Vec<String>),
    /// Somebody else writes it down.
    File(PathBuf),
    Several(Several),
}

/// Some of several checks have to go well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Several {
    pub need: usize,
    pub of: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub ask: Ask,
    pub port: Option<u16>,
    pub sni: Option<ServerName<'static>>,
}

/// A question to a name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsCheck {
    /// As the wire has it.
    pub name: Vec<u8>,
    pub of_type: u16,
}

/// A request, and the answer that is a good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    pub method: Method,
    pub path: PathAndQuery,
    pub host: Option<Authority>,
    pub protocol: ProbeProtocol,
    pub status: StatusRange,
    pub body: Option<BodyRule>,
}

/// `grpc.health.v1.Health/Check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcCheck {
    /// Empty: the server as a whole.
    pub service: String,
    pub host: Option<Authority>,
}

/// Statuses that count as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusRange {
    Between(RangeInclusive<u16>),
    Listed(Vec<u16>),
}

impl StatusRange {
    pub fn contains(&self, status: u16) -> bool {
        match self {
            Self::Between(range) => range.contains(&status),
            Self::Listed(list) => list.contains(&status),
        }
    }
}

impl Ask {
    /// h2 is spoken.
    pub(crate) fn protocol(&self) -> ProbeProtocol {
        match self {
            Self::Connect | Self::Dns(_) | Self::Icmp | Self::Command(_) | Self::File(_) | Self::Several(_) => {
                ProbeProtocol::H1
            }
            Self::Http(http) => http.protocol,
            Self::Grpc(_) => ProbeProtocol::H2,
        }
    }

    pub(crate) fn host(&self) -> Option<&Authority> {
        match self {
            Self::Connect | Self::Dns(_) | Self::Icmp | Self::Command(_) | Self::File(_) | Self::Several(_) => None,
            Self::Http(http) => http.host.as_ref(),
            Self::Grpc(grpc) => grpc.host.as_ref(),
        }
    }
}

impl HttpCheck {
    /// How much of the answer's body has to be read.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |rule| rule.within)
    }

    pub(crate) fn judge_status(&self, status: u16) -> Result<(), Failure> {
        if self.status.contains(status) { Ok(()) } else { Err(Failure::Status(status)) }
    }

    pub(crate) fn judge_body(&self, body: &[u8]) -> Result<(), Failure> {
        if self.body.as_ref().is_none_or(|rule| rule.is_met(body)) { Ok(()) } else { Err(Failure::Body) }
    }
}
