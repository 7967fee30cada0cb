//! Many nodes that answer for the same services: each publishes what it sees as a document, pulls those of the others, and
//! computes by one pure function what is so. Nothing is agreed on and nobody is elected; the data path reads the local view only.
//!
//! Here is what a node knows of the fleet. The road is in `serve` and `pull`; what members become is in `steer`.

mod ballot;
mod document;
mod load;
mod merged;
mod pull;
mod serve;
mod spec;

pub(crate) use ballot::{Ballot, Stands, Vote, Witnesses};
pub use ballot::{Presence, Sight, Why, Word};
pub(crate) use document::Words;
pub use document::{Content, Document, DocumentError, GatewayReport, MemberWord};
pub(crate) use load::Damper;
pub(crate) use merged::{Eyes, Merged, Turn};
pub(crate) use pull::pull;
pub(crate) use serve::serve;
pub use spec::{FailoverNeeds, FleetSpec, PeerSpec};
pub(crate) use spec::{FleetPlan, PeerPlan, Rules};

use crate::steer::{Clocks, Order, Registries, Stamp};
use arc_swap::ArcSwap;
use bytes::Bytes;
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::sync::{Notify, watch};

/// A fleet as this node knows it: its plan, and what outlives reloads.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) plan: FleetPlan,
    /// Of zones and services: what nodes compare.
    config: String,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    epoch: u64,
    roster: ArcSwap<Roster>,
    published: watch::Sender<Arc<Published>>,
    own: Mutex<Own>,
    /// Told when our own document may have changed.
    news: Notify,
    isolated: AtomicBool,
}

/// What only this node knows.
#[derive(Debug, Default)]
struct Own {
    sequence: u64,
    content: Content,
    report: GatewayReport,
    /// The hybrid clock: never behind what was seen.
    clock: Stamp,
    /// When the first and the last fell of all that we check, since we distrust our eyes.
    blind_since: Option<(Instant, Instant)>,
}

/// Our own document, ready to be given.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) tag: String,
    pub(crate) octets: Bytes,
}

/// The peers as they were heard last.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    pub(crate) peers: BTreeMap<ObjectName, Arc<Heard>>,
}

/// What one peer said last, and when.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) site: ObjectName,
    place: (u64, u64),
    /// By our clock: that of the author proves nothing.
    pub(crate) at: Instant,
    /// Seconds that its clock is ahead of ours.
    skew: i64,
    pub(crate) content: Arc<Content>,
    pub(crate) words: Arc<Words>,
}

/// A peer as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    pub node: ObjectName,
    pub site: ObjectName,
    pub state: PeerState,
    /// `None`: it was never heard.
    pub heard_seconds_ago: Option<u64>,
    pub epoch: u64,
    pub sequence: u64,
    /// Seconds that its clock is ahead of ours.
    pub skew_seconds: i64,
    /// Its zones or services are not ours.
    pub config_differs: bool,
    pub sight: Sight,
    pub gateway: GatewayReport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    Fresh,
    /// Its word counts no more.
    Stale,
    Unreachable,
}

/// A fleet as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct FleetStatus {
    pub node: ObjectName,
    pub site: ObjectName,
    pub isolated: bool,
    pub sight: Sight,
    pub peers: Vec<PeerStatus>,
}

/// A clock that is further off than this is shown.
pub const SKEW_SHOWN: u64 = 5;

impl Fleet {
    /// `previous` lends what was heard and said so far.
    pub(crate) fn compile(
        spec: &FleetSpec,
        config: String,
        registries: Registries<'_>,
        previous: Option<&Self>,
        epoch: u64,
        cx: &mut Context,
    ) -> Self {
        let plan = FleetPlan::compile(spec, registries, &Path::root().key("dns").key("fleet"), cx);
        // Under another name it is another author.
        let same = previous.filter(|previous| previous.plan.node == plan.node);
        let state = same.map_or_else(|| Arc::new(State::new(epoch)), |previous| previous.state.clone());
        Self { plan, config, state }
    }

    pub(crate) fn roster(&self) -> arc_swap::Guard<Arc<Roster>> {
        self.state.roster.load()
    }

    /// Peers whose word counts, each with what it said.
    pub(crate) fn fresh<'r>(&self, roster: &'r Roster, now: Instant) -> Vec<(&'r ObjectName, &'r Heard)> {
        let peers = roster.peers.iter().filter(|(name, heard)| {
            let planned = self.plan.peers.get(*name).is_some_and(|peer| peer.site == heard.site);
            planned && now.saturating_duration_since(heard.at) < self.plan.stale_after
        });
        peers.map(|(name, heard)| (name, &**heard)).collect()
    }

    /// Too few nodes are heard.
    pub(crate) fn is_isolated(&self, now: Instant) -> bool {
        let is_isolated = self.fresh(&self.roster(), now).len() + 1 < self.plan.rules.min_vantages;
        self.state.isolated.store(is_isolated, Relaxed);
        is_isolated
    }

    /// As of the last tick: for those who have no clock.
    pub(crate) fn was_isolated(&self) -> bool {
        self.state.isolated.load(Relaxed)
    }

    /// Takes in a peer's document. `their_clock`: what its clock said when it answered. The orders in it are the caller's.
    pub(crate) fn hear(
        &self,
        peer: &ObjectName,
        document: Document,
        their_clock: u64,
        clocks: Clocks,
    ) -> Result<Vec<Order>, DocumentError> {
        let plan = self.plan.peers.get(peer).ok_or(DocumentError::Stranger)?;
        // A node speaks for itself only: who proved to be one peer cannot bring the word of another.
        if document.node != *peer || document.site != plan.site {
            return Err(DocumentError::Author { node: document.node, site: document.site });
        }
        let place = document.place();
        let before = self.roster().peers.get(peer).map(|heard| heard.place);
        if before.is_some_and(|before| place < before) {
            return Err(DocumentError::Old);
        }
        let Document { site, mut content, .. } = document;
        let orders = std::mem::take(&mut content.orders);
        let words = Arc::new(content.words());
        let (at, skew) = (clocks.instant, skew(their_clock, clocks.unix));
        let heard = Heard { site, place, at, skew, content: Arc::new(content), words };
        self.note(peer, Arc::new(heard));
        let mut own = self.own();
        for order in &orders {
            own.clock.follow(&order.stamp, clocks.unix);
        }
        Ok(orders)
    }

    /// A peer has nothing new to say, and is there.
    pub(crate) fn confirm(&self, peer: &ObjectName, their_clock: u64, clocks: Clocks) {
        let roster = self.roster();
        if let Some(heard) = roster.peers.get(peer) {
            let skew = skew(their_clock, clocks.unix);
            self.note(peer, Arc::new(Heard { at: clocks.instant, skew, ..(**heard).clone() }));
        }
    }

    fn note(&self, peer: &ObjectName, heard: Arc<Heard>) {
        self.state.roster.rcu(|roster| {
            let mut peers = roster.peers.clone();
            // Those that the configuration has no more are forgotten with the next word of any.
            peers.retain(|name, _| self.plan.peers.contains_key(name));
            peers.insert(peer.clone(), heard.clone());
            Roster { peers }
        });
    }

    /// The tag of what is known of a peer.
    pub(crate) fn tag_of(&self, peer: &ObjectName) -> Option<String> {
        self.roster().peers.get(peer).map(|heard| format!("\"{}.{}\"", heard.place.0, heard.place.1))
    }

    /// Publishes what this node sees now. Nothing new is no new document.
    pub(crate) fn publish(&self, members: Vec<MemberWord>, orders: Vec<Order>, unix: u64) {
        let mut own = self.own();
        let sight = if own.blind_since.is_some() { Sight::Blind } else { Sight::Clear };
        let content = Content { config: self.config.clone(), sight, gateway: own.report, members, orders };
        if own.sequence > 0 && own.content.says_the_same(&content) {
            return;
        }
        own.sequence += 1;
        own.content = content.clone();
        let (node, site) = (self.plan.node.clone(), self.plan.site.clone());
        let document = Document { node, site, epoch: self.state.epoch, sequence: own.sequence, at: unix, content };
        let octets = serde_json::to_vec(&document).unwrap_or_default();
        self.state.published.send_replace(Arc::new(Published { tag: document.tag(), octets: octets.into() }));
    }

    pub(crate) fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.state.published.subscribe()
    }

    /// What the gateway beside us says. Small moves of the load are no news.
    pub(crate) fn report(&self, report: GatewayReport) {
        self.own().report = report;
        self.news();
    }

    pub(crate) fn own_report(&self) -> GatewayReport {
        self.own().report
    }

    pub(crate) fn news(&self) {
        self.state.news.notify_one();
    }

    pub(crate) async fn changed(&self) {
        self.state.news.notified().await;
    }

    /// A stamp for an order that is given here: newer than all that was seen.
    pub(crate) fn stamp(&self, unix: u64) -> Stamp {
        self.own().clock.tick(unix, &self.plan.node)
    }

    /// What was made of our own eyes last.
    pub(crate) fn eyes(&self, now: Instant) -> Eyes {
        match self.own().blind_since {
            None => Eyes::Trusted,
            Some((first_fall, since)) if now.saturating_duration_since(since) < self.plan.rules.hold => {
                Eyes::Distrusted { first_fall }
            }
            Some(_) => Eyes::GivenUp,
        }
    }

    /// Judges our own eyes. `fall`: when the first and the last of all that we check fell, if all are down.
    pub(crate) fn look_at_own_eyes(&self, fall: Option<(Instant, Instant)>, now: Instant) {
        let is_isolated = self.is_isolated(now);
        let mut own = self.own();
        let before = own.blind_since;
        own.blind_since = fall.filter(|_| is_isolated).map(|fall| before.unwrap_or(fall));
        if own.blind_since.is_some() != before.is_some() {
            drop(own);
            self.news();
        }
    }

    pub(crate) fn status(&self, now: Instant) -> FleetStatus {
        let roster = self.roster();
        let peer = |(node, plan): (&ObjectName, &PeerPlan)| {
            let heard = roster.peers.get(node);
            let silent = heard.map(|heard| now.saturating_duration_since(heard.at));
            let content = heard.map(|heard| &heard.content);
            let (epoch, sequence) = heard.map_or((0, 0), |heard| heard.place);
            PeerStatus {
                node: node.clone(),
                site: plan.site.clone(),
                state: match silent {
                    Some(silent) if silent < self.plan.stale_after => PeerState::Fresh,
                    Some(silent) if silent < self.plan.forget_after => PeerState::Stale,
                    Some(_) | None => PeerState::Unreachable,
                },
                heard_seconds_ago: silent.map(|silent| silent.as_secs()),
                epoch,
                sequence,
                skew_seconds: heard.map_or(0, |heard| heard.skew),
                config_differs: content.is_some_and(|content| content.config != self.config),
                sight: content.map_or(Sight::Clear, |content| content.sight),
                gateway: content.map_or_else(GatewayReport::default, |content| content.gateway),
            }
        };
        FleetStatus {
            node: self.plan.node.clone(),
            site: self.plan.site.clone(),
            isolated: self.is_isolated(now),
            sight: if self.own().blind_since.is_some() { Sight::Blind } else { Sight::Clear },
            peers: self.plan.peers.iter().map(peer).collect(),
        }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.state.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(epoch: u64) -> Self {
        Self {
            epoch,
            roster: ArcSwap::default(),
            published: watch::Sender::default(),
            own: Mutex::default(),
            news: Notify::new(),
            isolated: AtomicBool::new(false),
        }
    }
}

fn skew(theirs: u64, ours: u64) -> i64 {
    // Seconds since 1970 are far from the ends of the type, and what a peer claims saturates.
    i64::try_from(theirs).unwrap_or(i64::MAX).saturating_sub(i64::try_from(ours).unwrap_or(i64::MAX))
}
