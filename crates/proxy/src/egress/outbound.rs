//! The connection of a tunnel to its destination: to one of our own addresses after the other, directly or through a parent, as the
//! destination's balancing, breaker and outlier detection have it.

use super::{
    LiveEgress,
    admission::{self, Refused},
};
use crate::conn::Socket;
use bytes::Bytes;
use portcullis_egress::{
    Asks, DialLimits, FirstWord, Moved, Permit, Reason, Resolved, Target, dial, dial_one, in_turns,
};
use portcullis_health::TryOutcome;
use portcullis_upstream::{Cluster, NotPicked, Pick, Seat, Tried, Wish, hash_key};
use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

/// An open connection.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) socket: Socket,
    /// What the far end said already.
    pub(crate) front: Bytes,
    pub(crate) resolved: Resolved,
    /// `None`: only the parent knows.
    pub(crate) to: Option<SocketAddr>,
    pub(crate) held: Option<Held>,
}

/// The tunnel's place among all that the destination is given, to the tunnel's end.
#[derive(Debug)]
pub(crate) struct Held {
    pool: Arc<Cluster>,
    pick: Pick,
    micros: u64,
    _connection: Seat,
}

/// Addresses of one name that are tried.
pub(crate) const TRIES_MAX: usize = 4;

/// Opens it. `caller` is what consistent hashing goes by.
///
/// What is rare is boxed: a future is as large as the largest of what it may wait for, and is moved whole.
pub(crate) async fn open(
    egress: &LiveEgress,
    permit: &Permit,
    caller: IpAddr,
    first: FirstWord,
) -> Result<Outbound, Refused> {
    let refused = |reason| Refused::by(permit.decision(), reason);
    let destination = permit.destination();
    let chained = egress.plan.parents.of(destination.map(|destination| destination.name()));
    let target = Target::new(permit.target().host().clone(), permit.dial_port());
    if let Some(chained) = chained.filter(|chained| chained.parent.asks() == Asks::Name) {
        let through = Box::pin(chained.open(egress, &target.to_string())).await.map_err(refused)?;
        let resolved = Resolved::left_to_a_parent(permit.target().host().clone());
        return Ok(Outbound { socket: through.socket, front: through.front, resolved, to: None, held: None });
    }
    let (resolved, checked) = admission::resolve(egress, permit).await?;
    let limits = DialLimits::default();
    let Some(destination) = destination else {
        let open = match chained {
            None => Box::pin(dial(&checked, &limits, first))
                .await
                .map(|dialled| (Socket::Tcp(dialled.stream), Bytes::new(), dialled.to)),
            Some(chained) => {
                let first = in_turns(&checked).first().copied().ok_or_else(|| refused(Reason::ConnectFailed))?;
                let through = Box::pin(chained.open(egress, &first.socket_address().to_string())).await;
                through.map(|through| (through.socket, through.front, first))
            }
        };
        let (socket, front, to) = open.map_err(refused)?;
        return Ok(Outbound { socket, front, resolved, to: Some(to.socket_address()), held: None });
    };
    let policy = egress.plan.traffic(destination.name()).ok_or_else(|| refused(Reason::PolicyChanged))?;
    let addresses = in_turns(&checked);
    let pool = egress.state.pools.of(policy, &target, &addresses, Instant::now());
    let mut tried = Tried::default();
    let mut reason = Reason::ConnectFailed;
    let begun = Instant::now();
    for _ in 0..TRIES_MAX.min(addresses.len()) {
        let began = Instant::now();
        let mut wish = Wish::plain(fastrand::u64(..), began);
        wish.hash = pool.balance.key.as_ref().map(|_| hash_key(caller.to_string().as_bytes()));
        let pick = match pool.pick(wish, &mut tried) {
            Ok(pick) => pick,
            Err(NotPicked::Overflow) => return Err(refused(Reason::CircuitOpen)),
            Err(NotPicked::NoEndpoint) => break,
        };
        let Some(to) = addresses.get(pick.index).copied() else { break };
        let (breaker, load) = (pool.circuit_breaker, &pool.load);
        // An idle connection of requests makes room; who has to wait for one waits no longer than for the connection itself.
        let seat = poll_fn(|cx| load.connections.poll_enter(breaker.connections, cx));
        let seat = tokio::time::timeout(destination.connect_timeout(), seat).await;
        let connection = seat.ok().flatten().ok_or_else(|| refused(Reason::CircuitOpen))?;
        let pending = load.pending.enter(breaker.pending).ok_or_else(|| refused(Reason::CircuitOpen))?;
        let left = limits.timeout.saturating_sub(begun.elapsed());
        let connected = match chained {
            None => {
                let dialled = dial_one(to, destination.connect_timeout().min(left), first).await;
                dialled.map(|tcp| (Socket::Tcp(tcp), Bytes::new()))
            }
            // Each step to the parent and with it has a timeout of its own.
            Some(chained) => {
                let through = Box::pin(chained.open(egress, &to.socket_address().to_string())).await;
                through.map(|through| (through.socket, through.front))
            }
        };
        drop(pending);
        let now = Instant::now();
        match connected {
            Ok((socket, front)) => {
                let micros = u64::try_from(now.saturating_duration_since(began).as_micros()).unwrap_or(u64::MAX);
                pool.judge_trial(&pick, TryOutcome::Answered { status: 200, micros }, now);
                let held = Held { pool, pick, micros, _connection: connection };
                return Ok(Outbound { socket, front, resolved, to: Some(to.socket_address()), held: Some(held) });
            }
            // The parent's fault, not the address's.
            Err(parent) if chained.is_some() && parent != Reason::ParentRefused => return Err(refused(parent)),
            Err(failed) => {
                reason = failed;
                tell(&pool, &pick, TryOutcome::NotConnected, now);
            }
        }
    }
    Err(refused(reason))
}

impl Held {
    /// How the address did, when the tunnel is over: one that took the connection and never said a word is not well.
    pub(crate) fn judge(self, moved: &Moved) {
        let silent = moved.up.load(Relaxed) > 0 && moved.down.load(Relaxed) == 0;
        let outcome =
            if silent { TryOutcome::Broken } else { TryOutcome::Answered { status: 200, micros: self.micros } };
        tell(&self.pool, &self.pick, outcome, Instant::now());
    }
}

fn tell(pool: &Cluster, pick: &Pick, outcome: TryOutcome, now: Instant) {
    if let (Some(reason), Some(endpoint)) = (pool.record(pick, outcome, now), pool.endpoints.get(pick.index)) {
        tracing::warn!(destination = %pool.name, endpoint = %endpoint.address, %reason, "address ejected");
    }
}
