//! Another algorithm for a zone's keys while everything stays valid (RFC 6781 §4.1.4, the conservative way): the new keys sign before
//! anybody can find them, and the old ones sign until nobody can find them any more. Pure, as [`super::roll`] is.

use super::{
    key::{Algorithm, Duty},
    roll::{KeptKey, Make, Moved, RollPlan},
};
use serde::{Deserialize, Serialize};

/// A move that is under way. The keys that are left stand where they stood; here are those that come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Succession {
    pub(super) to: Algorithm,
    pub(super) stage: Stage,
    /// When this stage began, in seconds since 1970.
    since: u64,
    pub(super) keys: Vec<KeptKey>,
}

/// What the world is shown, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// RFC 4035 §2.2: who finds a key of an algorithm must find its signatures everywhere. So both sign first.
    Signing,
    /// All keys are in the DNSKEY set.
    Published,
    /// The parent is told of the new keys and of no old one.
    Told,
    /// All servers of the parent point to the new keys and to no old one.
    AtParent,
    /// The old keys are gone from the DNSKEY set, and still sign: who has that set from a cache looks for their signatures.
    Withdrawn,
}

/// The old keys or the new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Leaving,
    Coming,
}

/// Whether a move has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Stays,
    Ended,
}

impl Succession {
    /// `None`: a key cannot be made; it is tried again.
    pub(super) fn begin(plan: &RollPlan, now: u64, make: &mut Make<'_>, moved: &mut Vec<Moved>) -> Option<Self> {
        let keys =
            plan.parts().iter().map(|part| KeptKey::first(*part, now, plan, make)).collect::<Option<Vec<_>>>()?;
        moved.extend(keys.iter().map(|key| Moved { tag: key.tag(), what: "made, signs beside the old algorithm" }));
        Some(Self { to: plan.algorithm, stage: Stage::Signing, since: now, keys })
    }

    pub(super) fn step(&mut self, plan: &RollPlan, now: u64, moved: &mut Vec<Moved>) -> Progress {
        let (wait, next, what) = match self.stage {
            // Until nobody has a set of the zone without the new signatures.
            Stage::Signing => (plan.of_signatures(), Stage::Published, "published beside the old algorithm"),
            Stage::Published => (plan.publication(), Stage::Told, "told to the parent in the old algorithm's place"),
            // What the parent has is found out by others.
            Stage::Told => return Progress::Stays,
            // Until nobody has a DS of the old algorithm.
            Stage::AtParent => (plan.of_ds(), Stage::Withdrawn, "alone in the DNSKEY set"),
            // Until nobody has a DNSKEY set with the old algorithm.
            Stage::Withdrawn if now >= self.since + plan.publication() => {
                moved.extend(self.keys.iter().map(|key| Moved { tag: key.tag(), what: "alone" }));
                return Progress::Ended;
            }
            Stage::Withdrawn => return Progress::Stays,
        };
        if now >= self.since + wait {
            self.enter(next, now);
            moved.extend(self.keys.iter().map(|key| Moved { tag: key.tag(), what }));
        }
        Progress::Stays
    }

    fn enter(&mut self, stage: Stage, now: u64) {
        (self.stage, self.since) = (stage, now);
    }

    /// The keys whose DS the parent is to have in place of all others.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &KeptKey> {
        self.keys.iter().filter(|key| self.stage == Stage::Told && key.is_entry())
    }

    /// The parent has the DS of one of the new keys and none of the old algorithm. There is one key for it to point to.
    pub(super) fn seen_at_parent(&mut self, tag: u16, now: u64) {
        if self.awaited().any(|key| key.tag() == tag) {
            self.enter(Stage::AtParent, now);
        }
    }

    /// What a key does while the move is under way; `duty` is what it would do without.
    pub(super) fn duty(&self, side: Side, duty: Duty) -> Duty {
        let is_told = self.stage >= Stage::Told;
        let is_published = match side {
            Side::Leaving => self.stage < Stage::Withdrawn,
            Side::Coming => self.stage >= Stage::Published,
        };
        Duty {
            told: duty.told && is_told == (side == Side::Coming),
            published: duty.published && is_published,
            // A set that does not have the key needs no signature of it.
            keys: duty.keys && is_published,
            ..duty
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            KeySchemeSpec,
            roll::{self, KeyState},
        },
        *,
    };
    use std::collections::BTreeSet;

    const STEP: u64 = 600;
    const BEGIN: u64 = 1_000_000;

    fn plan(scheme: KeySchemeSpec, algorithm: Algorithm) -> RollPlan {
        RollPlan { algorithm, ..roll::tests::plan(scheme) }
    }

    type Key = (u16, u8);

    /// What the world can have seen from one time on.
    #[derive(Clone, PartialEq)]
    struct Seen {
        published: BTreeSet<Key>,
        key_signers: BTreeSet<Key>,
        zone_signers: BTreeSet<Key>,
        parent: BTreeSet<Key>,
    }

    fn having(state: &KeyState, plan: &RollPlan, has: fn(&Duty) -> bool) -> BTreeSet<Key> {
        state.duties(plan).filter(|(_, duty)| has(duty)).map(|(pem, _)| parse(pem)).collect()
    }

    /// A key of these tests is its tag and its algorithm.
    fn parse(pem: &[u8]) -> Key {
        let (tag, algorithm) = std::str::from_utf8(pem).unwrap().split_once(' ').unwrap();
        (tag.parse().unwrap(), algorithm.parse().unwrap())
    }

    fn algorithms(keys: &BTreeSet<Key>) -> BTreeSet<u8> {
        keys.iter().map(|(_, algorithm)| *algorithm).collect()
    }

    /// A year in steps of ten minutes, in which the algorithm is changed twice; whoever asks has any mixture of what was there
    /// within the times to live. Gives all sets of algorithms that the DNSKEY set had, one after the other.
    fn live(scheme: KeySchemeSpec, restart_every: u64) -> Vec<Vec<u8>> {
        let (mut state, mut next) = (KeyState::default(), 0u16);
        let mut make = |algorithm: Algorithm, _| {
            next += 1;
            Some((format!("{next} {}", algorithm.number()), next))
        };
        let mut history: Vec<(u64, Seen)> = Vec::new();
        let (mut parent, mut wish) = (BTreeSet::new(), (0, BTreeSet::new()));
        let mut shown: Vec<Vec<u8>> = Vec::new();
        for now in (BEGIN..BEGIN + 365 * 86_400).step_by(STEP as usize) {
            let day = (now - BEGIN) / 86_400;
            // The first change falls into a key's replacement.
            let wanted = if (88..200).contains(&day) { Algorithm::Ed25519 } else { Algorithm::EcdsaP256Sha256 };
            let plan = plan(scheme, wanted);
            assert_eq!(state.conflict(&plan), None, "{now}");
            state.step(&plan, now, &mut make);
            if (now - BEGIN).is_multiple_of(restart_every) {
                state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
            }
            let told = having(&state, &plan, |duty| duty.told);
            if wish.1 != told {
                wish = (now, told);
            }
            if parent.is_empty() || now >= wish.0 + 3 * 86_400 {
                parent = wish.1.clone();
            }
            let awaited: Vec<_> = state.awaited().map(|awaited| (awaited.key.tag(), awaited.without)).collect();
            for (tag, without) in awaited {
                let without = without.map(Algorithm::number);
                let is_there = parent.iter().any(|(at, _)| *at == tag);
                if is_there && parent.iter().all(|(_, algorithm)| Some(*algorithm) != without) {
                    state.seen_at_parent(tag, now);
                }
            }
            let seen = Seen {
                published: having(&state, &plan, |duty| duty.published),
                key_signers: having(&state, &plan, |duty| duty.keys),
                zone_signers: having(&state, &plan, |duty| duty.zone),
                parent: parent.clone(),
            };
            let of_keys = algorithms(&seen.published).into_iter().collect();
            if shown.last() != Some(&of_keys) {
                shown.push(of_keys);
            }
            if history.last().is_none_or(|(_, last)| *last != seen) {
                history.push((now, seen));
            }
            check(&plan, now, &mut history);
        }
        shown
    }

    /// RFC 4035 §2.2 and RFC 6840 §5.11, for every mixture of what caches may hold.
    fn check(plan: &RollPlan, now: u64, history: &mut Vec<(u64, Seen)>) {
        let until = |index: usize| history.get(index + 1).map_or(now, |(next, _)| *next);
        let within = |age: u64| -> Vec<&Seen> {
            let young = |(index, _): &(usize, &(u64, Seen))| until(*index) + age > now;
            history.iter().enumerate().filter(young).map(|(_, (_, seen))| seen).collect()
        };
        let late = plan.propagation;
        for keys in within(plan.key_ttl + late) {
            for parent in within(plan.parent_ttl + late) {
                for algorithm in algorithms(&parent.parent) {
                    let holds = |key: &&Key| key.1 == algorithm && keys.published.contains(key);
                    let entry = parent.parent.iter().filter(holds).any(|key| keys.key_signers.contains(key));
                    assert!(entry, "{now}: the DS of algorithm {algorithm} does not hold for {:?}", keys.published);
                }
            }
            for zone in within(plan.zone_ttl + late) {
                for algorithm in algorithms(&keys.published) {
                    let is_signed = |key: &&Key| key.1 == algorithm && keys.published.contains(key);
                    let signed = zone.zone_signers.iter().any(|key| is_signed(&key));
                    assert!(
                        signed,
                        "{now}: {:?} asks for algorithm {algorithm}, signed by {:?}",
                        keys.published, zone.zone_signers
                    );
                }
            }
        }
        let old = (0..history.len()).filter(|index| until(*index) + 10 * 86_400 < now).count();
        history.drain(..old);
    }

    #[test]
    fn rfc6781_4_1_4_each_algorithm_that_anybody_can_know_of_signs_all_that_anybody_can_have() {
        for (scheme, restart_every) in [(KeySchemeSpec::Csk, 86_400), (KeySchemeSpec::KskZsk, 7 * 86_400)] {
            let expected = [&[13][..], &[13, 15], &[15], &[13, 15], &[13]];
            assert_eq!(live(scheme, restart_every), expected, "{scheme:?}");
        }
    }

    #[test]
    fn rfc6781_4_1_4_while_the_parent_has_the_old_ds_both_algorithms_stay() {
        let mut next = 0u16;
        let mut make = |algorithm: Algorithm, _| {
            next += 1;
            Some((format!("{next} {}", algorithm.number()), next))
        };
        let (before, after) =
            (plan(KeySchemeSpec::Csk, Algorithm::EcdsaP256Sha256), plan(KeySchemeSpec::Csk, Algorithm::Ed25519));
        let mut state = KeyState::default();
        state.step(&before, 0, &mut make);
        let first = having(&state, &before, |_| true);
        for now in (0..300 * 86_400).step_by(STEP as usize) {
            state.step(&after, now, &mut make);
        }
        assert_eq!(
            algorithms(&having(&state, &after, |duty| duty.published && duty.zone && duty.keys)),
            [13, 15].into()
        );
        let told = having(&state, &after, |duty| duty.told);
        assert_eq!(algorithms(&told), [15].into());
        // A word about another key moves nothing.
        state.seen_at_parent(first.first().unwrap().0, 300 * 86_400);
        assert_eq!(state.awaited().count(), 1);
        // The way back is not open before the end: the parent may be about to follow.
        assert!(state.conflict(&before).is_some() && state.conflict(&after).is_none());
        state.seen_at_parent(told.first().unwrap().0, 300 * 86_400);
        let mut published = Vec::new();
        for now in (300 * 86_400..302 * 86_400).step_by(STEP as usize) {
            state.step(&after, now, &mut make);
            published.push((now, having(&state, &after, |duty| duty.published).len(), state.duties(&after).count()));
        }
        let last_with_two = published.iter().rfind(|(_, published, _)| *published == 2).unwrap().0;
        assert_eq!(last_with_two + STEP, 300 * 86_400 + after.of_ds(), "until the old DS is in no cache");
        let last_signed = published.iter().rfind(|(_, _, keys)| *keys == 2).unwrap().0;
        assert_eq!(last_signed + STEP, 300 * 86_400 + after.of_ds() + after.publication());
        assert!(state.conflict(&before).is_none(), "now the way back is as open as the way was");
    }
}
