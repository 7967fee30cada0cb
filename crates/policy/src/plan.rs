//! Everything that was decided about a rule at compile time.

use crate::{
    Coding, Cors, Fault, Guards, HeaderEdits, Redirect, Respond, Retry, SecurityHeaders, UpstreamId, WafWish, Wanted,
};
use portcullis_config::Place;
use portcullis_names::{ObjectName, Percent};
use std::time::Duration;

/// What happens to the requests of one rule.
#[derive(Debug)]
pub struct Plan {
    /// Index of the plan in its table.
    pub index: usize,
    /// With [`Action::Outward`] the destination.
    pub route: ObjectName,
    /// `None`: the route has no named rules and is its own.
    pub rule: Option<ObjectName>,
    pub place: Option<Place>,
    pub guards: Guards,
    pub waf: Option<WafWish>,
    pub privacy: Wanted,
    pub api: Wanted,
    pub action: Action,
    pub rewrite: Option<Rewrite>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub mirror: Option<Mirror>,
    pub timeout: Duration,
    pub retry: Retry,
    pub fault: Fault,
    pub cors: Option<Cors>,
    /// The preferred one first; empty: never.
    pub compress: Vec<Coding>,
    pub security_headers: SecurityHeaders,
}

#[derive(Debug)]
pub enum Action {
    Forward(Split),
    /// To an external destination, whose addresses are found for each request.
    Outward,
    Redirect(Redirect),
    Respond(Respond),
}

/// Upstreams by weight: cumulative, so that one draw decides.
#[derive(Debug)]
pub struct Split {
    shares: Vec<(u64, UpstreamId)>,
    total: u64,
}

impl Split {
    /// `None` when all weights are zero.
    pub(crate) fn new(weights: &[(UpstreamId, u32)]) -> Option<Self> {
        let mut total = 0;
        let shares: Vec<_> = weights
            .iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(upstream, weight)| {
                total += u64::from(*weight);
                (total, *upstream)
            })
            .collect();
        (total > 0).then_some(Self { shares, total })
    }

    pub fn choose(&self, draw: u64) -> UpstreamId {
        let point = draw % self.total;
        let share = self.shares.iter().find(|(upto, _)| point < *upto).or(self.shares.last());
        share.map(|(_, upstream)| *upstream).expect("a split has at least one share")
    }

    pub fn upstreams(&self) -> impl Iterator<Item = UpstreamId> {
        self.shares.iter().map(|(_, upstream)| *upstream)
    }
}

#[derive(Debug, Clone)]
pub struct Rewrite {
    pub(crate) path: Option<PathRewrite>,
    pub host: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum PathRewrite {
    Whole(String),
    Prefix { old: String, new: String },
}

impl Rewrite {
    /// The path to ask for instead of `path`, which is normalised.
    pub fn path(&self, path: &str) -> Option<String> {
        match self.path.as_ref()? {
            PathRewrite::Whole(whole) => Some(whole.clone()),
            PathRewrite::Prefix { old, new } => {
                let rest = path.strip_prefix(old.as_str())?;
                let joined = format!("{}{rest}", new.trim_end_matches('/'));
                Some(if joined.is_empty() { "/".to_owned() } else { joined })
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Mirror {
    pub upstream: UpstreamId,
    pub percent: Percent,
}

impl Plan {
    /// `shop/api`, or `shop` for a route without named rules; `destination:stripe` for what goes out.
    pub fn name(&self) -> String {
        match (&self.rule, &self.action) {
            (Some(rule), _) => format!("{}/{rule}", self.route),
            (None, Action::Outward) => format!("destination:{}", self.route),
            (None, Action::Forward(_) | Action::Redirect(_) | Action::Respond(_)) => self.route.to_string(),
        }
    }

    /// Whether a route asked for it.
    pub fn is_of_a_route(&self) -> bool {
        !matches!(self.action, Action::Outward)
    }
}
