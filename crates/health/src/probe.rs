//! One question to one endpoint.

use crate::spec::{HealthCheck, HttpCheck};
use portcullis_names::EndpointAddress;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{fmt, io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
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
    Protocol,
    Status(u16),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Connect => f.write_str("cannot connect"),
            Self::Timeout => f.write_str("timeout"),
            Self::Tls => f.write_str("tls handshake failed"),
            Self::Protocol => f.write_str("no valid answer"),
            Self::Status(status) => write!(f, "status {status}"),
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

impl Probe {
    pub async fn run(&self) -> Result<(), Failure> {
        match timeout(self.check.timeout, self.ask()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Timeout),
        }
    }

    async fn ask(&self) -> Result<(), Failure> {
        let refused = |error: io::Error| {
            if error.kind() == io::ErrorKind::ConnectionRefused { Failure::Refused } else { Failure::Connect }
        };
        match &self.address {
            EndpointAddress::Ip(address) => self.over(TcpStream::connect(address).await.map_err(refused)?).await,
            EndpointAddress::Unix(path) => self.over(UnixStream::connect(path).await.map_err(refused)?).await,
        }
    }

    async fn over(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Failure> {
        match &self.kind {
            ProbeKind::Clear => self.speak(stream).await,
            ProbeKind::Tls { config, server_name } => {
                let connector = tokio_rustls::TlsConnector::from(config.clone());
                let tls = connector.connect(server_name.clone(), stream).await.map_err(|_| Failure::Tls)?;
                self.speak(tls).await
            }
        }
    }

    async fn speak(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Failure> {
        let Some(http) = &self.check.http else { return Ok(()) };
        let host = http.host.clone().unwrap_or_else(|| match &self.kind {
            ProbeKind::Tls { server_name, .. } => server_name.to_str().into_owned(),
            ProbeKind::Clear => match &self.address {
                EndpointAddress::Ip(address) => address.to_string(),
                EndpointAddress::Unix(_) => "localhost".to_owned(),
            },
        });
        let request = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portcullis-health\r\nConnection: close\r\n\r\n",
            http.method, http.path
        );
        stream.write_all(request.as_bytes()).await.map_err(|_| Failure::Protocol)?;
        stream.flush().await.map_err(|_| Failure::Protocol)?;
        read_status(&mut stream, http).await
    }
}

/// The status line is all that is needed; nothing behind it is read.
async fn read_status(stream: &mut (impl AsyncRead + Unpin), http: &HttpCheck) -> Result<(), Failure> {
    const LINE: usize = "HTTP/1.1 200".len();
    let mut line = [0; LINE];
    stream.read_exact(&mut line).await.map_err(|_| Failure::Protocol)?;
    let text = std::str::from_utf8(&line).map_err(|_| Failure::Protocol)?;
    let digits = text.strip_prefix("HTTP/1.1 ").or(text.strip_prefix("HTTP/1.0 ")).ok_or(Failure::Protocol)?;
    let status = digits.parse().map_err(|_| Failure::Protocol)?;
    if http.status.contains(status) { Ok(()) } else { Err(Failure::Status(status)) }
}
