//! Clients: raw bytes over TCP or TLS, h2 by the h2 crate, and curl.

use super::origin::find;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One connection that speaks bytes.
pub(crate) struct Client {
    pub stream: Box<dyn Io>,
    buffer: Vec<u8>,
}

/// One response as it came.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap())
    }

    pub(crate) fn over(stream: impl Io + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub(crate) async fn tls(addr: SocketAddr, name: &str, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        Ok(Self::over(tls(addr, name, config).await?))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// For connections that the peer may have ended.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        self.response().await
    }

    /// The next final response; interim ones are skipped.
    pub(crate) async fn response(&mut self) -> Response {
        loop {
            let response = self.try_response(false).await.expect("a response comes");
            if response.status >= 200 || response.status == 101 {
                return response;
            }
        }
    }

    /// The next response of any status; `None` when the connection ends first.
    pub(crate) async fn try_response(&mut self, to_head: bool) -> Option<Response> {
        timeout(PATIENCE, self.read_response(to_head)).await.expect("an answer or an end comes in time")
    }

    async fn read_response(&mut self, to_head: bool) -> Option<Response> {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..head_end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut response = Response { status, head, body: Vec::new() };
        if to_head || status < 200 || matches!(status, 204 | 304) {
            return Some(response);
        }
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().ok()?;
            while self.buffer.len() < length {
                self.more().await?;
            }
            response.body = self.buffer.drain(..length).collect();
        } else if response.header("transfer-encoding").is_some() {
            loop {
                let line_end = loop {
                    if let Some(at) = find(&self.buffer, b"\r\n") {
                        break at;
                    }
                    self.more().await?;
                };
                let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[..line_end]).ok()?, 16).ok()?;
                while self.buffer.len() < line_end + size + 4 {
                    self.more().await?;
                }
                self.buffer.drain(..line_end + 2);
                response.body.extend(self.buffer.drain(..size));
                self.buffer.drain(..2);
                if size == 0 {
                    break;
                }
            }
        } else {
            while self.more().await.is_some() {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Some(response)
    }

    /// Whether the peer ended the connection (within `within`).
    pub(crate) async fn closed(&mut self, within: Duration) -> bool {
        timeout(within, async { while self.more().await.is_some() {} }).await.is_ok()
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }
}

pub(crate) async fn tls(
    addr: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    timeout(PATIENCE, tokio_rustls::TlsConnector::from(config).connect(name, tcp))
        .await
        .expect("the handshake ends in time")
}

/// A TLS client that trusts one authority.
pub(crate) fn tls_config(ca_pem: &str, alpn: &[&str]) -> Arc<ClientConfig> {
    Arc::new(build(ca_pem, None, alpn))
}

/// The same, showing a certificate.
pub(crate) fn tls_config_with(ca_pem: &str, certificate_pem: &str, key_pem: &str, alpn: &[&str]) -> Arc<ClientConfig> {
    Arc::new(build(ca_pem, Some((certificate_pem, key_pem)), alpn))
}

fn build(ca_pem: &str, identity: Option<(&str, &str)>, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// An h2 connection over any stream; its driver runs until the stream ends.
pub(crate) async fn h2(stream: impl Io + 'static) -> h2::client::SendRequest<bytes::Bytes> {
    let (sender, connection) = h2::client::handshake(Box::new(stream) as Box<dyn Io>).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender
}

/// One h2 GET: status and body.
pub(crate) async fn h2_get(
    sender: &h2::client::SendRequest<bytes::Bytes>,
    uri: &str,
) -> Result<(http::response::Parts, Vec<u8>), h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let request = http::Request::get(uri).body(()).unwrap();
    let (response, _) = sender.send_request(request, true)?;
    let (parts, mut stream) = timeout(PATIENCE, response).await.expect("a response comes in time")?.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        let _ = stream.flow_control().release_capacity(chunk.len());
        body.extend_from_slice(&chunk);
    }
    Ok((parts, body))
}

/// Runs curl; gives its standard output.
pub(crate) async fn curl(arguments: &[&str]) -> String {
    let output =
        tokio::process::Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
