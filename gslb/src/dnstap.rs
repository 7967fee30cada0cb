//! Queries and replies as dnstap has them, sent to a collector by a unix socket (frame streams). Never waits: what the collector
//! does not take in time is lost and counted. Connects when there is something to tell.

use crate::answer::Transport;
use prost::Message as _;
use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, SystemTime},
};

/// A collector. Clones are the same one; it ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Tap(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: PathBuf,
    identity: Vec<u8>,
    queue: OnceLock<SyncSender<Vec<u8>>>,
    lost: Arc<AtomicU64>,
}

/// dnstap.pb, as far as a server needs it.
#[derive(Clone, PartialEq, prost::Message)]
struct Dnstap {
    #[prost(bytes = "vec", optional, tag = "1")]
    identity: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    version: Option<Vec<u8>>,
    #[prost(message, optional, tag = "14")]
    message: Option<Told>,
    #[prost(int32, tag = "15")]
    kind: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(int32, optional, tag = "2")]
    family: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    protocol: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "4")]
    query_address: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "6")]
    query_port: Option<u32>,
    #[prost(uint64, optional, tag = "8")]
    query_seconds: Option<u64>,
    #[prost(fixed32, optional, tag = "9")]
    query_nanos: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "10")]
    query: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "12")]
    response_seconds: Option<u64>,
    #[prost(fixed32, optional, tag = "13")]
    response_nanos: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "14")]
    response: Option<Vec<u8>>,
}

/// Dnstap.Type MESSAGE, and of messages AUTH_RESPONSE: it carries the query as well.
const MESSAGE: i32 = 1;
const AUTH_RESPONSE: i32 = 2;
/// Frames that wait for the collector.
const QUEUE_MAX: usize = 4_096;
const CONTENT: &[u8] = b"protobuf:dnstap.Dnstap";
/// Control frames of frame streams.
const ACCEPT: u32 = 1;
const START: u32 = 2;
const STOP: u32 = 3;
const READY: u32 = 4;
const FINISH: u32 = 5;
const FIELD_CONTENT_TYPE: u32 = 1;
const CONTROL_MAX: u32 = 512;
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);

impl Tap {
    /// `previous` goes on when it leads to the same place.
    pub(crate) fn new(socket: &Path, identity: &[u8], previous: Option<&Self>) -> Self {
        match previous.filter(|tap| tap.0.socket == socket && tap.0.identity == identity) {
            Some(previous) => previous.clone(),
            None => Self(Arc::new(Inner {
                socket: socket.to_owned(),
                identity: identity.to_vec(),
                queue: OnceLock::new(),
                lost: Arc::default(),
            })),
        }
    }

    /// Tells of a query and its reply.
    pub(crate) fn tell(&self, query: &[u8], reply: &[u8], client: SocketAddr, transport: Transport) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (address, family) = match client.ip().to_canonical() {
            IpAddr::V4(v4) => (v4.octets().to_vec(), 1),
            IpAddr::V6(v6) => (v6.octets().to_vec(), 2),
        };
        let protocol = match transport {
            Transport::Udp => 1,
            Transport::Tcp => 2,
            Transport::Tls => 3,
            Transport::Https => 4,
            Transport::Quic => 7,
        };
        let told = Told {
            kind: AUTH_RESPONSE,
            family: Some(family),
            protocol: Some(protocol),
            query_address: Some(address),
            query_port: Some(client.port().into()),
            query_seconds: Some(since.as_secs()),
            query_nanos: Some(since.subsec_nanos()),
            query: Some(query.to_vec()),
            response_seconds: Some(since.as_secs()),
            response_nanos: Some(since.subsec_nanos()),
            response: Some(reply.to_vec()),
        };
        let identity = Some(self.0.identity.clone()).filter(|identity| !identity.is_empty());
        let frame = Dnstap { identity, version: None, message: Some(told), kind: MESSAGE };
        if self.queue().try_send(frame.encode_to_vec()).is_err() {
            self.0.lost.fetch_add(1, Relaxed);
        }
    }

    fn queue(&self) -> &SyncSender<Vec<u8>> {
        self.0.queue.get_or_init(|| {
            let (sender, frames) = sync_channel(QUEUE_MAX);
            let (socket, lost) = (self.0.socket.clone(), self.0.lost.clone());
            let thread = std::thread::Builder::new().name("dnstap".to_owned());
            if let Err(error) = thread.spawn(move || run(&socket, &frames, &lost)) {
                tracing::error!(%error, "nothing is told by dnstap");
            }
            sender
        })
    }
}

/// Until nobody tells any more.
fn run(socket: &Path, frames: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    let mut was_there = true;
    loop {
        match connect(socket).and_then(|stream| send(stream, frames)) {
            Ok(()) => return,
            Err(error) if was_there => {
                tracing::warn!(socket = %socket.display(), %error, "the dnstap collector is not there");
                was_there = false;
            }
            Err(_) => {}
        }
        // What is told meanwhile is of no use by then.
        loop {
            match frames.recv_timeout(PAUSE) {
                Ok(_) => _ = lost.fetch_add(1, Relaxed),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// Frame streams, bidirectional: READY, ACCEPT, START.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&control(READY, Some(CONTENT)))?;
    let accepted = read_control(&mut stream)?;
    if !accepted.starts_with(&ACCEPT.to_be_bytes()) || !accepted.windows(CONTENT.len()).any(|part| part == CONTENT) {
        return Err(io::Error::other("it does not take dnstap"));
    }
    stream.write_all(&control(START, Some(CONTENT)))?;
    Ok(stream)
}

fn send(mut stream: UnixStream, frames: &Receiver<Vec<u8>>) -> io::Result<()> {
    while let Ok(frame) = frames.recv() {
        // A frame is two messages of at most 64 KiB and what is about them.
        let framed = [&(frame.len() as u32).to_be_bytes()[..], &frame].concat();
        stream.write_all(&framed)?;
    }
    stream.write_all(&control(STOP, None))?;
    let finished = read_control(&mut stream)?;
    if finished.starts_with(&FINISH.to_be_bytes()) { Ok(()) } else { Err(io::Error::other("it does not finish")) }
}

/// An escape of four zeros, the length, the kind, and the content type.
fn control(kind: u32, content: Option<&[u8]>) -> Vec<u8> {
    let mut body = kind.to_be_bytes().to_vec();
    if let Some(content) = content {
        body.extend(FIELD_CONTENT_TYPE.to_be_bytes());
        body.extend((content.len() as u32).to_be_bytes());
        body.extend(content);
    }
    [&[0; 4][..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

fn read_control(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let [0, 0, 0, 0, length @ ..] = head else { return Err(io::Error::other("not a control frame")) };
    let length = u32::from_be_bytes(length);
    if length > CONTROL_MAX {
        return Err(io::Error::other("too long a control frame"));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn frame(stream: &mut UnixStream) -> Vec<u8> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body).unwrap();
        body
    }

    #[test]
    fn a_collector_is_told_of_queries_and_of_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("dnstap.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let tap = Tap::new(&socket, b"ns1", None);
        assert!(Arc::ptr_eq(&Tap::new(&socket, b"ns1", Some(&tap)).0, &tap.0), "a reload goes on with it");
        tap.tell(b"query", b"reply", "192.0.2.1:53".parse().unwrap(), Transport::Tls);
        let (mut stream, _) = listener.accept().unwrap();
        assert!(read_control(&mut stream).unwrap().starts_with(&READY.to_be_bytes()));
        stream.write_all(&control(ACCEPT, Some(CONTENT))).unwrap();
        assert!(read_control(&mut stream).unwrap().starts_with(&START.to_be_bytes()));
        let told = Dnstap::decode(&*frame(&mut stream)).unwrap();
        let message = told.message.unwrap();
        assert_eq!((told.kind, told.identity.as_deref()), (MESSAGE, Some(&b"ns1"[..])));
        assert_eq!(
            (message.kind, message.family, message.protocol, message.query_port),
            (2, Some(1), Some(3), Some(53))
        );
        assert_eq!((message.query.as_deref(), message.response.as_deref()), (Some(&b"query"[..]), Some(&b"reply"[..])));
        drop(tap);
        assert!(read_control(&mut stream).unwrap().starts_with(&STOP.to_be_bytes()));
        stream.write_all(&control(FINISH, None)).unwrap();
    }

    #[test]
    fn without_a_collector_nothing_waits_and_what_is_lost_is_counted() {
        let tap = Tap::new(Path::new("/nonexistent/dnstap.sock"), b"", None);
        for _ in 0..QUEUE_MAX * 4 {
            tap.tell(b"query", b"reply", "[2001:db8::1]:53".parse().unwrap(), Transport::Udp);
        }
        assert!(tap.0.lost.load(Relaxed) > 0);
    }
}
