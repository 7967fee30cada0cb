//! h2 to an upstream over a connection of our own making: with our TLS, or through a parent proxy.
//!
//! pingora's h2 client takes only its own TLS, which cannot check a SAN, a CRL, or offer a post-quantum group. So the
//! connection is opened here, and pingora is handed one end of a socket pair as if the upstream spoke h2c; the bytes
//! cross in a task. The copy costs some microseconds a request on this path only; the peer's address is 0.0.0.0, for
//! which pingora skips the comparison with the socket's peer and so keeps the connection in its pool. (Its virtual sockets
//! would need no pair, but have no number that the system knows the peer of, so that its pool never gives one out again.)
//!
//! Each connection has a place among those that its upstream may have. Which requests are on it is known by [`Ride`]s: when
//! there is none it rests, and ends if its place is needed.

use super::dial::{Dialer, FULL};
use crate::conn::Secured;
use async_trait::async_trait;
use pingora::{
    ErrorType, OkOrErr, OrErr, Result,
    connectors::l4::Connect,
    protocols::l4::{socket::SocketAddr, stream::Stream},
};
use portcullis_upstream::{Rest, Seat};
use std::{
    collections::HashMap,
    future::poll_fn,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};
use tokio::net::UnixStream;

/// The bridges of one core, by pingora's end of the pair.
#[derive(Debug, Clone, Default)]
pub(super) struct Bridges(Arc<Mutex<HashMap<RawFd, Arc<Traffic>>>>);

#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) dialer: Arc<Dialer>,
    pub(super) offer: Offer,
    pub(super) bridges: Bridges,
}

/// What is offered to the other side inside TLS; in clear text h2 is spoken without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    H2,
    /// HTTP/1.1 as well: who chooses it is [`SPOKE_H1`].
    AnyHttp,
}

/// The error of a destination that could have chosen h2 and chose HTTP/1.1: the request then goes by another connection.
pub(super) const SPOKE_H1: &str = "HTTP/1.1 was chosen";

/// The requests on one connection.
#[derive(Debug)]
struct Traffic(Mutex<State>);

#[derive(Debug)]
struct State {
    requests: usize,
    /// There was a request: before the first one it is not at rest, but about to be used.
    used: bool,
    /// `None` once the connection has ended.
    seat: Option<Seat>,
    /// The task that copies.
    copier: Option<Waker>,
}

/// One request on a bridge.
#[derive(Debug)]
pub(crate) struct Ride(Arc<Traffic>);

impl Bridges {
    /// Counts a request on the connection that the engine has by the number `fd`; `None`: that is no bridge.
    pub(super) fn ride(&self, fd: RawFd) -> Option<Ride> {
        let traffic = lock(&self.0).get(&fd)?.clone();
        traffic.began();
        Some(Ride(traffic))
    }

    fn opened(&self, fd: RawFd, seat: Seat) -> Arc<Traffic> {
        let traffic = Arc::new(Traffic(Mutex::new(State { requests: 0, used: false, seat: Some(seat), copier: None })));
        lock(&self.0).insert(fd, traffic.clone());
        traffic
    }

    /// The number may be somebody else's already: the engine closes its end when it likes.
    fn ended(&self, fd: RawFd, traffic: &Arc<Traffic>) {
        let mut all = lock(&self.0);
        if all.get(&fd).is_some_and(|known| Arc::ptr_eq(known, traffic)) {
            all.remove(&fd);
        }
        drop(all);
        let seat = lock(&traffic.0).seat.take();
        drop(seat);
    }
}

impl Traffic {
    fn began(&self) {
        let mut state = lock(&self.0);
        state.requests += 1;
        state.used = true;
        if let (1, Some(seat)) = (state.requests, &state.seat) {
            seat.work();
        }
    }

    fn done(&self) {
        let mut state = lock(&self.0);
        state.requests -= 1;
        if let (0, Some(seat), Some(copier)) = (state.requests, &state.seat, &state.copier) {
            // It may be asked to end from now on; then the copier is woken.
            seat.rest(&Context::from_waker(copier));
        }
    }

    /// Whether the connection is to end for one that is needed.
    fn poll_leave(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.copier.as_ref().is_none_or(|copier| !copier.will_wake(cx.waker())) {
            state.copier = Some(cx.waker().clone());
        }
        match &state.seat {
            Some(seat) if state.requests == 0 && state.used => match seat.rest(cx) {
                Rest::Leave => Poll::Ready(()),
                Rest::Stay => Poll::Pending,
            },
            Some(_) | None => Poll::Pending,
        }
    }
}

impl Drop for Ride {
    fn drop(&mut self) {
        self.0.done();
    }
}

#[async_trait]
impl Connect for Bridge {
    async fn connect(&self, _: &SocketAddr) -> Result<Stream> {
        let dialer = &self.dialer;
        let _pending = dialer.load.pending.enter(dialer.breaker.pending).or_err(FULL, "pending")?;
        let seat = dialer.seat().await?;
        let connection = dialer.secured().await?;
        if !connection.takes_h2() {
            let kind = match self.offer {
                Offer::H2 => ErrorType::TLSHandshakeFailure,
                Offer::AnyHttp => ErrorType::Custom(SPOKE_H1),
            };
            return pingora::Error::e_explain(kind, format!("{} does not speak h2", dialer.address));
        }
        let (ours, theirs) = UnixStream::pair().or_err(ErrorType::InternalError, "socket pair")?;
        let fd = ours.as_raw_fd();
        let traffic = self.bridges.opened(fd, seat);
        let bridges = self.bridges.clone();
        tokio::spawn(async move {
            carry(connection, theirs, &traffic).await;
            bridges.ended(fd, &traffic);
        });
        Ok(ours.into())
    }
}

/// Either side's end ends the other; how it ended is seen by the h2 client.
async fn carry(mut connection: Secured, mut theirs: UnixStream, traffic: &Traffic) {
    let needed = poll_fn(|cx| traffic.poll_leave(cx));
    tokio::select! {
        biased;
        _ = tokio::io::copy_bidirectional(&mut connection, &mut theirs) => {}
        () = needed => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
