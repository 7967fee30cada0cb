//! Choosing where an attempt goes.

use super::Exchange;
use crate::{listen::Direction, release::Asker};
use portcullis_policy::{Action, Cleared, Reason, RequestView, cookie_value, write_key};
use portcullis_upstream::{Cluster, ClusterId, NotPicked, StickyToken, Tried, Volunteer, Wish, hash_key};
use std::time::Instant;

/// Upstreams that one request may be passed on to.
const FALLBACKS: u32 = 4;

/// Why there is no endpoint for an attempt.
pub(crate) enum Unpicked {
    /// The request is now for the upstream's fallback, which may want other things of it: wish anew.
    FellBack,
    Refused(Reason),
}

/// What of the request steers the choice; worked out before its first attempt.
pub(crate) fn wish(cluster: &Cluster, request: &impl RequestView, draw: u64, now: Instant) -> Wish {
    let mut wish = Wish::plain(draw, now);
    if !matches!(request.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE") {
        wish.volunteer = Volunteer::No;
    }
    if let Some(key) = &cluster.balance.key {
        let mut octets = Vec::with_capacity(64);
        wish.hash = write_key(key, request, &mut octets).then(|| hash_key(&octets));
    }
    if let Some(sticky) = &cluster.sticky {
        wish.sticky = cookie_value(request.header("cookie"), &sticky.cookie).and_then(StickyToken::parse);
    }
    wish
}

/// The upstream that the request is for: by the split's weights, once.
pub(crate) fn choose_upstream(exchange: &mut Exchange, draw: u64) -> Result<ClusterId, Reason> {
    if let Some(cluster) = exchange.cluster {
        return Ok(cluster);
    }
    let Some(Action::Forward(split)) = exchange.plan().map(|plan| &plan.action) else {
        return Err(Reason::Internal);
    };
    let mut cluster = split.choose(draw).0 as ClusterId;
    if let Some(releases) = exchange.releases() {
        let goes_out = exchange.facts.mesh().is_some_and(|mesh| mesh.direction == Direction::Outbound);
        let asker = if goes_out { Asker::Application { draw } } else { Asker::Client(exchange.client_ip) };
        cluster = releases.redirect(cluster, asker);
    }
    (exchange.chosen, exchange.cluster) = (Some(cluster), Some(cluster));
    Ok(cluster)
}

/// An endpoint for the next attempt: upstream and index. Needs the proof that the guards were passed.
pub(crate) fn pick(exchange: &mut Exchange, _cleared: &Cleared, wish: Wish) -> Result<(ClusterId, usize), Unpicked> {
    exchange.pick = None;
    let snapshot = exchange.snapshot.clone();
    let id = exchange.cluster.ok_or(Unpicked::Refused(Reason::Internal))?;
    let cluster = snapshot.clusters.get(id).ok_or(Unpicked::Refused(Reason::Internal))?;
    let refused = match pick_in(exchange, cluster, wish) {
        Ok(index) => return Ok((id, index)),
        Err(refused) => refused,
    };
    let Some(next) = cluster.fallback.filter(|_| exchange.fallbacks < FALLBACKS) else {
        // After a failed try its own reason says more.
        return Err(Unpicked::Refused(exchange.fate.map_or(refused, |(reason, _)| reason)));
    };
    (exchange.cluster, exchange.tried, exchange.wish) = (Some(next), Tried::default(), None);
    exchange.fallbacks += 1;
    Err(Unpicked::FellBack)
}

/// An address of the external host for the next attempt. The policy let the request out before there was a pool.
pub(crate) fn pick_address(exchange: &mut Exchange, pool: &Cluster, wish: Wish) -> Result<usize, Reason> {
    exchange.pick = None;
    pick_in(exchange, pool, wish)
}

fn pick_in(exchange: &mut Exchange, cluster: &Cluster, wish: Wish) -> Result<usize, Reason> {
    // With somebody to fall back to, an upstream in panic is not asked.
    if cluster.fallback.is_some() && !cluster.is_serving(wish.now) {
        return Err(Reason::NoEndpoint);
    }
    let picked = cluster.pick(wish, &mut exchange.tried).or_else(|refused| match refused {
        // Other endpoints first; when all were tried, one of them again is better than giving up.
        NotPicked::NoEndpoint if exchange.attempts + exchange.stale_tries > 0 && cluster.fallback.is_none() => {
            exchange.tried = Tried::default();
            cluster.pick(wish, &mut exchange.tried)
        }
        refused => Err(refused),
    });
    match picked {
        Ok(pick) => {
            if exchange.attempts == 0 && exchange.stale_tries == 0 {
                cluster.note_request(wish.now);
            }
            let index = pick.index;
            exchange.set_cookie = pick.set_cookie;
            exchange.pick = Some(pick);
            exchange.attempts += 1;
            exchange.body_in.begin_attempt();
            if let Some(contract) = &mut exchange.contract {
                contract.begin_attempt();
            }
            if let Some(redactor) = &mut exchange.redactor {
                redactor.begin_attempt();
            }
            if let Some(inspector) = &mut exchange.inspector {
                inspector.begin_attempt();
            }
            exchange.judged = false;
            Ok(index)
        }
        Err(NotPicked::NoEndpoint) => Err(Reason::NoEndpoint),
        Err(NotPicked::Overflow) => Err(Reason::CircuitOpen),
    }
}
