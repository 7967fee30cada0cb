//! One question to one endpoint.

mod command;
mod dns;
mod file;
mod grpc;
mod http1;
mod http2;
mod icmp;

use crate::{Ask, EndsSoon, HealthCheck, Part, ProbeProtocol, Several};
use portcullis_names::EndpointAddress;
use rustls::{ClientConfig, client::Resumption, pki_types::ServerName};
use std::{fmt, io, net::SocketAddr, sync::Arc, time::SystemTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinSet,
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
    /// A name server has no such record.
    NoAnswer,
    /// A name server refuses, or fails.
    Rcode(u8),
    /// A program ended with this.
    Exit(i32),
    /// Fewer checks went well than have to.
    Quorum,
    /// It could not be asked: nothing is known, and nothing changes.
    NoWord,
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
            Self::NoAnswer => "no_answer",
            Self::Rcode(_) => "rcode",
            Self::Exit(_) => "exit",
            Self::Quorum => "quorum",
            Self::NoWord => "no_word",
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
            Self::NoAnswer => f.write_str("no such record"),
            Self::Rcode(code) => write!(f, "dns response code {code}"),
            Self::Exit(code) => write!(f, "the program ended with {code}"),
            Self::Quorum => f.write_str("too few of its checks went well"),
            Self::NoWord => f.write_str("cannot be asked"),
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
        let asked = async {
            match &self.check.ask {
                Ask::Several(several) => self.several(several).await,
                _ => self.ask().await,
            }
        };
        match timeout(self.check.timeout, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Timeout),
        }
    }

    async fn ask(&self) -> Result<Vitals, Failure> {
        let member = self.member().ok_or(Failure::NoWord);
        let outcome = match &self.check.ask {
            Ask::Dns(check) => dns::ask(member?, check).await,
            Ask::Icmp => icmp::ask(member?.ip()).await,
            Ask::Command(words) => command::ask(words, member.ok()).await,
            Ask::File(file) => file::ask(file, member?.ip()).await,
            Ask::Connect | Ask::Http(_) | Ask::Grpc(_) | Ask::Several(_) => return self.connect().await,
        };
        outcome.map(|()| Vitals::default())
    }

    async fn connect(&self) -> Result<Vitals, Failure> {
        let refused = |error: io::Error| {
            if error.kind() == io::ErrorKind::ConnectionRefused { Failure::Refused } else { Failure::Connect }
        };
        match &self.address {
            EndpointAddress::Ip(address) => {
                let address = self.member().unwrap_or(*address);
                self.over(TcpStream::connect(address).await.map_err(refused)?).await
            }
            EndpointAddress::Unix(path) => self.over(UnixStream::connect(path).await.map_err(refused)?).await,
        }
    }

    /// The member, at the port that is to be asked.
    fn member(&self) -> Option<SocketAddr> {
        let EndpointAddress::Ip(address) = &self.address else { return None };
        Some(SocketAddr::new(address.ip(), self.check.port.unwrap_or(address.port())))
    }

    /// All at the same time; ends as soon as enough went well.
    async fn several(&self, several: &Several) -> Result<Vitals, Failure> {
        let mut asked = JoinSet::new();
        for part in &several.of {
            let Part { ask, port, sni } = part.clone();
            let own = &self.check;
            let check = HealthCheck { ask, port: port.or(own.port), sni: sni.or(own.sni.clone()), ..own.clone() };
            let probe = Self { address: self.address.clone(), kind: self.kind.clone(), check };
            asked.spawn(async move { probe.ask().await });
        }
        let (mut good, mut vitals, mut failure) = (0, Vitals::default(), Failure::Quorum);
        while let Some(outcome) = asked.join_next().await {
            match outcome {
                Ok(Ok(part)) => {
                    vitals.ends_soon = vitals.ends_soon.or(part.ends_soon);
                    good += 1;
                }
                Ok(Err(why)) => failure = why,
                Err(_) => {}
            }
            if good >= several.need {
                return Ok(vitals);
            }
        }
        Err(if several.need == several.of.len() { failure } else { Failure::Quorum })
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
            // They need no connection: see `ask`.
            Ask::Dns(_) | Ask::Icmp | Ask::Command(_) | Ask::File(_) | Ask::Several(_) => Ok(()),
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
