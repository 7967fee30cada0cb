//! Carriers: h2 connections over mTLS to other sidecars, on which streams of octets travel as CONNECT (RFC 9113 §8.5).
//!
//! One connection is one core's work and one congestion window: a busy peer has several.

use super::{
    How, MeshPlan, Towards,
    board::{PeerEntry, Sighting},
    dialling::{connect, is_not_tls},
    facts::Security,
    h2_stream::Ends,
    lifetime::{Lifetime, at},
};
use bytes::Bytes;
use h2::client::SendRequest;
use portcullis_mesh::{Svid, peer_refused};
use portcullis_policy::Reason;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};
use tokio_rustls::TlsConnector;

/// Those of one core, by service and endpoint.
#[derive(Default)]
pub(crate) struct Carriers(RefCell<HashMap<(String, SocketAddr), Rc<Lane>>>);

/// All carriers to one endpoint.
#[derive(Default)]
struct Lane {
    open: RefCell<Vec<Rc<Carrier>>>,
    /// One at a time: a burst must not open one carrier each.
    dialling: tokio::sync::Mutex<()>,
}

struct Carrier {
    send: SendRequest<Bytes>,
    streams: Cell<u32>,
    rested: Cell<Instant>,
    /// What we showed: a rotation retires the carrier, its streams go on.
    svid: Weak<Svid>,
    closed: Rc<Cell<bool>>,
    lifetime: Lifetime,
}

/// A stream on its way; the carrier counts it until this is dropped.
pub(super) struct Opened {
    pub(super) ends: Ends,
    _place: Place,
}

pub(super) struct Place(Rc<Carrier>);

impl Place {
    /// How long the stream may last.
    pub(super) fn lifetime(&self) -> Lifetime {
        self.0.lifetime
    }
}

/// Why there is no stream.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// Nobody speaks TLS there.
    NotTls,
    NotConnected(Reason, io::Error),
    /// The peer's sidecar said no.
    Refused(u16),
}

/// How the peer is dialled.
pub(super) struct Dialling<'a> {
    pub(super) plan: &'a MeshPlan,
    pub(super) towards: &'a Towards,
    pub(super) endpoint: SocketAddr,
    pub(super) within: Duration,
    pub(super) entry: &'a Arc<PeerEntry>,
}

/// Streams on one carrier before another is opened,
const BUSY: u32 = 16;
/// as long as there are not this many to the endpoint.
const CARRIERS_MAX: usize = 8;
/// An unused carrier is closed after this.
const REST: Duration = Duration::from_secs(60);
const SWEEP: Duration = Duration::from_secs(15);
/// The default of 64 KiB would make bulk wait for each round trip.
pub(super) const STREAM_WINDOW: u32 = 1 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 4 << 20;
pub(super) const FRAME: u32 = 64 << 10;
/// Of one stream; nothing follows it before less is held back. What waits longer to be encrypted is out of the processor's cache by then,
/// and has to be fetched again.
pub(super) const HELD_BACK: usize = 16 << 10;
/// Peers are authenticated: streams reset in bursts are their applications', not an attack (cf. CVE-2023-44487).
pub(super) const RESETS_MAX: usize = 100_000;

impl Carriers {
    /// A stream to the endpoint's application.
    pub(super) async fn open(&self, to: Dialling<'_>) -> Result<Opened, NotOpened> {
        let key = (to.towards.name().to_string(), to.endpoint);
        let lane = self.0.borrow_mut().entry(key).or_default().clone();
        let mut fresh = false;
        loop {
            let carrier = match lane.usable(&to) {
                Some(carrier) if !fresh => carrier,
                _ => {
                    let _alone = lane.dialling.lock().await;
                    // Whoever waited may use what the one before has opened.
                    match lane.usable(&to).filter(|_| !fresh) {
                        Some(carrier) => carrier,
                        None => lane.dial(&to).await?,
                    }
                }
            };
            match carrier.stream(to.endpoint).await {
                Ok(opened) => return Ok(opened),
                Err(Lost::Refused(status)) => return Err(NotOpened::Refused(status)),
                // It was going away: nothing was begun, so another carrier is tried, once.
                Err(Lost::Carrier(error)) => {
                    carrier.closed.set(true);
                    if std::mem::replace(&mut fresh, true) {
                        return Err(NotOpened::NotConnected(Reason::UpstreamReset, io::Error::other(error)));
                    }
                }
            }
        }
    }

    /// Closes what has not been used for long.
    fn sweep(&self) {
        let now = Instant::now();
        let mut lanes = self.0.borrow_mut();
        lanes.retain(|_, lane| {
            lane.open.borrow_mut().retain(|carrier| {
                let rested = carrier.streams.get() == 0 && now.saturating_duration_since(carrier.rested.get()) >= REST;
                !carrier.closed.get() && !rested
            });
            !lane.open.borrow().is_empty() || Rc::strong_count(lane) > 1
        });
    }

    /// Sweeps as long as the core lives.
    pub(crate) fn tend(self: &Rc<Self>) {
        let carriers = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(carriers) = carriers.upgrade() else { return };
                carriers.sweep();
            }
        });
    }
}

impl Lane {
    /// The busiest one that has room: the fewer carry, the more goes with each call, and the others may rest and end. Once all there may
    /// be are busy, the least busy one; `None` when another should be opened.
    fn usable(&self, to: &Dialling<'_>) -> Option<Rc<Carrier>> {
        let (current, now) = (to.plan.identity.current(), tokio::time::Instant::now());
        let mut open = self.open.borrow_mut();
        open.retain(|carrier| !carrier.closed.get());
        let is_current = |carrier: &&Rc<Carrier>| {
            let shown = carrier.svid.upgrade();
            let is_shown = shown.zip(current.as_ref()).is_some_and(|(shown, current)| Arc::ptr_eq(&shown, current));
            is_shown && !carrier.lifetime.is_retiring(now)
        };
        let with_room = open.iter().filter(is_current).filter(|carrier| carrier.streams.get() < BUSY);
        if let Some(carrier) = with_room.max_by_key(|carrier| carrier.streams.get()) {
            return Some(carrier.clone());
        }
        let all_there_may_be = open.iter().filter(is_current).count() >= CARRIERS_MAX;
        let least_busy = open.iter().filter(is_current).min_by_key(|carrier| carrier.streams.get());
        least_busy.filter(|_| all_there_may_be).cloned()
    }

    async fn dial(&self, to: &Dialling<'_>) -> Result<Rc<Carrier>, NotOpened> {
        let now = SystemTime::now();
        let svid = to.plan.identity.at(now).map_err(|why| {
            to.entry.denied(why.as_str(), None);
            NotOpened::NotConnected(Reason::UpstreamTls, io::Error::other(why))
        })?;
        let (port, protocol) = to.towards.hbone.map_or((to.endpoint.port(), "tunnel"), |port| (port.get(), "hbone"));
        let tcp = connect(SocketAddr::new(to.endpoint.ip(), port), to.plan.mark, to.within).await;
        let tcp = tcp.map_err(|error| NotOpened::NotConnected(connect_reason(&error), error))?;
        let connector = TlsConnector::from(to.towards.tunnel.clone());
        let handshake = connector.connect(to.towards.server_name.clone(), tcp);
        let tls = match tokio::time::timeout(to.within, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) if is_not_tls(&error) => return Err(NotOpened::NotTls),
            Ok(Err(error)) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                let why = inner.and_then(peer_refused).map_or("handshake", |why| why.as_str());
                to.entry.denied(why, None);
                return Err(NotOpened::NotConnected(Reason::UpstreamTls, error));
            }
            // Whoever waits for the end of a line never answers a hello.
            Err(_) if to.towards.how == How::MeshOrPlain => return Err(NotOpened::NotTls),
            Err(_) => return Err(NotOpened::NotConnected(Reason::UpstreamTls, io::ErrorKind::TimedOut.into())),
        };
        let seen = sighting(tls.get_ref().1, to.towards, protocol);
        let over = seen.not_after.map_or(svid.not_after(), |peer| at(peer).min(svid.not_after()));
        to.entry.sighted(seen);
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buffer_size(HELD_BACK)
            .max_concurrent_reset_streams(RESETS_MAX)
            .enable_push(false);
        let made = builder.handshake::<_, Bytes>(tls).await;
        let failed = |error| NotOpened::NotConnected(Reason::UpstreamReset, io::Error::other(error));
        let (send, connection) = made.map_err(failed)?;
        let closed = Rc::new(Cell::new(false));
        let carrier = Rc::new(Carrier {
            send,
            streams: Cell::new(0),
            rested: Cell::new(Instant::now()),
            svid: Arc::downgrade(&svid),
            lifetime: Lifetime::until(over, now, tokio::time::Instant::now()),
            closed: closed.clone(),
        });
        tokio::task::spawn_local(async move {
            // How it ended is seen by its streams.
            let _: Result<(), h2::Error> = connection.await;
            closed.set(true);
        });
        self.open.borrow_mut().push(carrier.clone());
        Ok(carrier)
    }
}

enum Lost {
    Carrier(h2::Error),
    Refused(u16),
}

impl Carrier {
    async fn stream(self: &Rc<Self>, endpoint: SocketAddr) -> Result<Opened, Lost> {
        self.streams.set(self.streams.get() + 1);
        let place = Place(self.clone());
        let mut send = self.send.clone().ready().await.map_err(Lost::Carrier)?;
        let mut request = http::Request::new(());
        *request.method_mut() = http::Method::CONNECT;
        // An address and a port are an authority.
        *request.uri_mut() = endpoint.to_string().parse().unwrap_or_default();
        let (response, send_stream) = send.send_request(request, false).map_err(Lost::Carrier)?;
        let response = response.await.map_err(Lost::Carrier)?;
        if response.status() != http::StatusCode::OK {
            return Err(Lost::Refused(response.status().as_u16()));
        }
        Ok(Opened { ends: Ends { send: send_stream, recv: response.into_body() }, _place: place })
    }
}

impl Opened {
    pub(super) fn into_parts(self) -> (Ends, Place) {
        (self.ends, self._place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.rested.set(Instant::now());
    }
}

pub(super) fn connect_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
        io::ErrorKind::TimedOut => Reason::ConnectTimeout,
        _ => Reason::ConnectFailed,
    }
}

/// What a handshake with a service's sidecar found.
pub(crate) fn sighting(session: &rustls::ClientConnection, towards: &Towards, protocol: &'static str) -> Sighting {
    let peer = session.peer_certificates().and_then(portcullis_tls::PeerIdentity::from_chain);
    Sighting {
        identity: peer.as_ref().and_then(|peer| peer.spiffe.clone()),
        mode: Some(towards.mode.as_str()),
        security: Some(Security::Mtls),
        cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
        protocol: Some(protocol),
        not_after: peer.map(|peer| peer.not_after),
    }
}
