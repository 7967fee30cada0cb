//! The services of a node in a fleet: what it tells the others, and what becomes of what it hears.

use super::{
    Order, Recalled, Served,
    health::MemberHealth,
    services::{Clocks, Services},
};
use crate::fleet::{Document, DocumentError, MemberWord, Word};
use portcullis_names::ObjectName;
use std::net::IpAddr;

impl Services {
    /// Publishes what this node sees, if that is news.
    pub(crate) fn publish(&self, clocks: Clocks) {
        let Some(fleet) = &self.fleet else { return };
        let members = self.list.iter().flat_map(Served::words).collect();
        let given_here = |order: &Order| order.stamp.node.as_ref().is_none_or(|node| *node == fleet.plan.node);
        let orders = self.orders().into_iter().filter(given_here).collect();
        fleet.publish(members, orders, clocks.unix);
    }

    /// Takes in the word of a peer. `their_clock`: what its clock said just now.
    pub(crate) fn hear(
        &self,
        peer: &ObjectName,
        document: Document,
        their_clock: u64,
        clocks: Clocks,
    ) -> Result<(), DocumentError> {
        let fleet = self.fleet.as_ref().ok_or(DocumentError::Stranger)?;
        for mut order in fleet.hear(peer, document, their_clock, clocks)? {
            // A node passes on what was ordered there, not what others are said to have ordered; and a stamp of far ahead would
            // win over all that is ordered in the meantime.
            let is_own = order.stamp.node.as_ref().is_none_or(|node| node == peer);
            if !is_own || !order.stamp.is_believable(clocks.unix) {
                tracing::warn!(%peer, stamp = ?order.stamp, "an order of a peer is not taken: it is not its own, or of far ahead");
                continue;
            }
            order.stamp.node = Some(peer.clone());
            // Of what is not configured here, nothing is known here.
            if let Err(error) = self.order(order, clocks) {
                tracing::debug!(%peer, %error, "an order of a peer has nothing to apply to");
            }
        }
        self.list.iter().for_each(|served| served.refresh(&mut served.known(), Some(fleet), clocks));
        Ok(())
    }

    pub(crate) fn recall(
        &self,
        service: &ObjectName,
        member: &(ObjectName, IpAddr),
        recalled: Recalled,
        clocks: Clocks,
    ) {
        if let Some(served) = self.find(service) {
            let mut known = served.known();
            known.recall(member, recalled);
            served.refresh(&mut known, self.fleet.as_deref(), clocks);
        }
    }

    /// How full a member is, as the gateway sees it whose traffic it carries; `None`: it does not say.
    pub(crate) fn tell_load(&self, member: &(ObjectName, ObjectName, IpAddr), load: Option<u16>) {
        let (service, site, address) = member;
        let Some(served) = self.find(service) else { return };
        let (mut known, key) = (served.known(), (site.clone(), *address));
        match load {
            Some(load) => _ = known.loads.insert(key, load),
            None => _ = known.loads.remove(&key),
        }
    }
}

impl Served {
    fn words(&self) -> Vec<MemberWord> {
        let known = self.known();
        let word = |(site, member): (ObjectName, IpAddr)| {
            let key = (site, member);
            let load = known.loads.get(&key).copied();
            let health = known.members.get(&key)?;
            let state = health.word();
            let fails = matches!(state, Word::Down | Word::Degraded);
            (state != Word::Unknown).then(|| MemberWord {
                service: self.service.name.clone(),
                site: key.0,
                member,
                state,
                since: health.said_since,
                reason: health.last_failure().filter(|_| fails).map(|failure| failure.code().to_owned()),
                rtt: health.rtt.and_then(|rtt| u32::try_from(rtt.as_millis()).ok()),
                load,
            })
        };
        self.service.members().filter_map(word).collect()
    }
}

impl MemberHealth {
    /// It says another word from now on.
    pub(super) fn says_anew(&mut self, unix: u64) {
        self.said_since = unix;
    }
}
