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
        (self.from..self.until).contains(&now)
    }
}
