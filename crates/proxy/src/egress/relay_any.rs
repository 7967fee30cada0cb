//! Moves a tunnel's octets where one side is not a plain socket: the client's end is inside TLS or a stream of h2.
//!
//! The same promises as the crate's `relay` between sockets, without the kernel's help.

use portcullis_egress::{Moved, Reason, TunnelEnd};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const BUFFER_BYTES: usize = 16 << 10;

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
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            // It may be gone already; its own direction tells why.
            let _ = to.shutdown().await;
            return Ok(());
        }
        to.write_all(buffer.get(..count).unwrap_or_default()).await?;
        to.flush().await?;
        moved.fetch_add(count as u64, Relaxed);
    }
}
