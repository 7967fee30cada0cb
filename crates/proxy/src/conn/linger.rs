//! Closing without losing the last words (RFC 9112 §9.6): half-close, then read what the client still sends and drop it,
//! within limits; a reset for unread data would destroy our response in the client's kernel.

use super::Transport;
use std::{mem::MaybeUninit, time::Duration};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 << 20;

/// Everything to be sent must have been written.
pub(crate) async fn close(mut transport: Transport) {
    let _ = tokio::time::timeout(LINGER_TIME, async {
        transport.shutdown().await?;
        let mut dropped = 0;
        while dropped < LINGER_BYTES {
            match discard(&mut transport).await? {
                0 => break,
                octets => dropped += octets,
            }
        }
        std::io::Result::Ok(())
    })
    .await;
}

async fn discard(transport: &mut Transport) -> std::io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut stack = [MaybeUninit::uninit(); 8 * 1024];
        let mut buf = ReadBuf::uninit(&mut stack);
        let poll = std::pin::Pin::new(&mut *transport).poll_read(cx, &mut buf);
        poll.map_ok(|()| buf.filled().len())
    })
    .await
}
