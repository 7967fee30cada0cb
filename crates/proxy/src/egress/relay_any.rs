//! Moves a tunnel's octets where one side is not a plain socket: the client's end is inside TLS or a stream of h2.
//!
//! The same promises as the crate's `relay` between sockets, without the kernel's help.

use portcullis_egress::{Moved, Reason, TunnelEnd, poll_copy};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Moves octets both ways until both are done, nothing moves for `idle`, or `cut` says why not to go on.
pub(crate) async fn relay_any(
    client: impl AsyncRead + AsyncWrite,
    origin: impl AsyncRead + AsyncWrite,
    moved: &Moved,
    idle: Duration,
    cut: impl Future<Output = Reason>,
) -> TunnelEnd {
    let (client_read, client_write) = tokio::io::split(client);
    let (origin_read, origin_write) = tokio::io::split(origin);
    let both = async {
        tokio::try_join!(pump(client_read, origin_write, &moved.up), pump(origin_read, client_write, &moved.down))
    };
    tokio::select! {
        done = both => match done {
            Ok(_) => TunnelEnd::Finished,
            Err(error) => TunnelEnd::Broken(error),
        },
        () = moved.rests(idle) => TunnelEnd::Idle,
        reason = cut => TunnelEnd::Cut(reason),
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &AtomicU64) -> io::Result<()> {
    loop {
        let copied = poll_fn(|cx| poll_copy(cx, Pin::new(&mut from), Pin::new(&mut to))).await?;
        if copied.count == 0 {
            // It may be gone already; its own direction tells why.
            let _ = to.shutdown().await;
            return Ok(());
        }
        if !copied.rest.is_empty() {
            to.write_all(&copied.rest).await?;
        }
        to.flush().await?;
        moved.fetch_add(copied.count as u64, Relaxed);
    }
}
