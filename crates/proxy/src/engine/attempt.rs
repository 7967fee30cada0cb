//! Where the next attempt of a request goes, by whatever hands.

use super::{
    app::App,
    peers::{ClusterPeers, EndpointPeer, Reach, Straight},
    shape::proxy_header,
    view::View,
};
use crate::{
    listen::Direction,
    snapshot::Snapshot,
    stage::{self, Exchange, Unpicked},
};
use pingora::{BError, Result, proxy::Session};
use portcullis_policy::Reason;
use portcullis_upstream::{Cluster, ClusterId, Wish};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// An endpoint that was chosen for one attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    snapshot: Arc<Snapshot>,
    cluster: ClusterId,
    index: usize,
    read_timeout: Duration,
}

impl Attempt {
    /// Chooses; the attempt counts from here on.
    pub(super) fn pick(session: &Session, exchange: &mut Exchange) -> Result<Self> {
        let Some(cleared) = exchange.cleared.take() else { return Err(lost(exchange)) };
        let now = Instant::now();
        let (cluster, index) = loop {
            let wish = next_wish(session, exchange, now)?;
            match stage::pick(exchange, &cleared, wish) {
                Ok(picked) => break picked,
                Err(Unpicked::FellBack) => {}
                Err(Unpicked::Refused(reason)) => return Err(App::refuse(exchange, reason, "pick")),
            }
        };
        exchange.cleared = Some(cleared);
        let mut attempt = Self { snapshot: exchange.snapshot.clone(), cluster, index, read_timeout: Duration::ZERO };
        let Some((cluster, peers, endpoint)) = attempt.parts() else { return Err(lost(exchange)) };
        if exchange.facts.mesh().is_some() {
            exchange.endpoint = endpoint.dialer.address.socket();
        }
        peers.metrics.attempt();
        if exchange.attempts > 1 {
            peers.metrics.retry();
        }
        attempt.read_timeout = match exchange.plan() {
            None => cluster.read_timeout,
            Some(plan) => {
                let left = exchange.time_left(plan, now).min(cluster.read_timeout);
                plan.retry.per_try_timeout.map_or(left, |one| one.min(left))
            }
        };
        exchange.upstream_began = Some(Instant::now());
        Ok(attempt)
    }

    /// The longest silence of the upstream.
    pub(super) fn read_timeout(&self) -> Duration {
        self.read_timeout
    }

    /// By the engine.
    pub(super) fn reach(&self, session: &Session, exchange: &Exchange) -> Option<Reach> {
        let (cluster, _, endpoint) = self.parts()?;
        let mut reach = match (cluster.proxy_protocol, exchange.application(cluster)) {
            (None, Some(to)) => endpoint.application(to, session.req_header().version),
            (None, None) => endpoint.reach(),
            (Some(version), _) => endpoint.reach_for(proxy_header(version, &exchange.facts).into()),
        };
        reach.peer.group_key = reach.peer.group_key.wrapping_add(self.generation(exchange));
        Some(reach)
    }

    /// By the lane; `None`: it leads to one that does not speak HTTP/1.1, or is to be told whose connection it is.
    pub(super) fn straight(&self, session: &Session, exchange: &Exchange) -> Option<Straight<'_>> {
        let (cluster, _, endpoint) = self.parts()?;
        if cluster.proxy_protocol.is_some() {
            return None;
        }
        let mut straight = match exchange.application(cluster) {
            Some(_) if session.req_header().version == http::Version::HTTP_2 => return None,
            Some(to) => endpoint.straight(to)?,
            None => endpoint.straight(None)?,
        };
        straight.way = straight.way.wrapping_add(self.generation(exchange));
        straight.rest = cluster.idle_timeout;
        Some(straight)
    }

    /// Connections that were opened by an earlier identity of a sidecar are not begun on any more: they end with it.
    fn generation(&self, exchange: &Exchange) -> u64 {
        let goes_out = exchange.facts.mesh().is_some_and(|mesh| mesh.direction == Direction::Outbound);
        self.snapshot.mesh.as_ref().filter(|_| goes_out).map_or(0, |live| live.plan.identity.generation())
    }

    fn parts(&self) -> Option<(&Arc<Cluster>, &ClusterPeers, &EndpointPeer)> {
        let peers = self.snapshot.peers.cluster(self.cluster)?;
        Some((self.snapshot.clusters.get(self.cluster)?, peers, peers.endpoints.get(self.index)?))
    }
}

fn lost(exchange: &mut Exchange) -> BError {
    App::refuse(exchange, Reason::Internal, "pick")
}

/// What steers the choice of an endpoint: worked out for the first attempt, drawn anew for each later one.
fn next_wish(session: &Session, exchange: &mut Exchange, now: Instant) -> Result<Wish> {
    if let Some(wish) = exchange.wish {
        let wish = wish.again(now);
        exchange.wish = Some(wish);
        return Ok(wish);
    }
    let draw = fastrand::u64(..);
    let id = stage::choose_upstream(exchange, draw).map_err(|reason| App::refuse(exchange, reason, "pick"))?;
    let snapshot = exchange.snapshot.clone();
    let wish = match snapshot.clusters.get(id) {
        Some(cluster) => {
            stage::wish(cluster, &View { header: session.req_header(), exchange }, draw.rotate_left(32), now)
        }
        None => Wish::plain(draw, now),
    };
    exchange.wish = Some(wish);
    Ok(wish)
}
