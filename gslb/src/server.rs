//! Runs the DNS server on sockets that it is given: a thread a UDP socket, one thread for all streams. Members are checked by
//! [`crate::Checks`], once for all servers of a process.
//!
//! Reloads happen elsewhere: whoever publishes a snapshot to [`Live`] changes what the next query is answered from.

use crate::{
    Name,
    answer::{self, Asked, Handled, Reply, ReplyKind, Transport},
    cookie::CookieState,
    fleet::{Fleet, serve},
    metrics::DnsMetrics,
    name,
    query::{HEADER, KeySpace},
    query_log::{QueryLog, QueryRecord},
    rate_limit::{Limited, RateLimit},
    snapshot::Snapshot,
    tcp, udp, update, updater,
    updates::{Job, ReplyTo},
};
use arc_swap::ArcSwap;
use portcullis_config::{Live, Reader};
use std::{
    hash::{Hash, Hasher},
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Instant, SystemTime},
};

/// Sockets to serve, opened by whoever starts the server.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Several on one address (SO_REUSEPORT) share its load, a thread each.
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
    /// DNS over TLS (RFC 7858).
    pub tls: Vec<(TcpListener, TlsSwitch)>,
    /// DNS over QUIC (RFC 9250).
    pub quic: Vec<(UdpSocket, TlsSwitch)>,
    /// Our verdicts, for the peers of a fleet.
    pub verdicts: Vec<(TcpListener, TlsSwitch)>,
}

/// What TLS is spoken with: replaced by a reload, for connections that come after. Clones are the same one.
#[derive(Debug, Clone)]
pub struct TlsSwitch(Arc<ArcSwap<rustls::ServerConfig>>);

impl TlsSwitch {
    pub fn new(config: Arc<rustls::ServerConfig>) -> Self {
        Self(Arc::new(ArcSwap::new(config)))
    }

    pub fn set(&self, config: Arc<rustls::ServerConfig>) {
        self.0.store(config);
    }

    pub(crate) fn load(&self) -> Arc<rustls::ServerConfig> {
        self.0.load_full()
    }
}

/// The fleet of whatever serves.
#[derive(Clone)]
pub(crate) struct Republished(Live<Snapshot>);

impl Republished {
    pub(crate) fn now(&self) -> Option<Arc<Fleet>> {
        self.0.load().snapshot.services.fleet.clone()
    }
}

/// Told when a zone was fetched, so that a snapshot with it is compiled and published.
#[derive(Clone, Default)]
pub struct Republish(Option<Arc<dyn Fn() + Send + Sync>>);

impl Republish {
    pub fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self) {
        if let Some(tell) = &self.0 {
            tell();
        }
    }
}

/// What a test replaces.
#[derive(Clone)]
pub struct Host {
    pub metrics: Arc<DnsMetrics>,
    pub log: Option<Arc<dyn QueryLog>>,
    pub republish: Republish,
}

/// A server that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    /// Closed to wake the threads.
    wakers: Vec<UnixStream>,
    streams: tokio::sync::watch::Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

/// What each thread answers with.
pub(crate) struct Service {
    published: Reader<Snapshot>,
    /// What a whole batch is answered from: what is counted of it is counted in what it was answered from.
    snapshot: Arc<Snapshot>,
    uncounted: Option<Uncounted>,
    space: KeySpace,
    host: Host,
    limit: RateLimit,
    stop: Arc<AtomicBool>,
    start: Instant,
    random: Random,
    now: Now,
}

/// Replies of a batch that came one behind the other and are alike: counted at once, as counters are shared by all threads.
#[derive(Debug, Clone, Copy)]
struct Uncounted {
    transport: Transport,
    reply: Reply,
    replies: u64,
}

/// Read once a batch: a clock costs as much as an answer.
#[derive(Debug, Clone, Copy)]
struct Now {
    unix: u32,
    millis: u32,
}

/// A generator of one thread (xorshift64*): spreads load, guards nothing.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl Server {
    /// Begins to serve. The sockets may be non-blocking or not.
    pub fn start(listeners: Listeners, live: &Live<Snapshot>, host: &Host) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (streams, stopped) = tokio::sync::watch::channel(());
        let mut server = Self { stop: stop.clone(), wakers: Vec::new(), streams, threads: Vec::new() };
        for (index, socket) in listeners.udp.into_iter().enumerate() {
            socket.set_nonblocking(true)?;
            let source = udp::prepare(&socket)?;
            let (ours, theirs) = UnixStream::pair()?;
            let service = Service::new(live, host.clone(), stop.clone());
            server.wakers.push(ours);
            server.spawn(format!("dns-udp-{index}"), move || {
                if let Err(error) = udp::run(&socket, source, &theirs, service) {
                    tracing::error!(%error, "a DNS socket failed and serves no more");
                }
            })?;
        }
        if !listeners.tcp.is_empty() || !listeners.tls.is_empty() || !listeners.quic.is_empty() {
            let roads = tcp::Roads::new(listeners.tcp, listeners.tls, listeners.quic)?;
            let service = Service::new(live, host.clone(), stop);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            server.spawn("dns-tcp".to_owned(), move || {
                runtime.block_on(tcp::run(roads, service, stopped));
            })?;
        }
        if !listeners.verdicts.is_empty() {
            for (listener, _) in &listeners.verdicts {
                listener.set_nonblocking(true)?;
            }
            let (fleet, stopped) = (Republished(live.clone()), server.streams.subscribe());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            server.spawn("dns-verdicts".to_owned(), move || {
                runtime.block_on(serve(listeners.verdicts, fleet, stopped));
            })?;
        }
        Ok(server)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name).spawn(run)?);
        Ok(())
    }

    /// Ends the server and waits for its threads: datagrams that the kernel has are answered, and streams get the replies to
    /// what they have sent.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        self.wakers.clear();
        self.streams.send_replace(());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a DNS thread panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl Service {
    fn new(live: &Live<Snapshot>, host: Host, stop: Arc<AtomicBool>) -> Self {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
        let mut service = Self {
            published: live.reader(),
            snapshot: live.load().snapshot.clone(),
            uncounted: None,
            space: KeySpace::default(),
            host,
            limit: RateLimit::new(),
            stop,
            start: Instant::now(),
            random: Random::new(seed),
            now: Now { unix: 0, millis: 0 },
        };
        service.begin_batch();
        service
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub(crate) fn snapshot(&mut self) -> Arc<Snapshot> {
        self.published.load().snapshot.clone()
    }

    pub(crate) fn refused_connection(&self) {
        self.host.metrics.connection_refused();
    }

    /// Takes the snapshot and reads the clocks for what follows.
    pub(crate) fn begin_batch(&mut self) {
        let now = &self.published.load().snapshot;
        if !Arc::ptr_eq(now, &self.snapshot) {
            let now = now.clone();
            self.end_batch();
            self.snapshot = now;
        }
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // Both wrap as RFC 1982 numbers do; who compares them knows.
        self.now = Now { unix: unix as u32, millis: self.start.elapsed().as_millis() as u32 };
    }

    /// Counts what is not counted yet: to be called before the replies go out.
    pub(crate) fn end_batch(&mut self) {
        if let Some(Uncounted { transport, reply, replies }) = self.uncounted.take() {
            self.host.metrics.answered(&self.snapshot, transport, &reply, replies);
        }
    }

    fn count(&mut self, transport: Transport, reply: &Reply) {
        if let Some(like) = self.uncounted.as_mut()
            && like.transport == transport
            && like.reply.counts_as(reply)
        {
            like.replies += 1;
            return;
        }
        self.end_batch();
        self.uncounted = Some(Uncounted { transport, reply: *reply, replies: 1 });
    }

    /// Answers one datagram; whether there is a reply to send.
    pub(crate) fn datagram(&mut self, octets: &[u8], client: SocketAddr, out: &mut Vec<u8>) -> Answered {
        if self.is_ixfr(octets)
            && let Some(message) = self.transfer(octets, client, Transport::Udp).and_then(|all| all.into_iter().next())
        {
            *out = message;
            return Answered::Reply;
        }
        let Some(reply) = self.answer(octets, client, Transport::Udp, out) else { return Answered::Silent };
        // A valid cookie proves the address (RFC 7873 §5.2.4): nobody else is hit by the reply.
        if reply.cookie == CookieState::Valid {
            return Answered::Reply;
        }
        let ip = udp::plain(client.ip());
        let plan = &self.snapshot.plan.rate_limit;
        let like = match reply.kind {
            ReplyKind::Positive | ReplyKind::NoData => out.get(HEADER..).map(QuestionOf),
            ReplyKind::Expanded | ReplyKind::NxDomain | ReplyKind::Referral | ReplyKind::Error => None,
        };
        match self.limit.check(plan, ip, reply.kind, (reply.zone, like), self.now.millis) {
            Limited::Send => Answered::Reply,
            Limited::Slip => {
                self.host.metrics.limited(Limited::Slip);
                answer::truncate(out, reply.opt_length);
                Answered::Reply
            }
            Limited::Drop => {
                self.host.metrics.limited(Limited::Drop);
                Answered::Silent
            }
        }
    }

    /// A change to a zone (RFC 2136): refused at once, or answered through `reply` when it is in force. `None`: it is another
    /// message, or nobody may change anything here.
    pub(crate) fn update(
        &mut self,
        octets: &[u8],
        client: SocketAddr,
        transport: Transport,
        out: &mut Vec<u8>,
        reply: impl FnOnce() -> Option<ReplyTo>,
    ) -> Option<Updated> {
        if !update::is_update(octets) || octets.get(2).is_some_and(|flags| flags & 0x80 != 0) {
            return None;
        }
        let snapshot = &self.snapshot;
        if !snapshot.zones.zones.iter().any(|zone| zone.update.is_some()) {
            return None;
        }
        let asked = Asked { client: udp::plain(client.ip()), transport, now: self.now.unix, draw: 0 };
        if let Err(refusal) = updater::admit(snapshot, octets, &asked) {
            *out = refusal;
            return Some(Updated::Answered);
        }
        let job = Job { octets: octets.to_vec(), client: asked.client, reply: reply()? };
        // Who finds no place is not answered, and sends again.
        snapshot.kept.updates.push(job).ok();
        Some(Updated::Later)
    }

    /// The messages of a zone transfer, when that is what is asked for and allowed.
    pub(crate) fn transfer(&mut self, octets: &[u8], client: SocketAddr, transport: Transport) -> Option<Vec<Vec<u8>>> {
        let asked = Asked { client: udp::plain(client.ip()), transport, now: self.now.unix, draw: 0 };
        let messages = answer::transfer(&self.snapshot, octets, &asked)?;
        tracing::info!(%client, messages = messages.len(), "zone transferred");
        self.host.metrics.transferred();
        Some(messages)
    }

    /// Answers one message of a stream; whether there is a reply to send.
    pub(crate) fn message(
        &mut self,
        octets: &[u8],
        client: SocketAddr,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Answered {
        let reply = self.answer(octets, client, transport, out);
        self.end_batch();
        if reply.is_some() { Answered::Reply } else { Answered::Silent }
    }

    /// IXFR may come by UDP (RFC 1995 §2). Only who has a zone to give looks closer.
    fn is_ixfr(&mut self, octets: &[u8]) -> bool {
        // The authority section has one record in an IXFR, and none in any other query.
        octets.get(8..10) == Some(&[0, 1]) && self.snapshot.zones.gives_any()
    }

    /// RFC 1996 §3.11: a primary's word that a zone of ours has changed. Anybody else's is refused like any other message.
    fn notified(&mut self, octets: &[u8], asked: &Asked, out: &mut Vec<u8>) -> Option<Reply> {
        let apex = answer::notified(octets)?;
        let secondary = self.snapshot.zones.at(apex.as_wire())?.secondary.as_ref()?;
        if !secondary.is_primary(asked.client) {
            return None;
        }
        let reply = answer::acknowledge(octets, &apex, out);
        self.snapshot.kept.fetched.notify(apex);
        self.count(asked.transport, &reply);
        Some(reply)
    }

    fn answer(&mut self, octets: &[u8], client: SocketAddr, transport: Transport, out: &mut Vec<u8>) -> Option<Reply> {
        let asked = Asked { client: udp::plain(client.ip()), transport, now: self.now.unix, draw: self.random.draw() };
        if let Some(reply) = self.notified(octets, &asked, out) {
            return Some(reply);
        }
        let (snapshot, space) = (&self.snapshot, &mut self.space);
        // A query of death must not end the thread that serves all others: it costs itself its reply.
        let handled = catch_unwind(AssertUnwindSafe(|| answer::respond(snapshot, octets, &asked, space, out)));
        match handled {
            Ok(Handled::Replied(reply)) => {
                self.count(transport, &reply);
                let snapshot = &self.snapshot;
                if let Some(log) = &self.host.log
                    && snapshot.plan.log_sample.takes(self.random.draw())
                {
                    log.record(&QueryRecord::new(snapshot, octets, client, transport, &reply));
                }
                if let Some((tap, sample)) = &snapshot.plan.dnstap
                    && sample.takes(self.random.draw())
                {
                    tap.tell(octets, out, client, transport);
                }
                Some(reply)
            }
            Ok(Handled::Silent) => {
                self.host.metrics.ignored(transport);
                None
            }
            Err(_) => {
                self.host.metrics.panicked();
                None
            }
        }
    }
}

/// What became of a change to a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Updated {
    /// The reply is there.
    Answered,
    /// It comes when the change is in force.
    Later,
}

/// Whether there is something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    Silent,
    Reply,
}

/// Name and type of a reply's question, behind its header: what a rate limit calls alike. Without case, or a forger would vary it.
struct QuestionOf<'o>(&'o [u8]);

impl Hash for QuestionOf<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let length = name::wire_length(self.0).map_or(0, |length| length + 4);
        let mut key = [0; Name::OCTETS_MAX + 4];
        if let (Some(key), Some(question)) = (key.get_mut(..length), self.0.get(..length)) {
            key.copy_from_slice(question);
            key.make_ascii_lowercase();
            state.write(key);
        }
    }
}
