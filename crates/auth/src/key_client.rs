//! Fetches key sets over HTTP. One request on one connection, no redirects, little memory, little time.

use crate::{
    HttpUrl, Identity, KeyOrigin, KeyPlace, KeySet, KeySetError, KeySource, Transport, UrlError,
    json_object::parse_object,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How issuers are reached: whom to trust for TLS.
#[derive(Debug, Clone)]
pub struct KeyClient {
    tls: Arc<ClientConfig>,
}

/// Why keys could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("keys come from a file")]
    NotFetched,
    #[error("{0}: no connection: {1}")]
    Connect(String, std::io::ErrorKind),
    #[error("{0}: TLS failed: {1}")]
    Tls(String, String),
    #[error("no answer within {}s", FETCH_TIMEOUT.as_secs())]
    Timeout,
    #[error("{0}: no valid HTTP answer")]
    Protocol(String),
    #[error("{0}: status {1} instead of 200")]
    Status(String, u16),
    #[error("{0}: the answer is larger than 1 MiB")]
    TooLarge(String),
    #[error("{0}: no issuer metadata with `issuer` and `jwks_uri` (OpenID Connect Discovery 1.0 §3)")]
    NotMetadata(String),
    /// Discovery 1.0 §4.3: else one tenant of a provider could speak for another.
    #[error("the metadata is of issuer \"{found}\", not of \"{expected}\"")]
    WrongIssuer { expected: String, found: String },
    #[error("`jwks_uri`: {0}")]
    KeysUrl(#[from] UrlError),
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

/// For metadata and keys together.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_MAX_BYTES: usize = 1 << 20;

impl KeyClient {
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        let mut tls = Arc::unwrap_or_clone(tls);
        // Whatever the configuration offers to others, here only HTTP/1.1 is spoken.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { tls: Arc::new(tls) }
    }

    /// The keys of an issuer, by way of its metadata where that is configured.
    pub async fn fetch(&self, identity: &Identity) -> Result<KeySet, FetchError> {
        let KeySource::Fetched { from, .. } = identity.source() else { return Err(FetchError::NotFetched) };
        let work = async {
            let keys_url = match from {
                KeyPlace::Url(url) => url.clone(),
                KeyPlace::Discovery(url) => keys_url(&self.get(url).await?, identity.issuer(), url)?,
            };
            Ok(KeySet::parse(&self.get(&keys_url).await?, KeyOrigin::Network)?)
        };
        tokio::time::timeout(FETCH_TIMEOUT, work).await.unwrap_or(Err(FetchError::Timeout))
    }

    async fn get(&self, url: &HttpUrl) -> Result<Bytes, FetchError> {
        let stream = TcpStream::connect((url.host(), url.port()))
            .await
            .map_err(|error| FetchError::Connect(url.to_string(), error.kind()))?;
        match url.transport() {
            Transport::Clear => ask(stream, url).await,
            Transport::Tls => {
                let failed = |error: String| FetchError::Tls(url.to_string(), error);
                let name = ServerName::try_from(url.host().to_owned()).map_err(|error| failed(error.to_string()))?;
                let connector = TlsConnector::from(self.tls.clone());
                ask(connector.connect(name, stream).await.map_err(|error| failed(error.to_string()))?, url).await
            }
        }
    }
}

async fn ask(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, url: &HttpUrl) -> Result<Bytes, FetchError> {
    let broken = || FetchError::Protocol(url.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| broken())?;
    let exchange = async {
        let request = http::Request::get(url.target())
            .header("host", url.authority())
            .header("accept", "application/json")
            .header("connection", "close")
            .body(Empty::<Bytes>::new())
            .map_err(|_| broken())?;
        let answer = sender.send_request(request).await.map_err(|_| broken())?;
        // A redirect would be followed to a place that nobody wrote down.
        if answer.status() != http::StatusCode::OK {
            return Err(FetchError::Status(url.to_string(), answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { FetchError::TooLarge(url.to_string()) } else { broken() }
        })?;
        Ok(body.to_bytes())
    };
    // Polled here rather than spawned, so that dropping the fetch drops the connection.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

/// Where the metadata of `issuer`, found at `from`, says that its keys are.
pub(crate) fn keys_url(metadata: &[u8], issuer: &str, from: &HttpUrl) -> Result<HttpUrl, FetchError> {
    let metadata = parse_object(metadata).ok_or_else(|| FetchError::NotMetadata(from.to_string()))?;
    let text = |name: &str| metadata.get(name).and_then(Value::as_str);
    let (Some(found), Some(keys)) = (text("issuer"), text("jwks_uri")) else {
        return Err(FetchError::NotMetadata(from.to_string()));
    };
    if found != issuer {
        let found = found.chars().take(200).collect();
        return Err(FetchError::WrongIssuer { expected: issuer.to_owned(), found });
    }
    let keys_url = HttpUrl::parse_protected(keys)?;
    // Loopback in the clear is for issuers of this machine; another's metadata would have us ask our own services.
    if from.transport() == Transport::Tls && keys_url.transport() == Transport::Clear {
        return Err(UrlError::InTheClear(keys.to_owned()).into());
    }
    Ok(keys_url)
}
