//! One exchange over an h2 connection of its own: for HTTP checks, and for gRPC's.

use super::{HEAD_BYTES_MAX, USER_AGENT};
use crate::{Failure, check::HttpCheck};
use bytes::Bytes;
use h2::{RecvStream, client};
use http::{HeaderMap, Request, Response, header, uri::PathAndQuery};
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    check: &HttpCheck,
    host: &str,
) -> Result<(), Failure> {
    let mut request = request(&check.path, host)?;
    *request.method_mut() = check.method.clone();
    exchange(stream, request, None, async |answer| {
        check.judge_status(answer.status().as_u16())?;
        check.judge_body(&beginning(answer.body_mut(), check.body_bytes()).await?)
    })
    .await
}

/// A GET. The scheme is a formality: the connection is what it is.
pub(super) fn request(path: &PathAndQuery, host: &str) -> Result<Request<()>, Failure> {
    let uri = http::Uri::builder().scheme("http").authority(host).path_and_query(path.clone()).build();
    let request = Request::builder().uri(uri.map_err(|_| Failure::Protocol)?).header(header::USER_AGENT, USER_AGENT);
    request.body(()).map_err(|_| Failure::Protocol)
}

/// Sends a request, with a body if there is one, and has its answer judged.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<()>,
    body: Option<Bytes>,
    judge: impl AsyncFnOnce(&mut Response<RecvStream>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (sender, connection) = client::Builder::new()
        .enable_push(false)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|_| Failure::Protocol)?;
    let exchange = async move {
        let mut sender = sender.ready().await.map_err(|_| Failure::Protocol)?;
        let (answer, mut sending) = sender.send_request(request, body.is_none()).map_err(|_| Failure::Protocol)?;
        if let Some(body) = body {
            sending.send_data(body, true).map_err(|_| Failure::Protocol)?;
        }
        let mut answer = answer.await.map_err(|_| Failure::Protocol)?;
        judge(&mut answer).await
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // What was received before the connection ended is still there.
        _ = &mut connection => exchange.await,
    }
}

/// Up to `limit` bytes of the body; whatever is behind them is not waited for.
pub(super) async fn beginning(body: &mut RecvStream, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while bytes.len() < limit
        && let Some(data) = body.data().await
    {
        let data = data.map_err(|_| Failure::Protocol)?;
        bytes.extend(data.iter().take(limit.saturating_sub(bytes.len())));
        // Fails only for a stream that is gone; reading on says so.
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(bytes)
}

pub(super) async fn trailers(body: &mut RecvStream) -> Result<HeaderMap, Failure> {
    body.trailers().await.ok().flatten().ok_or(Failure::Protocol)
}
