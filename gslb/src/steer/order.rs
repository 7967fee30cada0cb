//! What operators decide over the heads of the checks: forced states of members and sites, each with author, reason and end.

use portcullis_names::ObjectName;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What is forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forced {
    Up,
    Down,
    /// Answered no more, and no alarm: resolvers go elsewhere as their copies run out.
    Drain,
}

/// To what an order applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    pub service: ObjectName,
    pub site: ObjectName,
    /// `None`: the whole site (the big red button).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<IpAddr>,
}

/// Where an order stands among all that were given anywhere: a hybrid clock, which goes with the time of day and is never behind
/// what its node has seen (Kulkarni et al., 2014), and the node for those of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Seconds since 1970.
    pub at: u64,
    pub count: u32,
    /// Where it was given; `None`: by a node without a fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectName>,
}

/// Whether an order is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    #[default]
    Given,
    /// It is kept until its end, so that nodes that have not heard do not bring it back.
    TakenBack,
}

/// A decision of an operator. Ends by itself: a forgotten order is the outage of another day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub target: Ordered,
    pub forced: Forced,
    pub author: String,
    pub reason: String,
    /// Seconds since 1970; until then it does nothing (scheduled maintenance).
    pub from: u64,
    /// Seconds since 1970.
    pub until: u64,
    #[serde(default)]
    pub standing: Standing,
    #[serde(default)]
    pub stamp: Stamp,
}

/// Why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("service \"{0}\" is not defined")]
    NoService(ObjectName),
    #[error("service \"{service}\" has no site \"{site}\"")]
    NoSite { service: ObjectName, site: ObjectName },
    #[error("site \"{site}\" has no member {member}")]
    NoMember { site: ObjectName, member: IpAddr },
    #[error("author and reason are wanted, at most {TEXT_MAX} octets each")]
    NoReason,
    #[error("an order ends after it begins, and at most {} days after", SPAN_MAX / 86_400)]
    Span,
    #[error("service \"{0}\" is locked: the configuration alone decides over it")]
    Locked(ObjectName),
    #[error("more than {ORDERS_MAX} orders on one service; withdraw some")]
    Many,
}

pub(crate) const ORDERS_MAX: usize = 1_000;
const TEXT_MAX: usize = 500;
/// Longer than any maintenance, shorter than anybody's memory.
const SPAN_MAX: u64 = 90 * 86_400;

impl Order {
    pub(crate) fn check(&self) -> Result<(), OrderError> {
        let given = |text: &str| !text.is_empty() && text.len() <= TEXT_MAX;
        if !given(&self.author) || !given(&self.reason) {
            return Err(OrderError::NoReason);
        }
        match self.until.checked_sub(self.from) {
            Some(1..=SPAN_MAX) => Ok(()),
            _ => Err(OrderError::Span),
        }
    }

    pub(crate) fn is_in_force(&self, now: u64) -> bool {
        self.standing == Standing::Given && (self.from..self.until).contains(&now)
    }
}

/// A clock that is further ahead than this is wrong, and does not drag ours along.
const AHEAD_MAX: u64 = 3_600;

impl Stamp {
    /// The next one of this node.
    pub(crate) fn tick(&mut self, unix: u64, node: &ObjectName) -> Self {
        if unix > self.at {
            (self.at, self.count) = (unix, 0);
        } else {
            self.count = self.count.saturating_add(1);
        }
        Self { at: self.at, count: self.count, node: Some(node.clone()) }
    }

    pub(crate) fn is_believable(&self, unix: u64) -> bool {
        self.at <= unix.saturating_add(AHEAD_MAX)
    }

    /// Something was seen that is not to be older than what we say next.
    pub(crate) fn follow(&mut self, seen: &Self, unix: u64) {
        if seen.is_believable(unix) && (seen.at, seen.count) > (self.at, self.count) {
            (self.at, self.count) = (seen.at, seen.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_clock_never_goes_back_and_is_not_dragged_off() {
        let (a, b): (ObjectName, ObjectName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (mut ours, mut theirs) = (Stamp::default(), Stamp::default());
        // Their clock is a minute ahead.
        let first = theirs.tick(1_060, &b);
        ours.follow(&first, 1_000);
        let second = ours.tick(1_000, &a);
        assert!(second > first, "{second:?} {first:?}");
        assert!(ours.tick(900, &a) > second, "not even when our own clock is set back");
        assert!(ours.tick(2_000, &a).at == 2_000);
        ours.follow(&Stamp { at: 900_000, count: 0, node: None }, 2_000);
        assert_eq!(ours.tick(2_001, &a).at, 2_001);
    }
}
