//! The resolver of captured workloads: UDP and TCP on one port. What is not the mesh's is passed on as it is.

use crate::{Answered, Names, answer, dns_answer::refused};
use hickory_proto::op::ResponseCode;
use portcullis_config::{Context, Path};
use portcullis_names::{EndpointAddress, ListenAddress, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

/// `[workload] dns = { … }`: names of services for applications that are captured.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct LocalDnsSpec {
    /// UDP and TCP: `"127.0.0.1:15053"`, to which `capture --dns 15053` leads questions.
    pub address: ListenAddress,
    /// Who is asked about everything else (default nobody: it is refused).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<Vec<EndpointAddress>>,
    /// How long applications may keep an answer (default 30s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TimeSpan>,
}

/// The same, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalDns {
    pub address: SocketAddr,
    pub forward: Vec<SocketAddr>,
    pub ttl: Duration,
}

/// A running resolver; it ends with this.
#[derive(Debug)]
pub struct DnsServer {
    settings: LocalDns,
    bound: SocketAddr,
    names: Arc<RwLock<Arc<Names>>>,
    _tasks: JoinSet<()>,
    /// The same sockets once more, for the resolver that follows on them.
    sockets: (std::net::TcpListener, std::net::UdpSocket),
}

/// A resolver that could start: its sockets are open, and nobody is answered yet.
#[derive(Debug)]
pub struct PreparedDns {
    settings: LocalDns,
    bound: SocketAddr,
    tcp: TcpListener,
    udp: UdpSocket,
    sockets: (std::net::TcpListener, std::net::UdpSocket),
}

#[derive(Clone)]
struct Resolver {
    names: Arc<RwLock<Arc<Names>>>,
    forward: Arc<[SocketAddr]>,
    /// Of questions that are passed on, so that capture leaves them alone.
    mark: Option<NonZeroU32>,
    permits: Arc<Semaphore>,
}

const TTL: Duration = Duration::from_secs(30);
const TTL_MAX: Duration = Duration::from_secs(3600);
const FORWARD_MAX: usize = 8;
/// Questions under way. Beyond, datagrams are dropped: resolvers ask again.
const AT_ONCE: usize = 512;
const ELSEWHERE_TIMEOUT: Duration = Duration::from_secs(3);
const STREAM_IDLE: Duration = Duration::from_secs(10);
/// RFC 6891 §6.2.5 lets a sender say more than it should; no datagram is longer.
const MESSAGE_MAX_BYTES: usize = 65_535;

impl LocalDnsSpec {
    /// `None`: the report says why not.
    pub fn compile(&self, at: &Path, cx: &mut Context) -> Option<LocalDns> {
        let address = socket_address(&self.address);
        if address.is_none() {
            cx.error(&at.key("address"), "DNS is not spoken over Unix sockets").help("like \"127.0.0.1:15053\"");
        }
        let forward = self.forward.iter().flatten().enumerate().filter_map(|(index, server)| match server {
            EndpointAddress::Ip(address) => Some(*address),
            EndpointAddress::Unix(_) => {
                cx.error(&at.key("forward").index(index), "DNS is not spoken over Unix sockets");
                None
            }
        });
        let forward: Vec<_> = forward.collect();
        if forward.len() > FORWARD_MAX {
            cx.error(&at.key("forward"), format!("at most {FORWARD_MAX} servers are asked"));
        }
        let ttl = self.ttl.map_or(TTL, TimeSpan::get);
        if ttl > TTL_MAX {
            cx.error(&at.key("ttl"), "applications keep an answer for 1h at most");
        }
        Some(LocalDns { address: address?, forward, ttl })
    }
}

pub(crate) fn socket_address(address: &ListenAddress) -> Option<SocketAddr> {
    match address {
        ListenAddress::Any(port) => Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), *port)),
        ListenAddress::Ip(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    }
}

impl DnsServer {
    /// Opens the sockets, or takes those of the resolver that runs on the address. Nothing changes before it is started. Needs
    /// a tokio runtime.
    pub fn prepare(settings: LocalDns, running: Option<&Self>) -> io::Result<PreparedDns> {
        let sockets = match running.filter(|running| running.settings.address == settings.address) {
            Some(running) => (running.sockets.0.try_clone()?, running.sockets.1.try_clone()?),
            None => {
                let tcp = std::net::TcpListener::bind(settings.address)?;
                // Port 0 was drawn for TCP; UDP has the same.
                let udp = std::net::UdpSocket::bind(tcp.local_addr()?)?;
                (tcp, udp)
            }
        };
        sockets.0.set_nonblocking(true)?;
        sockets.1.set_nonblocking(true)?;
        let bound = sockets.0.local_addr()?;
        let tcp = TcpListener::from_std(sockets.0.try_clone()?)?;
        let udp = UdpSocket::from_std(sockets.1.try_clone()?)?;
        Ok(PreparedDns { settings, bound, tcp, udp, sockets })
    }

    pub fn settings(&self) -> &LocalDns {
        &self.settings
    }

    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// What a new configuration knows.
    pub fn replace(&self, names: Names) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }
}

impl PreparedDns {
    pub fn start(self, names: Names, mark: Option<NonZeroU32>) -> DnsServer {
        let Self { settings, bound, tcp, udp, sockets } = self;
        let names = Arc::new(RwLock::new(Arc::new(names)));
        let resolver = Resolver {
            names: names.clone(),
            forward: settings.forward.clone().into(),
            mark,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(resolver.clone().datagrams(Arc::new(udp)));
        tasks.spawn(resolver.streams(tcp));
        DnsServer { settings, bound, names, _tasks: tasks, sockets }
    }
}

impl Resolver {
    async fn datagrams(self, socket: Arc<UdpSocket>) {
        let mut octets = vec![0; MESSAGE_MAX_BYTES];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut octets).await else { continue };
            let Ok(permit) = self.permits.clone().try_acquire_owned() else { continue };
            let query = octets.get(..length).unwrap_or_default().to_vec();
            let (resolver, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                let _permit = permit;
                if let Some(reply) = resolver.resolve(&query, Transport::Datagram).await {
                    let _ = socket.send_to(&reply, peer).await;
                }
            });
        }
    }

    async fn streams(self, listener: TcpListener) {
        loop {
            let Ok(permit) = self.permits.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let resolver = self.clone();
            tokio::spawn(async move {
                let _permit = permit;
                let _ = resolver.stream(stream).await;
            });
        }
    }

    async fn stream(self, mut stream: TcpStream) -> io::Result<()> {
        while let Ok(query) = timeout(STREAM_IDLE, read_framed(&mut stream)).await {
            let Some(reply) = self.resolve(&query?, Transport::Stream).await else { break };
            timeout(STREAM_IDLE, write_framed(&mut stream, &reply)).await??;
        }
        Ok(())
    }

    async fn resolve(&self, query: &[u8], by: Transport) -> Option<Vec<u8>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner).clone();
        match answer(query, &names) {
            Answered::Here(reply) => return Some(reply),
            Answered::Dropped => return None,
            Answered::Elsewhere => {}
        }
        for server in self.forward.iter() {
            let asked = match by {
                Transport::Datagram => timeout(ELSEWHERE_TIMEOUT, self.ask_by_datagram(*server, query)).await,
                Transport::Stream => timeout(ELSEWHERE_TIMEOUT, self.ask_by_stream(*server, query)).await,
            };
            if let Ok(Ok(reply)) = asked {
                return Some(reply);
            }
        }
        let code = if self.forward.is_empty() { ResponseCode::Refused } else { ResponseCode::ServFail };
        refused(query, code)
    }

    async fn ask_by_datagram(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        // A port of its own for each question: harder to guess than one for all (RFC 5452 §9.2).
        let socket = self.socket(server, Type::DGRAM, Protocol::UDP)?;
        socket.bind(&unspecified(server).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(server).await?;
        socket.send(query).await?;
        let mut reply = vec![0; MESSAGE_MAX_BYTES];
        loop {
            let length = socket.recv(&mut reply).await?;
            // Only an answer to this question (RFC 5452 §9.1): its id. The question itself is for who asked to compare.
            if reply.get(..2) == query.get(..2) {
                reply.truncate(length);
                return Ok(reply);
            }
        }
    }

    async fn ask_by_stream(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let socket = self.socket(server, Type::STREAM, Protocol::TCP)?;
        let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
        let mut stream = socket.connect(server).await?;
        write_framed(&mut stream, query).await?;
        read_framed(&mut stream).await
    }

    fn socket(&self, server: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(server), kind.nonblocking(), Some(protocol))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark.get())?;
        }
        Ok(socket)
    }
}

#[derive(Debug, Clone, Copy)]
enum Transport {
    Datagram,
    Stream,
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// RFC 1035 §4.2.2.
async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut octets = vec![0; usize::from(length)];
    stream.read_exact(&mut octets).await?;
    Ok(octets)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::{Message, Query},
        rr::{Name, RecordType},
    };

    fn query(name: &str) -> Vec<u8> {
        let mut query = Message::query();
        query.metadata.id = 7;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        query.to_vec().unwrap()
    }

    fn names(address: &str) -> Names {
        let services = [("cart.acme.lab".to_owned(), Some(address.parse().unwrap()))].into();
        Names::new("acme.lab", services, TTL)
    }

    fn local(forward: Vec<SocketAddr>) -> LocalDns {
        LocalDns { address: "127.0.0.1:0".parse().unwrap(), forward, ttl: TTL }
    }

    async fn by_datagram(server: SocketAddr, name: &str) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&query(name), server).await.unwrap();
        let mut reply = vec![0; 512];
        let read = timeout(Duration::from_secs(20), socket.recv(&mut reply)).await.unwrap().unwrap();
        Message::from_vec(&reply[..read]).unwrap()
    }

    async fn by_stream(server: SocketAddr, name: &str) -> Message {
        let mut stream = TcpStream::connect(server).await.unwrap();
        write_framed(&mut stream, &query(name)).await.unwrap();
        Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap()
    }

    fn told(reply: &Message) -> String {
        let data: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        format!("{:?} {}", reply.metadata.response_code, data.join(","))
    }

    #[tokio::test]
    async fn datagrams_and_streams_are_answered_here_or_passed_on_as_they_are() {
        // Another resolver of ours plays the outside, where the same name means something else.
        let outside = DnsServer::prepare(local(Vec::new()), None).unwrap().start(
            Names::new("com", [("example.com".to_owned(), Some("192.0.2.7".parse().unwrap()))].into(), TTL),
            None,
        );
        let server = DnsServer::prepare(local(vec![outside.bound()]), None).unwrap().start(names("240.0.0.1"), None);
        for (name, expected) in [
            ("cart.acme.lab.", "NoError 240.0.0.1"),
            ("example.com.", "NoError 192.0.2.7"),
            ("none.com.", "NXDomain "),
            ("elsewhere.net.", "Refused "),
        ] {
            assert_eq!(told(&by_datagram(server.bound(), name).await), expected, "{name}");
            assert_eq!(told(&by_stream(server.bound(), name).await), expected, "{name}");
        }
        server.replace(names("240.0.0.9"));
        assert_eq!(told(&by_datagram(server.bound(), "cart.acme.lab.").await), "NoError 240.0.0.9");
        // Another follows on the same sockets; while it is prepared, nothing changes.
        let next = DnsServer::prepare(local(Vec::new()), Some(&server)).unwrap();
        assert_eq!(told(&by_stream(server.bound(), "example.com.").await), "NoError 192.0.2.7");
        let bound = server.bound();
        let next = next.start(names("240.0.0.10"), None);
        drop(server);
        assert_eq!(next.bound(), bound);
        for (name, expected) in [("cart.acme.lab.", "NoError 240.0.0.10"), ("example.com.", "Refused ")] {
            assert_eq!(told(&by_datagram(bound, name).await), expected, "{name}");
            assert_eq!(told(&by_stream(bound, name).await), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_listened_on_or_asked_is_told() {
        let text = "address = \"unix:x\"\nforward = [\"unix:y\", \"10.0.0.1:53\"]\nttl = \"2h\"";
        let spec: LocalDnsSpec = toml::from_str(text).unwrap();
        let mut cx = Context::default();
        assert_eq!(spec.compile(&Path::root(), &mut cx), None);
        assert_eq!(cx.finish().0.problems().len(), 3);
        let spec: LocalDnsSpec = toml::from_str("address = \":53\"\nttl = \"5s\"").unwrap();
        let compiled = spec.compile(&Path::root(), &mut Context::default()).unwrap();
        assert_eq!((compiled.address.port(), compiled.ttl), (53, Duration::from_secs(5)));
    }
}
