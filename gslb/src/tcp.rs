//! The stream road: DNS over TCP (RFC 7766) and over TLS (RFC 7858), pipelined and capped. What turns out to be HTTP goes on
//! in `doh`, and QUIC in `doq`, under the same caps.

use crate::{
    answer::Transport,
    doh, doq,
    plan::TcpPlan,
    server::{Answered, Service, TlsSwitch, Updated},
    udp::plain,
    updates::ReplyTo,
};
use std::{
    cell::{RefCell, RefMut},
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::LocalSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

/// Listening sockets of streams.
pub(crate) struct Roads {
    tcp: Vec<std::net::TcpListener>,
    tls: Vec<(std::net::TcpListener, TlsSwitch)>,
    quic: Vec<(std::net::UdpSocket, TlsSwitch)>,
}

/// What the connections of one thread share.
pub(crate) struct Shared {
    service: RefCell<Service>,
    open: RefCell<Open>,
    stop: watch::Receiver<()>,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// Counts a connection as long as it is held.
pub(crate) struct Permit {
    shared: Rc<Shared>,
    client: IpAddr,
}

/// A pause after an accept that failed: there are no file descriptors, and asking at once again finds none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// RFC 7766 §6.2.3: under pressure, idle connections are the ones to go.
const IDLE_UNDER_PRESSURE: Duration = Duration::from_secs(1);
/// Replies that are gathered before they are written: RFC 7766 §8 wants few segments, and a slow reader must not cost memory.
const GATHERED_MAX: usize = 64 * 1024;
const READ_SIZE: usize = 4_096;
/// A change to a zone is in force, or is not answered.
pub(crate) const UPDATE_MAX: Duration = Duration::from_secs(30);
/// How long a connection is still read when the end has come: for what its client has sent by then.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(300);
/// By then all connections are gone, or are cut.
const LAST_MAX: Duration = Duration::from_secs(5);

impl Roads {
    pub(crate) fn new(
        tcp: Vec<std::net::TcpListener>,
        tls: Vec<(std::net::TcpListener, TlsSwitch)>,
        quic: Vec<(std::net::UdpSocket, TlsSwitch)>,
    ) -> io::Result<Self> {
        for listener in tcp.iter().chain(tls.iter().map(|(listener, _)| listener)) {
            listener.set_nonblocking(true)?;
        }
        Ok(Self { tcp, tls, quic })
    }
}

/// Accepts and serves until told to stop.
pub(crate) async fn run(roads: Roads, service: Service, mut stop: watch::Receiver<()>) {
    let shared = Rc::new(Shared { service: RefCell::new(service), open: RefCell::default(), stop: stop.clone() });
    let mut tasks = LocalSet::new();
    let tcp = roads.tcp.into_iter().map(|listener| (listener, None));
    let tls = roads.tls.into_iter().map(|(listener, config)| (listener, Some(config)));
    for (listener, switch) in tcp.chain(tls) {
        match TcpListener::from_std(listener) {
            Ok(listener) => _ = tasks.spawn_local(accept(listener, switch, shared.clone())),
            Err(error) => tracing::error!(%error, "a DNS listener cannot be used"),
        }
    }
    for (socket, switch) in roads.quic {
        tasks.spawn_local(doq::run(socket, switch, shared.clone()));
    }
    tokio::select! {
        () = &mut tasks => {}
        _ = stop.changed() => {
            timeout(LAST_MAX, tasks).await.ok();
        }
    }
}

async fn accept(listener: TcpListener, switch: Option<TlsSwitch>, shared: Rc<Shared>) {
    let mut stop = shared.stop.clone();
    loop {
        // Whoever the kernel has let in by the end is served.
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let plan = shared.plan();
        let Some(permit) = Permit::take(&shared, plain(client.ip()), &plan) else {
            // Closed at once: a client that is told nothing would wait.
            shared.refused();
            continue;
        };
        let acceptor = switch.as_ref().map(|switch| TlsAcceptor::from(switch.load()));
        tokio::task::spawn_local(serve(stream, client, acceptor, permit, plan));
    }
}

async fn serve(stream: TcpStream, client: SocketAddr, acceptor: Option<TlsAcceptor>, permit: Permit, plan: TcpPlan) {
    // Replies are written whole: waiting for more to send would only delay them.
    stream.set_nodelay(true).ok();
    match acceptor {
        None => talk(stream, client, Transport::Tcp, &permit, plan).await,
        Some(acceptor) => {
            let Ok(Ok(stream)) = timeout(plan.first_message, acceptor.accept(stream)).await else { return };
            if doh::is_http(stream.get_ref().1.alpn_protocol()) {
                return doh::serve(stream, client, permit, plan).await;
            }
            talk(stream, client, Transport::Tls, &permit, plan).await;
        }
    }
}

/// One connection: reads messages, writes replies in the order of the queries, until either side has had enough.
async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    client: SocketAddr,
    transport: Transport,
    permit: &Permit,
    plan: TcpPlan,
) {
    let mut input = Vec::with_capacity(READ_SIZE);
    let mut output = Vec::new();
    let mut reply = Vec::new();
    let mut deadline = Instant::now() + plan.first_message;
    let mut stop = permit.shared.stop.clone();
    let mut last = None;
    loop {
        let Answers { used, messages, later } = answer_all(permit, &input, client, transport, &mut reply, &mut output);
        input.drain(..used);
        if let Some(later) = later
            && let Ok(Ok(reply)) = timeout(UPDATE_MAX, later).await
        {
            output.extend((reply.len() as u16).to_be_bytes());
            output.extend(reply);
        }
        if !output.is_empty() {
            // The deadline is for a part: a large zone may take long, a reader that stops may not.
            for part in output.chunks(GATHERED_MAX) {
                let written = timeout(plan.write, async {
                    stream.write_all(part).await?;
                    stream.flush().await
                });
                let Ok(Ok(())) = written.await else { return };
            }
            output.clear();
            if output.capacity() > GATHERED_MAX * 2 {
                output.shrink_to(READ_SIZE);
            }
        }
        if used > 0 && output.is_empty() && has_message(&input) {
            continue;
        }
        if messages > 0 {
            deadline = Instant::now() + permit.idle(&plan);
        }
        // Octets of a message that is never whole do not prolong the deadline: a drip is no query.
        let until = last.map_or(deadline, |last| deadline.min(last));
        tokio::select! {
            biased;
            read = timeout_at(until, stream.read_buf(&mut input)) => match read {
                Ok(Ok(read)) if read > 0 => {}
                _ => break,
            },
            _ = stop.changed(), if last.is_none() => last = Some(Instant::now() + LAST_WORDS),
        }
    }
    timeout(plan.write, stream.shutdown()).await.ok();
}

/// What became of the head of the input.
struct Answers {
    /// Octets.
    used: usize,
    messages: usize,
    /// A change to a zone whose reply comes when it is in force; what is behind it waits.
    later: Option<oneshot::Receiver<Vec<u8>>>,
}

/// Answers whole messages at the head of `input` until the replies fill the buffer.
fn answer_all(
    permit: &Permit,
    input: &[u8],
    client: SocketAddr,
    transport: Transport,
    reply: &mut Vec<u8>,
    output: &mut Vec<u8>,
) -> Answers {
    let mut service = permit.shared.service.borrow_mut();
    service.begin_batch();
    let (mut used, mut messages) = (0, 0);
    while output.len() < GATHERED_MAX {
        let Some(message) = input.get(used..).and_then(first_message) else { break };
        used += message.len() + 2;
        messages += 1;
        let (sender, later) = oneshot::channel();
        let send = || -> Option<ReplyTo> { Some(Box::new(move |reply| _ = sender.send(reply))) };
        match service.update(message, client, transport, reply, send) {
            None => {}
            Some(Updated::Later) => return Answers { used, messages, later: Some(later) },
            Some(Updated::Answered) => {
                output.extend((reply.len() as u16).to_be_bytes());
                output.extend_from_slice(reply);
                continue;
            }
        }
        if let Some(transfer) = service.transfer(message, client, transport) {
            for message in transfer {
                output.extend((message.len() as u16).to_be_bytes());
                output.extend(message);
            }
            continue;
        }
        if service.message(message, client, transport, reply) == Answered::Reply {
            // A reply is at most 65,535 octets by its limit.
            output.extend((reply.len() as u16).to_be_bytes());
            output.extend_from_slice(reply);
        }
    }
    Answers { used, messages, later: None }
}

/// RFC 1035 §4.2.2: two octets of length before each message.
fn first_message(input: &[u8]) -> Option<&[u8]> {
    let (length, rest) = input.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

fn has_message(input: &[u8]) -> bool {
    first_message(input).is_some()
}

impl Shared {
    pub(crate) fn plan(&self) -> TcpPlan {
        self.service.borrow_mut().snapshot().plan.tcp
    }

    pub(crate) fn stop(&self) -> watch::Receiver<()> {
        self.stop.clone()
    }

    pub(crate) fn is_pressed(&self, plan: &TcpPlan) -> bool {
        self.open.borrow().all > plan.max_connections / 4 * 3
    }

    /// A connection over a cap was not taken.
    pub(crate) fn refused(&self) {
        self.service.borrow().refused_connection();
    }
}

impl Permit {
    pub(crate) fn take(shared: &Rc<Shared>, client: IpAddr, plan: &TcpPlan) -> Option<Self> {
        let mut open = shared.open.borrow_mut();
        if open.all >= plan.max_connections {
            return None;
        }
        // One IPv6 customer has a /56 at least: its addresses are one client.
        let client = if client.is_ipv6() { crate::edns::masked(client, 56) } else { client };
        let of_client = open.by_client.entry(client).or_default();
        if *of_client >= plan.max_per_client {
            return None;
        }
        *of_client += 1;
        open.all += 1;
        drop(open);
        Some(Self { shared: shared.clone(), client })
    }

    /// For one answer; not to be held over an await.
    pub(crate) fn service(&self) -> RefMut<'_, Service> {
        self.shared.service.borrow_mut()
    }

    pub(crate) fn stop(&self) -> watch::Receiver<()> {
        self.shared.stop.clone()
    }

    /// How long this connection may be silent, as full as the server is now.
    pub(crate) fn idle(&self, plan: &TcpPlan) -> Duration {
        if self.shared.is_pressed(plan) { plan.idle.min(IDLE_UNDER_PRESSURE) } else { plan.idle }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.shared.open.borrow_mut();
        open.all = open.all.saturating_sub(1);
        if let Some(of_client) = open.by_client.get_mut(&self.client) {
            *of_client = of_client.saturating_sub(1);
            if *of_client == 0 {
                open.by_client.remove(&self.client);
            }
        }
    }
}
