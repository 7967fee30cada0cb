//! An HTTP/1.1 request and its answer.

use super::{HEAD_BYTES_MAX, USER_AGENT};
use crate::{Failure, check::HttpCheck};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    check: &HttpCheck,
    host: &str,
) -> Result<(), Failure> {
    let request = Request::builder()
        .method(&check.method)
        .uri(check.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| Failure::Protocol)?;
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Failure::Protocol)?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|_| Failure::Protocol)?;
        let (parts, body) = answer.into_parts();
        check.judge_status(parts.status.as_u16())?;
        check.judge_body(&beginning(body, check.body_bytes()).await?)
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
async fn beginning(mut body: Incoming, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while bytes.len() < limit
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame.map_err(|_| Failure::Protocol)?.into_data() {
            bytes.extend(data.iter().take(limit.saturating_sub(bytes.len())));
        }
    }
    Ok(bytes)
}
