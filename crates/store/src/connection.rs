//! How to reach a store, and one connection to it.

use crate::{OnFail, StoreError, script};
use portcullis_names::EndpointAddress;
use portcullis_tls::UpstreamTls;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisResult, aio::MultiplexedConnection};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{fmt, future::Future, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

/// A compiled `[store.X]`. Equal ones need no new connections after a reload.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreConfig {
    pub nodes: Vec<Node>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub database: u16,
    pub timeout: Duration,
    pub on_fail: OnFail,
}

/// One address of a store, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    address: EndpointAddress,
    tls: Option<NodeTls>,
}

#[derive(Debug, Clone)]
struct NodeTls {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    /// Equal for equal settings.
    settings: u64,
}

/// A connection that has shown that it runs the script and takes writes. Closed when dropped.
pub(crate) struct Connection {
    pub(crate) sender: MultiplexedConnection,
    /// Ends when the connection does.
    pub(crate) ended: JoinHandle<()>,
}

impl Node {
    pub fn new(address: EndpointAddress, tls: Option<&UpstreamTls>) -> Self {
        let tls = tls.map(|tls| {
            // The protocol has no name in ALPN.
            let mut config = (*tls.config(b"http/1.1")).clone();
            config.alpn_protocols.clear();
            NodeTls { config: config.into(), server_name: tls.server_name.clone(), settings: tls.group_key() }
        });
        Self { address, tls }
    }

    pub fn address(&self) -> &EndpointAddress {
        &self.address
    }
}

impl StoreConfig {
    pub(crate) async fn connect(&self, node: &Node) -> Result<Connection, StoreError> {
        let lost = |error: std::io::Error| {
            tracing::debug!(node = %node.address, %error, "store: cannot connect");
            StoreError::Lost
        };
        match (&node.address, &node.tls) {
            (EndpointAddress::Ip(address), tls) => {
                let stream = TcpStream::connect(address).await.map_err(lost)?;
                // A batch is one write; waiting for more would only delay it.
                stream.set_nodelay(true).map_err(lost)?;
                match tls {
                    None => self.greet(node, stream).await,
                    Some(tls) => self.greet(node, tls.over(stream).await.map_err(lost)?).await,
                }
            }
            (EndpointAddress::Unix(path), tls) => {
                let stream = UnixStream::connect(path).await.map_err(lost)?;
                match tls {
                    None => self.greet(node, stream).await,
                    Some(tls) => self.greet(node, tls.over(stream).await.map_err(lost)?).await,
                }
            }
        }
    }

    async fn greet<S>(&self, node: &Node, stream: S) -> Result<Connection, StoreError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Waiting is limited around whole batches.
        let settings = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let made = MultiplexedConnection::new_with_config(&self.login(), stream, settings).await;
        let (sender, drive) = made.map_err(|error| refused(node, &error))?;
        let mut connection = Connection { sender, ended: tokio::spawn(drive) };
        prove(&mut connection.sender).await.map_err(|error| refused(node, &error))?;
        Ok(connection)
    }

    fn login(&self) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default().set_db(self.database.into()).set_skip_set_lib_name();
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        login
    }
}

/// A replica, a full store or a user without the right answers here with an error, and not later to a request.
async fn prove(sender: &mut MultiplexedConnection) -> RedisResult<()> {
    let script = script::script();
    script.load_async(sender).await?;
    script::probe(script.get_hash()).query_async(sender).await
}

fn refused(node: &Node, error: &redis::RedisError) -> StoreError {
    tracing::debug!(node = %node.address, %error, "store: cannot be used");
    if error.is_io_error() { StoreError::Lost } else { StoreError::Refused }
}

impl NodeTls {
    fn over<S>(&self, stream: S) -> impl Future<Output = std::io::Result<tokio_rustls::client::TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsConnector::from(self.config.clone()).connect(self.server_name.clone(), stream)
    }
}

impl PartialEq for NodeTls {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for NodeTls {}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.address.to_string()).collect();
        f.debug_struct("StoreConfig")
            .field("nodes", &nodes)
            .field("username", &self.username)
            .field("database", &self.database)
            .field("timeout", &self.timeout)
            .field("on_fail", &self.on_fail)
            .finish_non_exhaustive()
    }
}
