//! The verdict document: what one node says of members and of itself, and what operators ordered there. Only its author writes
//! it, so that the newest of each author is all there is to merge.

use super::{Presence, Sight, Word};
use crate::steer::Order;
use portcullis_names::ObjectName;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, net::IpAddr};

/// What one node says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    pub node: ObjectName,
    pub site: ObjectName,
    /// Larger after each start of the node.
    pub epoch: u64,
    /// One more with each change.
    pub sequence: u64,
    /// When it was written, by the author's clock: seconds since 1970.
    pub at: u64,
    #[serde(flatten)]
    pub content: Content,
}

/// A document without its place in the row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// Of zones and services, as the author's configuration has them.
    pub config: String,
    #[serde(default)]
    pub sight: Sight,
    #[serde(default)]
    pub gateway: GatewayReport,
    pub members: Vec<MemberWord>,
    /// Given at the author's node.
    #[serde(default)]
    pub orders: Vec<Order>,
}

/// What the gateway beside a node says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayReport {
    #[serde(default)]
    pub presence: Presence,
    /// Thousandths of what it can carry; `None`: it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<u16>,
    /// Requests in flight.
    #[serde(default)]
    pub in_flight: u32,
    /// Thousandths of its answers that were errors of its own side.
    #[serde(default)]
    pub errors: u16,
    /// Thousandths of the requests that it turns away.
    #[serde(default)]
    pub shed: u16,
}

/// What the author says of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberWord {
    pub service: ObjectName,
    pub site: ObjectName,
    pub member: IpAddr,
    pub state: Word,
    /// Seconds since 1970, by the author's clock.
    pub since: u64,
    /// A code of a closed set: see `Failure::code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Round trip of the last check that ended well, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<u32>,
    /// Thousandths of what the member can carry, where the author's gateway sees its traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<u16>,
}

/// The words of a document by service, site and address.
pub(crate) type Words = HashMap<ObjectName, HashMap<ObjectName, HashMap<IpAddr, MemberWord>>>;

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("it is no document: {0}")]
    Syntax(String),
    #[error("it is written by node \"{node}\" at site \"{site}\", and that is not who was asked")]
    Author { node: ObjectName, site: ObjectName },
    #[error("more than {MEMBERS_MAX} members or {ORDERS_MAX} orders")]
    Large,
    #[error("it is older than what is known")]
    Old,
    #[error("no such peer is configured")]
    Stranger,
}

/// Octets of a document: some 40,000 members.
pub(crate) const OCTETS_MAX: usize = 8 << 20;
const MEMBERS_MAX: usize = 50_000;
const ORDERS_MAX: usize = 1_000;
const REASON_MAX: usize = 64;
const LOAD_STEP: u16 = 50;

impl GatewayReport {
    fn says_the_same(&self, other: &Self) -> bool {
        let sheds = |report: &Self| report.shed > 0;
        self.presence == other.presence && sheds(self) == sheds(other) && near(self.load, other.load)
    }
}

/// Loads that differ by less than a twentieth of the whole.
fn near(one: Option<u16>, other: Option<u16>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.abs_diff(other) < LOAD_STEP,
        (one, other) => one == other,
    }
}

impl Document {
    pub fn parse(octets: &[u8]) -> Result<Self, DocumentError> {
        let document: Self =
            serde_json::from_slice(octets).map_err(|error| DocumentError::Syntax(error.to_string()))?;
        let content = &document.content;
        if content.members.len() > MEMBERS_MAX || content.orders.len() > ORDERS_MAX {
            return Err(DocumentError::Large);
        }
        Ok(document)
    }

    /// What an answer to a question is told apart by.
    pub(crate) fn tag(&self) -> String {
        format!("\"{}.{}\"", self.epoch, self.sequence)
    }

    pub(crate) fn place(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }
}

impl Content {
    /// Round trips and small moves of a load are no news of their own; they go along with the next.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let same_word = |(one, other): (&MemberWord, &MemberWord)| {
            let place = |word: &MemberWord| (word.service.clone(), word.site.clone(), word.member);
            let said = |word: &MemberWord| (word.state, word.since, word.reason.clone());
            place(one) == place(other) && said(one) == said(other) && near(one.load, other.load)
        };
        self.config == other.config
            && self.sight == other.sight
            && self.orders == other.orders
            && self.gateway.says_the_same(&other.gateway)
            && self.members.len() == other.members.len()
            && self.members.iter().zip(&other.members).all(same_word)
    }

    pub(crate) fn words(&mut self) -> Words {
        let mut words = Words::new();
        for mut word in std::mem::take(&mut self.members) {
            // It becomes a text on an operator's screen and nothing else.
            word.reason = word.reason.filter(|reason| reason.len() <= REASON_MAX && reason.is_ascii());
            let of_service = words.entry(word.service.clone()).or_default();
            of_service.entry(word.site.clone()).or_default().insert(word.member, word);
        }
        words
    }
}
