//! Asks a registry over HTTP for a list of endpoints: the JSON of an endpoint file, one request on one connection, no redirects.

use crate::{EndpointList, Endpoints, HttpSource, ListError};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis_auth::{HttpUrl, Transport};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PollError {
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("no answer within {}s", TIMEOUT.as_secs())]
    Timeout,
    #[error("no valid HTTP answer: {0}")]
    Protocol(String),
    #[error("status {0} instead of 200")]
    Status(u16),
    #[error(transparent)]
    List(#[from] ListError),
}

const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn poll(source: &HttpSource) -> Result<Endpoints, PollError> {
    timeout(TIMEOUT, get(&source.url)).await.unwrap_or(Err(PollError::Timeout))
}

/// Between nine tenths and all of `every`, by a uniform `draw`: a registry is not asked by everybody at once.
pub(crate) fn pause(every: Duration, draw: f64) -> Duration {
    every.mul_f64(0.9 + 0.1 * draw.clamp(0.0, 1.0))
}

async fn get(url: &HttpUrl) -> Result<Endpoints, PollError> {
    let stream = TcpStream::connect((url.host(), url.port())).await.map_err(PollError::Connect)?;
    match url.transport() {
        Transport::Clear => ask(stream, url).await,
        Transport::Tls => {
            let failed = |error: String| PollError::Tls(error);
            let name = ServerName::try_from(url.host().to_owned()).map_err(|error| failed(error.to_string()))?;
            let stream = TlsConnector::from(tls()).connect(name, stream).await;
            ask(stream.map_err(|error| failed(error.to_string()))?, url).await
        }
    }
}

/// The authorities of the operating system: some 140 files, read when the first registry is asked.
fn tls() -> Arc<ClientConfig> {
    static TLS: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    TLS.get_or_init(|| {
        let mut tls = Arc::unwrap_or_clone(portcullis_tls::system_client());
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(tls)
    })
    .clone()
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    url: &HttpUrl,
) -> Result<Endpoints, PollError> {
    let broken = |error: &dyn std::fmt::Display| PollError::Protocol(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let exchange = async {
        let request = http::Request::get(url.target())
            .header("host", url.authority())
            .header("accept", "application/json")
            .header("connection", "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(PollError::Status(answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), EndpointList::MAX_BYTES).collect().await;
        let body =
            body.map_err(
                |error| {
                    if error.is::<LengthLimitError>() { ListError::TooLarge.into() } else { broken(&error) }
                },
            )?;
        Ok(EndpointList::from_json(&body.to_bytes())?)
    };
    // Polled here rather than spawned, so that dropping the question drops the connection.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_by_a_tenth() {
        let ten = Duration::from_secs(10);
        assert_eq!((pause(ten, 0.0), pause(ten, 1.0)), (Duration::from_secs(9), ten));
    }
}
