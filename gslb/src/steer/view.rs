//! What steering sees of a service: which sites are fit and what share each member has. Made anew when something changes, so
//! that a query only reads. Pure.

use super::{
    Lack,
    health::{Belief, Certainty},
    order::Forced,
    service::{AllDown, Service, SiteSet, bit},
};
use portcullis_health::HealthState;
use std::time::{Duration, Instant};

/// The state of one service, as queries see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) fit: SiteSet,
    /// By site and member: thousandths of the member's weight; 0 is not answered.
    pub(crate) shares: Vec<Vec<u16>>,
    /// Of each site, the mean share of its members that have one.
    means: Vec<u16>,
    pub(crate) mood: Mood,
    pub(crate) certainty: Certainty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Normal,
    /// `max_withdraw` is exceeded; all that no operator took out is answered.
    Held,
    /// No site is fit; `all_down` decides.
    AllDown,
}

/// What is known of one member, orders included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberFacts {
    pub(crate) state: HealthState,
    pub(crate) certainty: Certainty,
    pub(crate) recovered: Option<Instant>,
    pub(crate) forced: Option<Forced>,
}

/// What is known of one site.
#[derive(Debug, Clone)]
pub(crate) struct SiteFacts {
    pub(crate) members: Vec<MemberFacts>,
    pub(crate) forced: Option<Forced>,
    /// Thousandths that its load leaves of its share.
    pub(crate) damped: u16,
    pub(crate) lack: Lack,
}

pub(crate) const FULL: u16 = 1_000;
/// A member that is back begins with this much, so that there is something to judge it by.
const SLOW_START_MIN: u16 = 100;

impl View {
    pub(super) fn new(fit: SiteSet, shares: Vec<Vec<u16>>, mood: Mood, certainty: Certainty) -> Self {
        let mean = |shares: &Vec<u16>| {
            let up = shares.iter().filter(|share| **share > 0).count() as u64;
            let sum: u64 = shares.iter().map(|share| u64::from(*share)).sum();
            // The cast holds: a mean of 16 bits has no more.
            sum.checked_div(up).map_or(FULL, |mean| mean as u16)
        };
        Self { fit, means: shares.iter().map(mean).collect(), shares, mood, certainty }
    }

    /// What a site has of its weight while its members come back.
    pub(crate) fn mean(&self, site: usize) -> u64 {
        self.means.get(site).copied().unwrap_or(FULL).into()
    }

    /// `last`: the last view in which some site was fit.
    pub(crate) fn derive(
        service: &Service,
        facts: &[SiteFacts],
        belief: Belief,
        last: Option<&Self>,
        now: Instant,
    ) -> Self {
        // A site that is up by order is up with all it has.
        let share = |member: &MemberFacts, site: Option<Forced>| match (member.forced, site, member.state, belief) {
            (Some(Forced::Up), ..) => FULL,
            (Some(Forced::Down | Forced::Drain), ..) => 0,
            (None, Some(Forced::Up), ..) => FULL,
            (None, _, HealthState::Down, Belief::Believed) => 0,
            (None, ..) => grown(member.recovered, service.slow_start, now),
        };
        let of_site = |site: &SiteFacts| {
            let each = site.members.iter().map(|member| damped(share(member, site.forced), site.damped));
            each.collect()
        };
        let shares: Vec<Vec<u16>> = facts.iter().map(of_site).collect();
        let mut fit = 0;
        for (index, ((site, facts), shares)) in service.sites.iter().zip(facts).zip(&shares).enumerate() {
            let up = shares.iter().filter(|share| **share > 0).count();
            let is_fit = match facts.forced {
                Some(Forced::Up) => true,
                Some(Forced::Down | Forced::Drain) => false,
                // An order is obeyed, whatever is lacking.
                None if facts.lack == Lack::Something => false,
                None => up >= site.min_up || (site.members.is_empty() && site.cname.is_some()),
            };
            if is_fit {
                fit |= bit(index as u8);
            }
        }
        let checked = service.check.is_some();
        let doubt = facts.iter().flat_map(|site| &site.members).any(|m| m.certainty == Certainty::Undecided);
        let certainty = if checked && doubt { Certainty::Undecided } else { Certainty::Settled };
        let mood = if belief == Belief::Held { Mood::Held } else { Mood::Normal };
        if fit != 0 {
            return Self::new(fit, shares, mood, certainty);
        }
        let (fit, shares) = Self::all_down(service, facts, shares, last);
        Self::new(fit, shares, Mood::AllDown, Certainty::Undecided)
    }

    /// What is answered when no site is fit. Orders hold all the same: who was taken out by hand stays out.
    fn all_down(
        service: &Service,
        facts: &[SiteFacts],
        shares: Vec<Vec<u16>>,
        last: Option<&Self>,
    ) -> (SiteSet, Vec<Vec<u16>>) {
        let out = |forced: Option<Forced>| matches!(forced, Some(Forced::Down | Forced::Drain));
        let sites = facts.iter().enumerate();
        let allowed = sites.filter(|(_, site)| !out(site.forced)).fold(0, |set, (index, _)| set | bit(index as u8));
        let everybody = || {
            let share = |member: &MemberFacts| if out(member.forced) { 0 } else { FULL };
            facts.iter().map(|site| site.members.iter().map(share).collect()).collect()
        };
        match &service.all_down {
            AllDown::All => (allowed, everybody()),
            AllDown::Site(site) => (bit(*site) & allowed, everybody()),
            AllDown::LastKnown => match last.filter(|last| last.shares.len() == facts.len()) {
                Some(last) => (last.fit & allowed, last.shares.clone()),
                None => (allowed, everybody()),
            },
            AllDown::Empty | AllDown::Refuse | AllDown::Addresses(_) => (0, shares),
        }
    }
}

/// What a loaded site keeps of a share: never nothing, for its load says no word about health.
fn damped(share: u16, damped: u16) -> u16 {
    if share == 0 || damped >= FULL {
        return share;
    }
    // The cast holds: both are at most 1000.
    ((u32::from(share) * u32::from(damped) / u32::from(FULL)) as u16).max(1)
}

/// Linear from the least share to the full one.
fn grown(recovered: Option<Instant>, slow_start: Duration, now: Instant) -> u16 {
    let Some(recovered) = recovered.filter(|_| !slow_start.is_zero()) else { return FULL };
    let part = now.saturating_duration_since(recovered).as_secs_f64() / slow_start.as_secs_f64();
    // The cast holds: between 0 and 1000.
    ((part.min(1.0) * f64::from(FULL)) as u16).max(SLOW_START_MIN)
}
