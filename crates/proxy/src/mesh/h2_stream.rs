//! Moves octets between a TCP connection and a stream of an h2 carrier, without a copy where h2 hands out whole frames.
//!
//! A broken side is told to the other as broken: a reset of TCP becomes a reset of the stream, and the other way round.

use super::carrier::FRAME;
use crate::conn::large_piece;
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
/// Read at once while messages pass: they fit into one TLS record with their frame's header. One octet more is a record
/// of its own, which costs both ends as much as a large one.
const MESSAGE: usize = RECORD - FRAME_HEADER;
/// While bulk passes: a frame and its TLS records go out in one write, and the kernel hands them on in one piece. It cuts by whole segments of
/// a path within 64 KiB (`tcp_xmit_size_goal`): 65,160 octets where 1,500 pass, 64,260 of IPv6, 62,636 where 9,000 pass; and what a write has
/// beyond it is a packet for itself, that costs nearly as much.
const BULK: usize = 61 << 10;
const _: () = assert!(FRAME_HEADER + BULK + (FRAME_HEADER + BULK).div_ceil(RECORD) * RECORD_OVERHEAD <= 62_636);
const _: () = assert!(BULK <= FRAME as usize);
/// RFC 8446 §5.1; and its header, the octet of its type and the tag.
const RECORD: usize = 16 << 10;
const RECORD_OVERHEAD: usize = 5 + 1 + 16;

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
        match try_read(&read, room) {
            Ok(octets) if octets.is_empty() => return send.send_data(octets, true).map_err(io::Error::other),
            Ok(octets) => {
                let count = octets.len();
                room = if count >= MESSAGE { BULK } else { MESSAGE };
                send_whole(send, octets).await?;
                moved.fetch_add(count as u64, Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// At most `room`; none is the end.
fn try_read(read: &ReadHalf<'_>, room: usize) -> io::Result<Bytes> {
    let mut buffer = if room == BULK { large_piece(room, FRAME_HEADER) } else { BytesMut::with_capacity(room) };
    read.try_read_buf(&mut buffer)?;
    Ok(buffer.freeze())
}

/// As soon as the peer's window is open and little of the stream is held back; then all of it, which h2 cuts by the window. Cut here by what
/// there is room for, each read would leave some octets over, that make a frame, a TLS record and a write of their own.
///
/// Windows are asked for only when there is something to send: what is reserved for one stream is none of the others'.
pub(super) async fn send_whole(send: &mut SendStream<Bytes>, octets: Bytes) -> io::Result<()> {
    if octets.is_empty() {
        return Ok(());
    }
    send.reserve_capacity(octets.len());
    while send.capacity() == 0 {
        match poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    send.send_data(octets, false).map_err(io::Error::other)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::carrier::{CONNECTION_WINDOW, HELD_BACK, STREAM_WINDOW};

    /// As sidecars talk, but in memory and in clear.
    async fn stream() -> (SendStream<Bytes>, RecvStream) {
        let (here, there) = tokio::io::duplex(1 << 20);
        let mut server = h2::server::Builder::new();
        server
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME);
        let serving = tokio::spawn(async move {
            let mut connection = server.handshake::<_, Bytes>(there).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let answer = respond.send_response(http::Response::new(()), false).unwrap();
            tokio::spawn(async move {
                while connection.accept().await.is_some() {}
                drop(answer);
            });
            request.into_body()
        });
        let mut client = h2::client::Builder::new();
        let (mut client, connection) =
            client.max_send_buffer_size(HELD_BACK).handshake::<_, Bytes>(here).await.unwrap();
        tokio::spawn(connection);
        let (response, send) = client.send_request(http::Request::new(()), false).unwrap();
        response.await.unwrap();
        (send, serving.await.unwrap())
    }

    #[tokio::test]
    async fn what_is_read_at_once_travels_in_one_frame() {
        const READS: usize = 256;
        let (mut send, mut recv) = stream().await;
        let received = tokio::spawn(async move {
            let (mut octets, mut frames) = (0, 0);
            while let Some(frame) = recv.data().await {
                let count = frame.unwrap().len();
                (octets, frames) = (octets + count, frames + 1);
                recv.flow_control().release_capacity(count).unwrap();
            }
            (octets, frames)
        });
        for _ in 0..READS {
            send_whole(&mut send, Bytes::from(vec![0; BULK])).await.unwrap();
        }
        send.send_data(Bytes::new(), true).unwrap();
        let (octets, frames) = received.await.unwrap();
        assert_eq!(octets, READS * BULK);
        // But where a window ends: the stream's, of 16 frames, is opened again by halves.
        assert!(frames <= READS + READS / 8 + 1, "{frames} frames of {READS} reads");
    }

    #[tokio::test]
    async fn nothing_is_queued_behind_what_is_held_back() {
        let (mut send, recv) = stream().await;
        let mut sent = 0;
        // Nobody reads: the window is used up, and then one read more is held back.
        while tokio::time::timeout(Duration::from_millis(200), send_whole(&mut send, Bytes::from(vec![0; BULK])))
            .await
            .is_ok()
        {
            sent += BULK;
        }
        assert!((STREAM_WINDOW as usize..STREAM_WINDOW as usize + HELD_BACK + BULK).contains(&sent), "{sent}");
        drop(recv);
    }
}
