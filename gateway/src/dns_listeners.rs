//! The DNS side of the running gateway: sockets opened before a change is published, a server on each listener, one set of
//! checks for all of them, and the snapshot that they answer from.

use crate::{
    dns::{Dns, DnsListener, DnsSpeaks},
    dns_orders::OrderFile,
    listeners::{Inherited, advice},
};
use portcullis_config::{ContentHash, Live};
use portcullis_gslb::{
    Checks, Clocks, DnsMetrics, Host, Listeners, QueryRecord, Republish, Server, Snapshot, TlsSwitch,
};
use portcullis_names::{ListenAddress, ObjectName};
use portcullis_ops::{
    AccessLogTarget,
    access_log::{self, AccessLog},
    metrics::Metrics,
};
use portcullis_tls::ServerTls;
use serde::Serialize;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::SystemTime,
};

/// Everything of a gateway that is about DNS.
pub(crate) struct DnsSide {
    running: Option<Running>,
    /// Registered once, whatever becomes of DNS.
    metrics: Option<Arc<DnsMetrics>>,
    listeners: BTreeMap<ObjectName, LiveDns>,
    pub(crate) orders: OrderFile,
    republish: Republish,
}

struct Running {
    live: Live<Snapshot>,
    host: Host,
    log: Arc<AccessLog>,
    _checks: Checks,
}

struct LiveDns {
    address: ListenAddress,
    bound: SocketAddr,
    tls: Option<TlsSwitch>,
    kind: Kind,
    /// Second handles of what is served: what a successor is given.
    sockets: Vec<OwnedFd>,
    server: Server,
}

/// What sockets were opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Clear,
    Encrypted,
    Verdicts,
}

impl Kind {
    fn of(listener: &DnsListener) -> Self {
        match listener.speaks {
            DnsSpeaks::Clear => Self::Clear,
            DnsSpeaks::Encrypted(_) => Self::Encrypted,
            DnsSpeaks::Verdicts(_) => Self::Verdicts,
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Clear | Self::Encrypted => "dns",
            Self::Verdicts => "verdicts",
        }
    }
}

/// Sockets of a configuration that is not published yet.
pub(crate) struct OpenedDns(Vec<(DnsListener, DnsSockets)>);

/// The sockets of one listener, on one port.
struct DnsSockets {
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
}

/// One datagram queue must not overflow while a thread is off its core for a moment.
const UDP_BUFFER: usize = 4 << 20;
const BACKLOG: i32 = 1024;
/// Port 0 is chosen for TCP; that UDP's is free as well is likely, not certain.
const PORT_TRIES: usize = 16;

impl OpenedDns {
    /// No listener has changed.
    pub(crate) fn nothing() -> Self {
        Self(Vec::new())
    }
}

impl DnsSide {
    /// `republish` is told when a zone was fetched.
    pub(crate) fn new(orders: OrderFile, republish: Republish) -> Self {
        Self { running: None, metrics: None, listeners: BTreeMap::new(), orders, republish }
    }

    /// Opens what is not open. Changes nothing; an error names listener and address.
    pub(crate) fn open(
        &self,
        dns: Option<&Dns>,
        inherited: &mut Inherited,
        threads: usize,
    ) -> Result<OpenedDns, String> {
        let mut opened = Vec::new();
        for listener in dns.map_or(&[][..], |dns| &dns.listeners) {
            if self.listeners.get(&listener.name).is_some_and(|live| live.serves(listener)) {
                continue;
            }
            let threads = match listener.speaks {
                DnsSpeaks::Clear => threads,
                // Streams are decrypted by one thread, and QUIC with them: UDP in the clear has no place beside it.
                DnsSpeaks::Encrypted(_) => 1,
                DnsSpeaks::Verdicts(_) => 0,
            };
            let sockets = match inherited.take(&listener.name) {
                // Who gives sockets for DNS over TLS need not know of QUIC.
                Some(fds) => DnsSockets::adopt(fds, if listener.speaks.tls().is_some() { 0 } else { threads }),
                None => DnsSockets::bind(&listener.address, threads),
            };
            let sockets = sockets.map_err(|error| {
                let why = advice(&error, &listener.address);
                format!("listener \"{}\": cannot listen on {}: {why}", listener.name, listener.address)
            })?;
            opened.push((listener.clone(), sockets));
        }
        Ok(OpenedDns(opened))
    }

    /// Serves `dns` from now on: the snapshot first, so that whoever comes to a new socket is answered from it.
    pub(crate) fn apply(
        &mut self,
        dns: Option<&Dns>,
        hash: ContentHash,
        opened: OpenedDns,
        metrics: &Arc<Metrics>,
    ) -> io::Result<()> {
        let Some(dns) = dns else {
            self.end_listeners(|_| true);
            self.running = None;
            return Ok(());
        };
        match &mut self.running {
            Some(running) => running.publish(dns, hash),
            None => {
                let own = match &self.metrics {
                    Some(own) => own.clone(),
                    None => Arc::new(DnsMetrics::new(metrics.registry()).map_err(io::Error::other)?),
                };
                self.metrics = Some(own.clone());
                self.running = Some(Running::start(dns, hash, own, self.republish.clone(), metrics)?);
            }
        }
        self.orders.place(&dns.snapshot, Clocks::read());
        dns.snapshot.publish(Clocks::read());
        let wanted = |name: &ObjectName| dns.listeners.iter().find(|listener| listener.name == *name);
        for (name, live) in &self.listeners {
            if let (Some(switch), Some(tls)) = (&live.tls, wanted(name).and_then(|listener| listener.speaks.tls())) {
                switch.set(tls.config().clone());
            }
        }
        let replaced: Vec<_> = opened.0.iter().map(|(listener, _)| listener.name.clone()).collect();
        self.end_listeners(|name| wanted(name).is_none() || replaced.contains(name));
        let Some(running) = &self.running else { return Ok(()) };
        for (listener, sockets) in opened.0 {
            let live = LiveDns::start(&listener, sockets, running)?;
            tracing::info!(listener = %listener.name, address = %listener.address, bound = %live.bound, protocol = live.kind.protocol(), "listening");
            self.listeners.insert(listener.name, live);
        }
        Ok(())
    }

    /// What serves now.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.running.as_ref().map(|running| running.live.load().snapshot.clone())
    }

    /// Stops one listener once it has answered what it was sent. `false`: there is none of that name.
    pub(crate) fn drain(&mut self, name: &str) -> bool {
        let before = self.listeners.len();
        self.end_listeners(|own| own.as_str() == name);
        self.listeners.len() < before
    }

    /// Takes the listeners away for whoever may wait until they have answered what they were sent.
    pub(crate) fn take_servers(&mut self) -> Vec<Server> {
        std::mem::take(&mut self.listeners).into_values().map(|live| live.server).collect()
    }

    pub(crate) fn flush_log(&self) {
        if let Some(running) = &self.running {
            running.log.flush();
        }
    }

    pub(crate) fn reopen_log(&self) {
        if let Some(running) = &self.running {
            running.log.reopen();
        }
    }

    /// Name, address, address in use, protocol.
    pub(crate) fn bound(&self) -> impl Iterator<Item = (&ObjectName, &ListenAddress, SocketAddr, &'static str)> {
        self.listeners.iter().map(|(name, live)| (name, &live.address, live.bound, live.kind.protocol()))
    }

    pub(crate) fn sockets(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let each = self.listeners.iter();
        each.flat_map(|(name, live)| live.sockets.iter().map(|socket| (name.to_string(), socket.as_fd()))).collect()
    }

    fn end_listeners(&mut self, ends: impl Fn(&ObjectName) -> bool) {
        for (name, live) in self.listeners.extract_if(.., |name, _| ends(name)) {
            tracing::info!(listener = %name, "answers no more");
            // It waits for streams: not under the gateway's lock.
            std::thread::spawn(move || live.server.stop());
        }
    }
}

impl Running {
    fn start(
        dns: &Dns,
        hash: ContentHash,
        metrics: Arc<DnsMetrics>,
        republish: Republish,
        process: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let live = Live::new(dns.snapshot.clone(), hash, SystemTime::now());
        let log = Arc::new(AccessLog::start(target(dns), process.clone())?);
        let to = log.clone();
        let tell = move |record: &QueryRecord<'_>| to.write_line(line(record));
        let host = Host { metrics, log: Some(Arc::new(tell)), republish };
        let checks = Checks::start(&live, &host)?;
        dns.snapshot.keep_journals();
        Ok(Self { live, host, log, _checks: checks })
    }

    fn publish(&self, dns: &Dns, hash: ContentHash) {
        self.log.open(target(dns));
        self.live.publish(dns.snapshot.clone(), hash, "reload", SystemTime::now());
        dns.snapshot.settle(Clocks::read());
    }
}

fn target(dns: &Dns) -> AccessLogTarget {
    dns.query_log.clone().unwrap_or(AccessLogTarget::Off)
}

fn line(record: &QueryRecord<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'r> {
        time: String,
        #[serde(flatten)]
        record: &'r QueryRecord<'r>,
    }
    let mut line = serde_json::to_vec(&Line { time: access_log::now_text(), record }).unwrap_or_default();
    line.push(b'\n');
    line
}

impl LiveDns {
    fn start(listener: &DnsListener, sockets: DnsSockets, running: &Running) -> io::Result<Self> {
        let bound = sockets.tcp.local_addr()?;
        let mut kept: Vec<OwnedFd> = vec![sockets.tcp.try_clone()?.into()];
        for udp in &sockets.udp {
            kept.push(udp.try_clone()?.into());
        }
        let tls = listener.speaks.tls().map(|tls| TlsSwitch::new(ServerTls::config(tls).clone()));
        let (udp, tcp) = (sockets.udp, sockets.tcp);
        let listeners = match (&listener.speaks, &tls) {
            (DnsSpeaks::Verdicts(_), Some(tls)) => {
                Listeners { verdicts: vec![(tcp, tls.clone())], ..Listeners::default() }
            }
            (DnsSpeaks::Encrypted(_), Some(tls)) => Listeners {
                tls: vec![(tcp, tls.clone())],
                quic: udp.into_iter().map(|udp| (udp, tls.clone())).collect(),
                ..Listeners::default()
            },
            (_, _) => Listeners { udp, tcp: vec![tcp], ..Listeners::default() },
        };
        let server = Server::start(listeners, &running.live, &running.host)?;
        let kind = Kind::of(listener);
        Ok(Self { address: listener.address.clone(), bound, tls, kind, sockets: kept, server })
    }

    /// Whether the sockets that are open will do.
    fn serves(&self, listener: &DnsListener) -> bool {
        self.address == listener.address && self.kind == Kind::of(listener)
    }
}

impl DnsSockets {
    fn bind(address: &ListenAddress, threads: usize) -> io::Result<Self> {
        match address {
            ListenAddress::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
            ListenAddress::Ip(address) => Self::bind_ip(*address, Family::Own, threads),
            ListenAddress::Any(port) => {
                match Self::bind_ip((Ipv6Addr::UNSPECIFIED, *port).into(), Family::Both, threads) {
                    // A kernel without IPv6 still has every IPv4 address.
                    Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) => {
                        Self::bind_ip((Ipv4Addr::UNSPECIFIED, *port).into(), Family::Own, threads)
                    }
                    other => other,
                }
            }
        }
    }

    fn bind_ip(address: SocketAddr, family: Family, threads: usize) -> io::Result<Self> {
        let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        let mut last = Self::bind_port(address, family, threads);
        for _ in 1..tries {
            if last.is_ok() {
                break;
            }
            last = Self::bind_port(address, family, threads);
        }
        last
    }

    fn bind_port(address: SocketAddr, family: Family, threads: usize) -> io::Result<Self> {
        let tcp = socket(address, family, Type::STREAM, Protocol::TCP)?;
        tcp.set_reuse_address(true)?;
        tcp.bind(&address.into())?;
        tcp.listen(BACKLOG)?;
        let tcp = TcpListener::from(tcp);
        let address = tcp.local_addr()?;
        let mut udp = Vec::with_capacity(threads);
        for _ in 0..threads {
            let socket = socket(address, family, Type::DGRAM, Protocol::UDP)?;
            // Only to share the port among our own: two processes of one user would share it unawares, but for TCP's bind.
            socket.set_reuse_port(true)?;
            // The kernel may give less than is asked for.
            socket.set_recv_buffer_size(UDP_BUFFER).ok();
            socket.bind(&address.into())?;
            udp.push(socket.into());
        }
        Ok(Self { udp, tcp })
    }

    /// Sockets that a predecessor or systemd opened: UDP by as many threads as there are sockets, at least one.
    fn adopt(fds: Vec<OwnedFd>, threads: usize) -> io::Result<Self> {
        let (mut udp, mut tcp): (Vec<UdpSocket>, Option<TcpListener>) = (Vec::new(), None);
        for fd in fds {
            if SockRef::from(&fd).r#type()? == Type::DGRAM {
                udp.push(UdpSocket::from(fd));
            } else {
                tcp = Some(TcpListener::from(fd));
            }
        }
        let missing = |what| io::Error::other(format!("the sockets given for it have no {what} among them"));
        let tcp = tcp.ok_or_else(|| missing("TCP"))?;
        if threads > 0 && udp.is_empty() {
            return Err(missing("UDP"));
        }
        Ok(Self { udp, tcp })
    }
}

fn socket(address: SocketAddr, family: Family, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(matches!(family, Family::Own))?;
    }
    Ok(socket)
}

#[derive(Debug, Clone, Copy)]
enum Family {
    /// Of the address alone.
    Own,
    /// IPv4 as well, on an IPv6 socket.
    Both,
}

/// Of Linux, the one platform this serves on.
const EAFNOSUPPORT: i32 = 97;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_and_tcp_share_the_chosen_port_and_a_successor_sorts_them() {
        let sockets = DnsSockets::bind(&"127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let port = sockets.tcp.local_addr().unwrap().port();
        assert!(sockets.udp.iter().all(|udp| udp.local_addr().unwrap().port() == port));
        let mut fds: Vec<OwnedFd> = sockets.udp.into_iter().map(OwnedFd::from).collect();
        fds.insert(1, sockets.tcp.into());
        let taken = DnsSockets::adopt(fds, 2).unwrap();
        assert_eq!((taken.udp.len(), taken.tcp.local_addr().unwrap().port()), (2, port));
        let udp: Vec<OwnedFd> = taken.udp.into_iter().map(OwnedFd::from).collect();
        assert!(DnsSockets::adopt(udp, 2).is_err());
    }

    #[test]
    fn a_taken_port_is_refused() {
        let first = DnsSockets::bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = ListenAddress::Ip(first.tcp.local_addr().unwrap());
        assert!(DnsSockets::bind(&address, 1).is_err());
    }
}
