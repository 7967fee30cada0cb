//! The one combining function of a fleet: what becomes of a member by our own word, the words of the peers that are fresh, and
//! the rules. Pure, and the same on every node. What time does to the outcome is in [`super::Merged`].

use super::{FailoverNeeds, Rules};
use serde::{Deserialize, Serialize};

/// What a node says of a member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    Up,
    /// Up, but the last outcome speaks against it.
    Degraded,
    Down,
    /// No check has ended yet, or this node does not check it.
    #[default]
    Unknown,
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    #[default]
    Clear,
    /// All that it checks fell at once: it is more likely its own network.
    Blind,
}

/// Whether a node stands at the member's site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    AtSite,
    Elsewhere,
}

/// Whether the gateway beside a node takes requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    #[default]
    Serving,
    /// It is about to end.
    Draining,
}

/// The word of one node on one member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vote {
    pub(crate) word: Word,
    pub(crate) stands: Stands,
    pub(crate) sight: Sight,
    pub(crate) presence: Presence,
}

/// Nodes that should be able to say how the member is, other than we.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Witnesses {
    Heard,
    /// Those at the member's site, or all where it has none, are not heard any more.
    Vanished,
}

/// All that decides over one member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ballot<'b> {
    pub(crate) own: Vote,
    /// Of the peers that are fresh.
    pub(crate) peers: &'b [Vote],
    pub(crate) witnesses: Witnesses,
    /// What this node knew before it was restarted.
    pub(crate) recalled: Word,
    /// What is assumed when nobody knows.
    pub(crate) initial: Word,
}

/// What the words come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) verdict: Verdict,
    pub(crate) why: Why,
    pub(crate) downs: u8,
    pub(crate) voters: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Up,
    Down,
    /// Down by our own checks, while those who could confirm it have vanished: the last state is held for a while.
    Doubted,
    /// Nobody knows.
    Unknown,
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Too few nodes are heard: our own word alone.
    Isolated,
    /// The member's own site says so; it knows.
    OwnSite,
    Quorum,
    /// No check has ended: as it was before the restart.
    Recalled,
    /// Nobody knows: as the configuration assumes.
    Initial,
    /// We distrust our own eyes: as it was before all fell.
    Held,
    /// We are blind for too long: all are answered.
    FailOpen,
}

impl Ballot<'_> {
    pub(crate) fn count(&self, rules: &Rules) -> Tally {
        let vantages = self.peers.len().saturating_add(1);
        if vantages < rules.min_vantages {
            let tally = self.poll(std::iter::once(self.own), Some(1), Why::Isolated);
            return self.doubt(tally, rules);
        }
        if let Some(tally) = self.own_site() {
            return tally;
        }
        let all = std::iter::once(self.own).chain(self.peers.iter().copied());
        // Who is blind knows nothing of others.
        let tally = self.poll(all.filter(|vote| vote.sight == Sight::Clear), rules.quorum, Why::Quorum);
        self.doubt(tally, rules)
    }

    /// The word "down" or "draining" of the member's own site counts alone, its word "up" does not. Where several nodes stand
    /// there, most of them must say so.
    fn own_site(&self) -> Option<Tally> {
        let all = std::iter::once(&self.own).chain(self.peers);
        let there = all.filter(|vote| vote.stands == Stands::AtSite && vote.sight == Sight::Clear);
        let (mut nodes, mut draining, mut voters, mut downs) = (0u8, 0u8, 0u8, 0u8);
        for vote in there {
            nodes = nodes.saturating_add(1);
            draining = draining.saturating_add(u8::from(vote.presence == Presence::Draining));
            voters = voters.saturating_add(u8::from(vote.word != Word::Unknown));
            downs = downs.saturating_add(u8::from(vote.word == Word::Down));
        }
        let leaves = nodes > 0 && draining == nodes;
        let fails = downs > voters / 2;
        (leaves || fails).then_some(Tally { verdict: Verdict::Down, why: Why::OwnSite, downs, voters })
    }

    fn poll(&self, votes: impl Iterator<Item = Vote>, quorum: Option<u8>, why: Why) -> Tally {
        let (mut voters, mut downs) = (0u8, 0u8);
        for vote in votes {
            voters = voters.saturating_add(u8::from(vote.word != Word::Unknown));
            downs = downs.saturating_add(u8::from(vote.word == Word::Down));
        }
        // Our own eyes are not open yet: what we knew is our word, and peers outvote it.
        let (mut why, mut known) = (why, voters);
        if self.own.word == Word::Unknown && self.recalled != Word::Unknown {
            why = if voters == 0 { Why::Recalled } else { why };
            downs = downs.saturating_add(u8::from(self.recalled == Word::Down));
            known = known.saturating_add(1);
        }
        let verdict = match known {
            0 => {
                why = Why::Initial;
                // Unknown is answered, for short.
                match self.initial {
                    Word::Up | Word::Degraded | Word::Unknown => Verdict::Unknown,
                    Word::Down => Verdict::Down,
                }
            }
            // A quorum that fewer could never reach is as many as there are.
            _ if downs >= quorum.unwrap_or(known / 2 + 1).clamp(1, known) => Verdict::Down,
            _ => Verdict::Up,
        };
        Tally { verdict, why, downs, voters: known }
    }

    /// Peers that vanish together with the probes are more likely a cut than a dead site.
    fn doubt(&self, tally: Tally, rules: &Rules) -> Tally {
        let asks = rules.failover_needs == FailoverNeeds::ProbeAndPeer;
        let is_doubted = asks && self.witnesses == Witnesses::Vanished && self.own.stands == Stands::Elsewhere;
        if is_doubted && tally.verdict == Verdict::Down && matches!(tally.why, Why::Isolated | Why::Quorum) {
            return Tally { verdict: Verdict::Doubted, ..tally };
        }
        tally
    }
}

impl Tally {
    /// Whether some say down and are outvoted, or nobody knows.
    pub(crate) fn is_split(&self) -> bool {
        match self.verdict {
            Verdict::Up => self.downs > 0,
            Verdict::Down => self.downs < self.voters && self.why == Why::Quorum,
            Verdict::Doubted | Verdict::Unknown => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Word::{Degraded, Down, Unknown, Up};

    fn vote(word: Word) -> Vote {
        Vote { word, stands: Stands::Elsewhere, sight: Sight::Clear, presence: Presence::Serving }
    }

    fn count(own: Word, peers: &[Word], rules: &Rules) -> (Verdict, Why) {
        let peers: Vec<_> = peers.iter().map(|word| vote(*word)).collect();
        let ballot =
            Ballot { own: vote(own), peers: &peers, witnesses: Witnesses::Heard, recalled: Unknown, initial: Unknown };
        let tally = ballot.count(rules);
        (tally.verdict, tally.why)
    }

    #[test]
    fn a_member_is_down_when_most_fresh_vantages_say_so() {
        let rules = Rules::default();
        for (own, peers, expected) in [
            (Up, &[Up, Up][..], Verdict::Up),
            (Down, &[Up, Up], Verdict::Up),
            (Down, &[Down, Up], Verdict::Down),
            (Up, &[Down, Down], Verdict::Down),
            (Degraded, &[Down, Up], Verdict::Up),
            (Down, &[Up], Verdict::Up),
            (Down, &[Down], Verdict::Down),
            (Down, &[Down, Up, Up], Verdict::Up),
            (Down, &[Down, Down, Up], Verdict::Down),
            (Unknown, &[Down, Up, Down], Verdict::Down),
            (Unknown, &[Unknown], Verdict::Unknown),
            (Down, &[Unknown, Unknown], Verdict::Down),
        ] {
            assert_eq!(count(own, peers, &rules), (expected, count(own, peers, &rules).1), "{own:?} {peers:?}");
        }
    }

    #[test]
    fn a_quorum_of_the_operator_counts_and_is_never_more_than_there_are() {
        let one = Rules { quorum: Some(1), ..Rules::default() };
        let five = Rules { quorum: Some(5), ..Rules::default() };
        assert_eq!(count(Up, &[Up, Down], &one), (Verdict::Down, Why::Quorum));
        assert_eq!(count(Down, &[Down, Up], &five), (Verdict::Up, Why::Quorum));
        assert_eq!(count(Down, &[Down, Down], &five), (Verdict::Down, Why::Quorum));
    }

    #[test]
    fn who_hears_too_few_goes_by_its_own_word() {
        let rules = Rules { min_vantages: 3, ..Rules::default() };
        assert_eq!(count(Down, &[Up], &rules), (Verdict::Down, Why::Isolated));
        assert_eq!(count(Up, &[Down], &rules), (Verdict::Up, Why::Isolated));
        assert_eq!(count(Up, &[Down, Down], &rules), (Verdict::Down, Why::Quorum));
    }

    #[test]
    fn the_members_own_site_is_believed_when_it_says_down_and_not_when_it_says_up() {
        let there = |word, presence| Vote { stands: Stands::AtSite, presence, ..vote(word) };
        let (serving, draining) = (Presence::Serving, Presence::Draining);
        for (votes, expected) in [
            (vec![vote(Up), there(Down, serving)], (Verdict::Down, Why::OwnSite)),
            (vec![vote(Down), there(Up, serving)], (Verdict::Down, Why::Quorum)),
            (vec![vote(Up), there(Up, draining)], (Verdict::Down, Why::OwnSite)),
            // One node of two that ends is no site that ends, and one that sees badly no site that fails.
            (vec![vote(Up), there(Up, draining), there(Up, serving)], (Verdict::Up, Why::Quorum)),
            (vec![vote(Up), there(Down, serving), there(Up, serving)], (Verdict::Up, Why::Quorum)),
            (vec![vote(Up), Vote { sight: Sight::Blind, ..there(Down, serving) }], (Verdict::Up, Why::Quorum)),
        ] {
            let ballot = Ballot {
                own: vote(Down),
                peers: &votes,
                witnesses: Witnesses::Heard,
                recalled: Unknown,
                initial: Unknown,
            };
            let tally = ballot.count(&Rules::default());
            assert_eq!((tally.verdict, tally.why), expected, "{votes:?}");
        }
    }

    #[test]
    fn before_the_first_check_the_disk_is_asked_then_the_peers_then_the_configuration() {
        for (recalled, peers, initial, expected) in [
            (Down, &[][..], Up, (Verdict::Down, Why::Recalled)),
            (Up, &[], Down, (Verdict::Up, Why::Recalled)),
            (Down, &[Up, Up], Up, (Verdict::Up, Why::Quorum)),
            (Unknown, &[Down], Up, (Verdict::Down, Why::Quorum)),
            (Unknown, &[Unknown], Down, (Verdict::Down, Why::Initial)),
            (Unknown, &[], Up, (Verdict::Unknown, Why::Initial)),
            (Unknown, &[], Unknown, (Verdict::Unknown, Why::Initial)),
        ] {
            let peers: Vec<_> = peers.iter().map(|word| vote(*word)).collect();
            let ballot = Ballot { own: vote(Unknown), peers: &peers, witnesses: Witnesses::Heard, recalled, initial };
            let tally = ballot.count(&Rules { min_vantages: 1, ..Rules::default() });
            assert_eq!((tally.verdict, tally.why), expected, "{recalled:?} {peers:?} {initial:?}");
        }
    }

    #[test]
    fn a_failover_may_need_a_peer_as_well() {
        let rules = Rules { failover_needs: FailoverNeeds::ProbeAndPeer, min_vantages: 2, ..Rules::default() };
        let ballot = |witnesses, stands| Ballot {
            own: Vote { stands, ..vote(Down) },
            peers: &[],
            witnesses,
            recalled: Unknown,
            initial: Unknown,
        };
        for (witnesses, stands, expected) in [
            (Witnesses::Vanished, Stands::Elsewhere, Verdict::Doubted),
            (Witnesses::Heard, Stands::Elsewhere, Verdict::Down),
            (Witnesses::Vanished, Stands::AtSite, Verdict::Down),
        ] {
            assert_eq!(ballot(witnesses, stands).count(&rules).verdict, expected, "{witnesses:?} {stands:?}");
        }
        let probe = Rules { failover_needs: FailoverNeeds::Probe, ..rules };
        assert_eq!(ballot(Witnesses::Vanished, Stands::Elsewhere).count(&probe).verdict, Verdict::Down);
    }
}
