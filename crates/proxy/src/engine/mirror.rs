//! Copies of requests to somebody whose answer does not matter, and who can slow nobody down.

use super::dial::Dialer;
use crate::release::LiveRollout;
use bytes::Bytes;
use pingora::http::RequestHeader;
use portcullis_ops::metrics::Metrics;
use portcullis_rollout::Outcome;
use std::{
    cell::Cell,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// What is gathered of a request while it passes.
#[derive(Debug)]
pub(crate) struct MirrorTap {
    pub(super) dialer: Arc<Dialer>,
    judged: Option<Arc<LiveRollout>>,
    head: Vec<u8>,
    body: Vec<u8>,
    too_large: bool,
}

/// A larger body is not copied: memory is for requests that matter.
const BODY_MAX: usize = 64 << 10;
const TIME: Duration = Duration::from_secs(5);
/// Copies under way per core.
const IN_FLIGHT: u32 = 128;

thread_local! {
    static IN_FLIGHT_HERE: Cell<u32> = const { Cell::new(0) };
}

impl MirrorTap {
    /// `judged`: the rollout that the answer counts for.
    pub(super) fn new(dialer: Arc<Dialer>, judged: Option<Arc<LiveRollout>>) -> Self {
        Self { dialer, judged, head: Vec::new(), body: Vec::new(), too_large: false }
    }

    /// The request as the real upstream gets it.
    pub(super) fn head(&mut self, header: &RequestHeader) {
        // Each attempt sends the body from its first octet.
        (self.body, self.too_large) = (Vec::new(), false);
        let target = String::from_utf8_lossy(header.raw_path()).into_owned();
        self.head = format!("{} {target} HTTP/1.1\r\n", header.method).into_bytes();
        for (name, value) in &header.headers {
            if matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection" | "expect" | "upgrade") {
                continue;
            }
            self.head.extend_from_slice(name.as_str().as_bytes());
            self.head.extend_from_slice(b": ");
            self.head.extend_from_slice(value.as_bytes());
            self.head.extend_from_slice(b"\r\n");
        }
    }

    /// What passes of the body: nobody behind us gets what was covered or withheld.
    pub(super) fn body(&mut self, chunk: &Bytes) {
        if self.body.len() + chunk.len() > BODY_MAX {
            self.too_large = true;
            self.body = Vec::new();
        } else if !self.too_large {
            self.body.extend_from_slice(chunk);
        }
    }

    /// Sends the copy in the background, or counts why not.
    pub(super) fn send(self, metrics: Arc<Metrics>) {
        if self.head.is_empty() {
            return;
        }
        if self.too_large {
            return metrics.mirrored("too_large");
        }
        if IN_FLIGHT_HERE.with(Cell::get) >= IN_FLIGHT {
            return metrics.mirrored("busy");
        }
        IN_FLIGHT_HERE.with(|count| count.set(count.get() + 1));
        tokio::spawn(async move {
            let answered = OnceLock::new();
            let outcome = match timeout(TIME, self.exchange(&answered)).await {
                Ok(Ok(())) => "sent",
                Ok(Err(_)) => "failed",
                Err(_) => "timeout",
            };
            if let Some(judged) = &self.judged {
                match answered.get() {
                    Some((100..500, took)) => judged.mirrored(Outcome::Good, *took),
                    Some(_) | None => judged.mirrored(Outcome::Bad, TIME),
                }
            }
            metrics.mirrored(outcome);
            IN_FLIGHT_HERE.with(|count| count.set(count.get().saturating_sub(1)));
        });
    }

    /// Tells `answered` the status and after how long it came. Copies do not share connections: the time of making one is
    /// not the version's.
    async fn exchange(&self, answered: &OnceLock<(u16, Duration)>) -> std::io::Result<()> {
        let failed = |error: pingora::BError| std::io::Error::other(error.to_string());
        let mut request = self.head.clone();
        request
            .extend_from_slice(format!("Content-Length: {}\r\nConnection: close\r\n\r\n", self.body.len()).as_bytes());
        request.extend_from_slice(&self.body);
        let mut connection = self.dialer.secured().await.map_err(failed)?;
        say_and_hear(&mut connection, &request, answered).await
    }
}

/// The answer is read so that the shadow can finish, and all but its status is forgotten.
async fn say_and_hear(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    request: &[u8],
    answered: &OnceLock<(u16, Duration)>,
) -> std::io::Result<()> {
    let began = Instant::now();
    stream.write_all(request).await?;
    stream.flush().await?;
    // "HTTP/1.1 200"
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    let status = line.get(9..).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let _ = answered.set((status.unwrap_or(0), began.elapsed()));
    let mut sink = [0; 4096];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}
