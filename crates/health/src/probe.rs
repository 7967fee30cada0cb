//! One question to one endpoint.

mod grpc;
mod http1;
mod http2;

use crate::{Ask, EndsSoon, HealthCheck, ProbeProtocol};
use portcullis_names::EndpointAddress;
use rustls::{ClientConfig, client::Resumption, pki_types::ServerName};
use std::{fmt, io, sync::Arc, time::SystemTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// Why a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Refused,
    Connect,
    Timeout,
    Tls,
    /// The certificate ends sooner than it may.
    Expires {
        days: u32,
    },
    Protocol,
    Status(u16),
    /// The body does not say what it has to.
    Body,
    /// A status of gRPC other than OK.
    Grpc(u16),
    /// gRPC health: NOT_SERVING, UNKNOWN or SERVICE_UNKNOWN.
    NotServing,
    /// Nobody asked: real requests failed, or whoever watches the member says so.
    Told,
}

impl Failure {
    /// One word of a closed set, for metrics and for other nodes.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Expires { .. } => "expires",
            Self::Protocol => "protocol",
            Self::Status(_) => "status",
            Self::Body => "body",
            Self::Grpc(_) => "grpc",
            Self::NotServing => "not_serving",
            Self::Told => "told",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Connect => f.write_str("cannot connect"),
            Self::Timeout => f.write_str("timeout"),
            Self::Tls => f.write_str("tls handshake failed"),
            Self::Expires { days } => write!(f, "certificate ends within {} days", days.saturating_add(1)),
            Self::Protocol => f.write_str("no valid answer"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Body => f.write_str("body does not match"),
            Self::Grpc(status) => write!(f, "grpc status {status}"),
            Self::NotServing => f.write_str("grpc service not serving"),
            Self::Told => f.write_str("out of service where its traffic passes"),
        }
    }
}

/// What is spoken.
#[derive(Debug, Clone)]
pub enum ProbeKind {
    Clear,
    Tls { config: Arc<ClientConfig>, server_name: ServerName<'static> },
}

/// A question ready to be asked.
#[derive(Debug, Clone)]
pub struct Probe {
    pub address: EndpointAddress,
    pub kind: ProbeKind,
    pub check: HealthCheck,
}

/// A good answer, and what is remarkable about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vitals {
    pub ends_soon: Option<EndsSoon>,
}

impl Probe {
    pub async fn run(&self) -> Result<Vitals, Failure> {
        match timeout(self.check.timeout, self.ask()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Timeout),
        }
    }

    async fn ask(&self) -> Result<Vitals, Failure> {
        let refused = |error: io::Error| {
            if error.kind() == io::ErrorKind::ConnectionRefused { Failure::Refused } else { Failure::Connect }
        };
        match &self.address {
            EndpointAddress::Ip(address) => self.over(TcpStream::connect(address).await.map_err(refused)?).await,
            EndpointAddress::Unix(path) => self.over(UnixStream::connect(path).await.map_err(refused)?).await,
        }
    }

    async fn over(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Vitals, Failure> {
        let ProbeKind::Tls { config, server_name } = &self.kind else {
            self.speak(stream).await?;
            return Ok(Vitals::default());
        };
        let connector = tokio_rustls::TlsConnector::from(self.tls(config));
        let tls = connector.connect(self.name(server_name).clone(), stream).await.map_err(|_| Failure::Tls)?;
        let (_, session) = tls.get_ref();
        let ends_soon = match &self.check.tls_expiry {
            None => None,
            Some(rule) => rule.judge(session.peer_certificates(), SystemTime::now())?,
        };
        // RFC 9113 §3.2: over TLS, h2 is what ALPN says.
        if self.check.ask.protocol() == ProbeProtocol::H2 && session.alpn_protocol() != Some(b"h2") {
            return Err(Failure::Protocol);
        }
        self.speak(tls).await?;
        Ok(Vitals { ends_soon })
    }

    fn tls(&self, config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
        let speaks_h2 = self.check.ask.protocol() == ProbeProtocol::H2;
        if !speaks_h2 && self.check.tls_expiry.is_none() {
            return config.clone();
        }
        let mut config = ClientConfig::clone(config);
        if speaks_h2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        if self.check.tls_expiry.is_some() {
            // A resumed session would show the certificate of the day it began.
            config.resumption = Resumption::disabled();
        }
        Arc::new(config)
    }

    fn name<'n>(&'n self, own: &'n ServerName<'static>) -> &'n ServerName<'static> {
        self.check.sni.as_ref().unwrap_or(own)
    }

    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Failure> {
        match &self.check.ask {
            Ask::Connect => Ok(()),
            Ask::Http(check) => match check.protocol {
                ProbeProtocol::H1 => http1::ask(stream, check, &self.host()).await,
                ProbeProtocol::H2 => http2::ask(stream, check, &self.host()).await,
            },
            Ask::Grpc(check) => grpc::ask(stream, check, &self.host()).await,
        }
    }

    fn host(&self) -> String {
        if let Some(host) = self.check.ask.host() {
            return host.to_string();
        }
        match (&self.kind, &self.address) {
            (ProbeKind::Tls { server_name, .. }, _) => match self.name(server_name) {
                ServerName::IpAddress(rustls::pki_types::IpAddr::V6(address)) => {
                    format!("[{}]", std::net::Ipv6Addr::from(*address))
                }
                name => name.to_str().into_owned(),
            },
            (ProbeKind::Clear, EndpointAddress::Ip(address)) => address.to_string(),
            (ProbeKind::Clear, EndpointAddress::Unix(_)) => "localhost".to_owned(),
        }
    }
}

const USER_AGENT: &str = "portcullis-health";
/// No head of an answer to a probe is larger.
const HEAD_BYTES_MAX: usize = 16 << 10;
