//! Moves octets between a TCP connection and a stream of an h2 carrier, without a copy where h2 hands out whole frames.
//!
//! A broken side is told to the other as broken: a reset of TCP becomes a reset of the stream, and the other way round.

use super::carrier::SEND_BUFFER;
use bytes::{Bytes, BytesMut};
use h2::{Reason as H2Reason, RecvStream, SendStream};
use portcullis_egress::{Moved, Reason, TunnelEnd};
use std::{
    future::poll_fn,
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

/// Both halves of a stream.
pub(super) struct Ends {
    pub(super) send: SendStream<Bytes>,
    pub(super) recv: RecvStream,
}

/// Which way of [`Moved`] is which.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// The caller is at the TCP end.
    Tcp,
    Stream,
}

/// What a frame takes beside its octets (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;
/// Read at once while messages pass: they fit into one TLS record (RFC 8446 §5.1) with their frame's header. One octet more is a record
/// of its own, which costs both ends as much as a large one.
const MESSAGE: usize = (16 << 10) - FRAME_HEADER;
/// While bulk passes: the records of one write.
const BULK: usize = SEND_BUFFER - FRAME_HEADER;

pub(super) async fn relay(
    mut tcp: TcpStream,
    ends: Ends,
    caller: Caller,
    moved: &Moved,
    idle: Duration,
    cut: impl Future<Output = Reason>,
) -> TunnelEnd {
    let Ends { mut send, recv } = ends;
    let end = {
        let (read, write) = tcp.split();
        let (from_tcp, from_stream) = match caller {
            Caller::Tcp => (&moved.up, &moved.down),
            Caller::Stream => (&moved.down, &moved.up),
        };
        let both =
            async { tokio::try_join!(into_stream(read, &mut send, from_tcp), into_tcp(recv, write, from_stream)) };
        tokio::select! {
            done = both => match done {
                Ok(_) => return TunnelEnd::Finished,
                Err(error) => TunnelEnd::Broken(error),
            },
            () = rests(moved, idle) => TunnelEnd::Idle,
            reason = cut => TunnelEnd::Cut(reason),
        }
    };
    send.send_reset(H2Reason::CANCEL);
    // RST in place of FIN: the other end must not take a torn stream for a whole one.
    let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    end
}

async fn into_stream(read: ReadHalf<'_>, send: &mut SendStream<Bytes>, moved: &AtomicU64) -> io::Result<()> {
    let mut room = MESSAGE;
    loop {
        tokio::select! {
            readable = read.readable() => readable?,
            // The other end has reset the stream: nobody listens any more.
            reset = poll_fn(|cx| send.poll_reset(cx)) => {
                return Err(reset.map_or_else(io::Error::other, |_| io::ErrorKind::ConnectionReset.into()));
            }
        }
        // Taken only when there is something to read, so that an idle tunnel holds no buffer.
        let mut buffer = BytesMut::with_capacity(room);
        match read.try_read_buf(&mut buffer) {
            Ok(0) => return send.send_data(Bytes::new(), true).map_err(io::Error::other),
            Ok(count) => {
                room = if count >= MESSAGE { BULK } else { MESSAGE };
                send_whole(send, buffer.freeze()).await?;
                moved.fetch_add(count as u64, Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Windows are asked for only when there is something to send: what is reserved for one stream is none of the others'.
pub(super) async fn send_whole(send: &mut SendStream<Bytes>, mut octets: Bytes) -> io::Result<()> {
    while !octets.is_empty() {
        send.reserve_capacity(octets.len());
        let room = match poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(Ok(room)) => room.min(octets.len()),
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        send.send_data(octets.split_to(room), false).map_err(io::Error::other)?;
    }
    Ok(())
}

async fn into_tcp(mut recv: RecvStream, mut write: WriteHalf<'_>, moved: &AtomicU64) -> io::Result<()> {
    while let Some(frame) = recv.data().await {
        let frame = frame.map_err(io::Error::other)?;
        write.write_all(&frame).await?;
        moved.fetch_add(frame.len() as u64, Relaxed);
        recv.flow_control().release_capacity(frame.len()).map_err(io::Error::other)?;
    }
    // It may be gone already; its own direction tells why.
    let _ = write.shutdown().await;
    Ok(())
}

async fn rests(moved: &Moved, idle: Duration) {
    let total = || moved.up.load(Relaxed).wrapping_add(moved.down.load(Relaxed));
    let mut before = total();
    loop {
        tokio::time::sleep(idle).await;
        let now = total();
        if now == before {
            return;
        }
        before = now;
    }
}
