//! Keys that are replaced in time (RFC 6781, RFC 7583): a zone's signing key is published before it signs, and the key that the
//! parent points to is replaced while both stand in the zone and at the parent. Pure: time, new keys and what the parent has come in.

use super::{
    Algorithm, AutomaticKeysSpec, KeyRole, KeySchemeSpec,
    key::{Duty, Key},
    succession::{Progress, Side, Succession},
};
use crate::Name;
use portcullis_config::{Context, Path};
use portcullis_names::TimeSpan;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Duration};

/// How the keys of one zone are replaced. Times in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RollPlan {
    pub(crate) scheme: KeySchemeSpec,
    pub(crate) algorithm: Algorithm,
    pub(crate) zsk_lifetime: u64,
    /// `None`: the key that the parent points to stays.
    pub(crate) entry_lifetime: Option<u64>,
    pub(crate) parent: Vec<SocketAddr>,
    /// Until all servers have what one has: Dprp of RFC 7583.
    pub(crate) propagation: u64,
    pub(crate) parent_ttl: u64,
    /// Of the DNSKEY set.
    pub(crate) key_ttl: u64,
    /// The longest of the zone: for so long a signature may be cached.
    pub(crate) zone_ttl: u64,
}

/// The keys of one zone and what became of each. Kept over restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyState {
    pub(crate) keys: Vec<KeptKey>,
    /// Keys of another algorithm that come in place of all these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    succession: Option<Succession>,
}

/// A DS that the parent is still to show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Awaited<'s> {
    pub(crate) key: &'s KeptKey,
    /// The algorithm of which it is to have none any more.
    pub(crate) without: Option<Algorithm>,
}

/// Times in seconds since 1970.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptKey {
    /// The private key.
    pem: String,
    tag: u16,
    part: Part,
    /// Younger than the file's format: else it is read from the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    algorithm: Option<Algorithm>,
    published: u64,
    /// The parent is told of it.
    told: Option<u64>,
    /// All servers of the parent have its DS.
    at_parent: Option<u64>,
    /// It signs the zone; of a ksk: the zone depends on it alone.
    active: Option<u64>,
    retired: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    Csk,
    Ksk,
    Zsk,
}

/// Gives a new private key for a role, and the tag of its DNSKEY.
pub(super) type Make<'m> = dyn FnMut(Algorithm, KeyRole) -> Option<(String, u16)> + 'm;

/// What a step did, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) tag: u16,
    pub(crate) what: &'static str,
}

impl RollPlan {
    pub(crate) fn compile(spec: &AutomaticKeysSpec, key_ttl: u32, zone_ttl: u32, at: &Path, cx: &mut Context) -> Self {
        let scheme = spec.keys.unwrap_or(KeySchemeSpec::Csk);
        let seconds =
            |span: Option<TimeSpan>, default: u64| span.map_or(Duration::from_secs(default), TimeSpan::get).as_secs();
        if spec.zsk_lifetime.is_some() && scheme == KeySchemeSpec::Csk {
            cx.error_at_key(&at.key("zsk_lifetime"), "`zsk_lifetime` has no effect without a zsk")
                .help("keys = \"ksk_zsk\"");
        }
        if spec.entry_lifetime.is_some() && spec.parent.is_empty() {
            cx.error(&at.key("entry_lifetime"), "nobody says when the parent has the next key's DS")
                .help("parent = [\"ADDRESS:53\"], servers of the parent zone");
        }
        let plan = Self {
            scheme,
            algorithm: spec.algorithm.unwrap_or(Algorithm::EcdsaP256Sha256),
            zsk_lifetime: seconds(spec.zsk_lifetime, 30 * 86_400),
            entry_lifetime: spec.entry_lifetime.map(|_| seconds(spec.entry_lifetime, 0)),
            parent: spec.parent.clone(),
            propagation: seconds(spec.propagation, 3_600),
            parent_ttl: seconds(spec.parent_ttl, 86_400),
            key_ttl: key_ttl.into(),
            zone_ttl: zone_ttl.into(),
        };
        let least = plan.publication() + plan.retirement();
        for (key, lifetime) in [("zsk_lifetime", Some(plan.zsk_lifetime)), ("entry_lifetime", plan.entry_lifetime)] {
            let is_used = key != "zsk_lifetime" || scheme == KeySchemeSpec::KskZsk;
            if is_used && lifetime.is_some_and(|lifetime| lifetime <= least) {
                let message =
                    format!("a key cannot be replaced in less than {least} seconds, by the times to live of the zone");
                cx.error(&at.key(key), message).help("a longer life, or less `propagation`");
            }
        }
        plan
    }

    /// The zone answers with this time to live as well.
    pub(crate) fn holds(&mut self, ttl: u32) {
        self.zone_ttl = self.zone_ttl.max(ttl.into());
    }

    /// Ipub of RFC 7583 §3.2.1: until nobody has a DNSKEY set without a key that is published now.
    pub(super) fn publication(&self) -> u64 {
        self.propagation + self.key_ttl
    }

    /// Until nobody has a set of the zone as it was signed before.
    pub(super) fn of_signatures(&self) -> u64 {
        self.propagation + self.zone_ttl
    }

    /// Until nobody has a DS set as the parent had it before.
    pub(super) fn of_ds(&self) -> u64 {
        self.propagation + self.parent_ttl
    }

    /// Iret of RFC 7583 §3.2.1, where all signatures are of the new key at once: until nobody has one of the old key.
    fn retirement(&self) -> u64 {
        self.propagation + self.zone_ttl.max(self.key_ttl)
    }

    pub(super) fn parts(&self) -> &'static [Part] {
        match self.scheme {
            KeySchemeSpec::Csk => &[Part::Csk],
            KeySchemeSpec::KskZsk => &[Part::Ksk, Part::Zsk],
        }
    }

    fn lifetime(&self, part: Part) -> Option<u64> {
        match part {
            Part::Zsk => Some(self.zsk_lifetime),
            Part::Csk | Part::Ksk => self.entry_lifetime,
        }
    }
}

/// What a plan wants other than the keys have it that the parent and caches know. Changed at once, it would leave a DS without
/// its key, or an algorithm of the DS without its signatures (RFC 4035 §2.2): every answer would be bogus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    Scheme(KeySchemeSpec),
    /// Nobody says what the parent has, without which another algorithm cannot take over.
    Algorithm(Algorithm),
    /// The keys are on their way to this algorithm.
    UnderWay(Algorithm),
}

impl Conflict {
    /// Tells it with the ways out. `file` is where the keys are kept.
    pub(crate) fn report(self, apex: &Name, file: Option<&std::path::Path>, at: &Path, cx: &mut Context) {
        let (key, serves) = match self {
            Self::Scheme(KeySchemeSpec::Csk) => ("keys", "csk"),
            Self::Scheme(KeySchemeSpec::KskZsk) => ("keys", "ksk_zsk"),
            Self::Algorithm(algorithm) | Self::UnderWay(algorithm) => ("algorithm", algorithm.as_str()),
        };
        let forget = file.map_or_else(String::new, |file| format!(", remove {}", file.display()));
        let start_anew = format!(
            "have the parent take the DS away, wait until nobody has it (`parent_ttl`), stop{forget} and start"
        );
        let (message, help) = match self {
            Self::Scheme(_) => (
                format!(
                    "zone {apex} is signed with {key} = \"{serves}\": with others at once no answer would be valid"
                ),
                format!("{key} = \"{serves}\"; or {start_anew}"),
            ),
            Self::Algorithm(_) => (
                format!(
                    "zone {apex} is signed with {key} = \"{serves}\": with others at once no answer would be valid"
                ),
                format!(
                    "{key} = \"{serves}\"; or parent = [\"ADDRESS:53\"], servers of the parent zone: then one algorithm takes over \
                     from the other by steps; or {start_anew}"
                ),
            ),
            Self::UnderWay(_) => (
                format!("zone {apex} is on its way to {key} = \"{serves}\", and the parent may be about to follow"),
                format!("{key} = \"{serves}\" and `parent` until that has ended, then another one"),
            ),
        };
        cx.error(&at.key(key), message).help(help);
    }
}

impl KeyState {
    /// What the zone is signed with and is to stay signed with.
    pub(crate) fn conflict(&self, plan: &RollPlan) -> Option<Conflict> {
        let of_scheme = |key: &KeptKey| if key.part == Part::Csk { KeySchemeSpec::Csk } else { KeySchemeSpec::KskZsk };
        let scheme = self.keys.iter().map(of_scheme).find(|scheme| *scheme != plan.scheme).map(Conflict::Scheme);
        scheme.or_else(|| match &self.succession {
            Some(succession) => {
                let is_stuck = |algorithm: &Algorithm| *algorithm != plan.algorithm || plan.parent.is_empty();
                Some(succession.to).filter(is_stuck).map(Conflict::UnderWay)
            }
            None => self.other_algorithm(plan).filter(|_| plan.parent.is_empty()).map(Conflict::Algorithm),
        })
    }

    /// What the zone is signed with, where the plan wants another.
    fn other_algorithm(&self, plan: &RollPlan) -> Option<Algorithm> {
        self.keys.iter().filter_map(KeptKey::algorithm).find(|algorithm| *algorithm != plan.algorithm)
    }

    /// What each key is used for now.
    pub(crate) fn duties(&self, plan: &RollPlan) -> impl Iterator<Item = (&[u8], Duty)> {
        let used = self.keys.iter().filter(|key| plan.parts().contains(&key.part));
        let used = used.map(|key| (key, Side::Leaving));
        let coming = self.succession.iter().flat_map(|succession| &succession.keys).map(|key| (key, Side::Coming));
        used.chain(coming).map(|(key, side)| {
            let duty = key.duty();
            (key.pem.as_bytes(), self.succession.as_ref().map_or(duty, |succession| succession.duty(side, duty)))
        })
    }

    /// Keys whose DS the parent is still to show.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = Awaited<'_>> {
        let is_awaited = |key: &&KeptKey| key.active.is_none() && key.told.is_some() && key.at_parent.is_none();
        let own = self.keys.iter().filter(is_awaited).filter(|_| self.succession.is_none());
        let own = own.map(|key| Awaited { key, without: None });
        let leaving = self.keys.iter().find_map(KeptKey::algorithm);
        let coming = self.succession.iter().flat_map(Succession::awaited);
        own.chain(coming.map(move |key| Awaited { key, without: leaving }))
    }

    /// All servers of the parent have it as it was awaited.
    pub(crate) fn seen_at_parent(&mut self, tag: u16, now: u64) {
        if let Some(succession) = &mut self.succession {
            return succession.seen_at_parent(tag, now);
        }
        for key in self.keys.iter_mut().filter(|key| key.tag == tag && key.told.is_some()) {
            key.at_parent.get_or_insert(now);
        }
    }

    /// Does what is due. Without a new key nothing moves, and it is tried again.
    pub(crate) fn step(&mut self, plan: &RollPlan, now: u64, make: &mut Make<'_>) -> Vec<Moved> {
        let mut moved = Vec::new();
        if let Some(succession) = &mut self.succession {
            if succession.step(plan, now, &mut moved) == Progress::Ended {
                moved.extend(self.keys.iter().map(|key| Moved { tag: key.tag, what: "removed" }));
                self.keys = std::mem::take(&mut succession.keys);
                // Their time begins now that the zone is theirs.
                self.keys.iter_mut().for_each(|key| key.active = Some(now));
                self.succession = None;
            }
            return moved;
        }
        let renewal = if self.other_algorithm(plan).is_some() { Renewal::Ends } else { Renewal::GoesOn };
        for part in plan.parts() {
            self.step_part(*part, plan, (now, renewal), make, &mut moved);
        }
        // One thing after the other: what is replaced already is replaced to its end.
        if renewal == Renewal::Ends && self.keys.len() == plan.parts().len() {
            self.succession = Succession::begin(plan, now, make, &mut moved);
        }
        moved
    }

    fn step_part(
        &mut self,
        part: Part,
        plan: &RollPlan,
        (now, renewal): (u64, Renewal),
        make: &mut Make<'_>,
        moved: &mut Vec<Moved>,
    ) {
        let retirement = plan.retirement();
        self.keys.retain(|key| {
            let is_over = key.part == part && key.retired.is_some_and(|retired| now >= retired + retirement);
            if is_over {
                moved.push(Moved { tag: key.tag, what: "removed" });
            }
            !is_over
        });
        let Some(current) = self.find(part, |key| key.active.is_some() && key.retired.is_none()) else {
            // The first: nobody has cached anything of this zone's keys.
            if let Some(key) = KeptKey::first(part, now, plan, make) {
                moved.push(Moved { tag: key.tag, what: "made" });
                self.keys.push(key);
            }
            return;
        };
        let Some(lifetime) = plan.lifetime(part) else { return };
        let due = self.active_since(current).saturating_add(lifetime);
        let Some(next) = self.find(part, |key| key.active.is_none()) else {
            if renewal == Renewal::GoesOn
                && now + plan.publication() >= due
                && let Some(key) = KeptKey::new(part, now, plan, make)
            {
                moved.push(Moved { tag: key.tag, what: "published" });
                self.keys.push(key);
            }
            return;
        };
        let Some(key) = self.keys.get_mut(next) else { return };
        let is_known = now >= key.published + plan.publication();
        let is_ready = match part {
            Part::Zsk => is_known,
            Part::Csk | Part::Ksk => {
                // RFC 7583 §3.3.1: a DS may point to a key when everybody can find the key.
                if is_known && key.told.is_none() {
                    key.told = Some(now);
                    moved.push(Moved { tag: key.tag, what: "told to the parent" });
                }
                // RFC 7583 §3.3.2: until nobody has a DS set without it.
                key.at_parent.is_some_and(|at| now >= at + plan.of_ds())
            }
        };
        if is_ready && now >= due {
            key.active = Some(now);
            moved.push(Moved { tag: key.tag, what: "active" });
            if let Some(old) = self.keys.get_mut(current) {
                old.retired = Some(now);
                moved.push(Moved { tag: old.tag, what: "retired" });
            }
        }
    }

    fn find(&self, part: Part, is: impl Fn(&KeptKey) -> bool) -> Option<usize> {
        self.keys.iter().position(|key| key.part == part && is(key))
    }

    fn active_since(&self, index: usize) -> u64 {
        self.keys.get(index).and_then(|key| key.active).unwrap_or_default()
    }
}

/// Whether keys get successors of their own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    GoesOn,
    /// Those that have none yet get none: another algorithm is to come.
    Ends,
}

impl KeptKey {
    fn new(part: Part, now: u64, plan: &RollPlan, make: &mut Make<'_>) -> Option<Self> {
        let role = match part {
            Part::Csk => KeyRole::Csk,
            Part::Ksk => KeyRole::Ksk,
            Part::Zsk => KeyRole::Zsk,
        };
        let (pem, tag) = make(plan.algorithm, role)?;
        let algorithm = Some(plan.algorithm);
        Some(Self {
            pem,
            tag,
            part,
            algorithm,
            published: now,
            told: None,
            at_parent: None,
            active: None,
            retired: None,
        })
    }

    /// One that has no predecessor.
    pub(super) fn first(part: Part, now: u64, plan: &RollPlan, make: &mut Make<'_>) -> Option<Self> {
        let told = (part != Part::Zsk).then_some(now);
        Some(Self { active: Some(now), told, ..Self::new(part, now, plan, make)? })
    }

    /// A DS may point to it.
    pub(super) fn is_entry(&self) -> bool {
        self.part != Part::Zsk
    }

    fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm.or_else(|| Some(self.key()?.algorithm))
    }

    fn duty(&self) -> Duty {
        let is_active = self.active.is_some() && self.retired.is_none();
        match self.part {
            Part::Zsk => Duty { entry: false, told: false, published: true, keys: false, zone: is_active },
            // Both sign the keys until the old one goes: whichever DS somebody has, it holds.
            Part::Csk | Part::Ksk => Duty {
                entry: true,
                told: self.told.is_some() && self.retired.is_none(),
                published: true,
                keys: true,
                zone: is_active && self.part == Part::Csk,
            },
        }
    }

    pub(crate) fn tag(&self) -> u16 {
        self.tag
    }

    /// As it will be read.
    pub(crate) fn key(&self) -> Option<Key> {
        Key::read(self.pem.as_bytes(), self.duty()).ok()
    }
}

impl std::fmt::Debug for KeptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pem: _, tag, part, algorithm: _, published, told, at_parent, active, retired } = self;
        write!(f, "KeptKey({tag} {part:?} {published} {told:?} {at_parent:?} {active:?} {retired:?})")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const STEP: u64 = 600;

    /// Of a zone whose parent is asked, with times of their usual lengths.
    pub(in crate::dnssec) fn plan(scheme: KeySchemeSpec) -> RollPlan {
        RollPlan {
            scheme,
            algorithm: Algorithm::Ed25519,
            zsk_lifetime: 30 * 86_400,
            entry_lifetime: Some(90 * 86_400),
            parent: vec!["192.0.2.1:53".parse().unwrap()],
            propagation: 3_600,
            parent_ttl: 86_400,
            key_ttl: 3_600,
            zone_ttl: 7_200,
        }
    }

    /// What the world can have seen at one time.
    #[derive(Clone, PartialEq)]
    struct Seen {
        at: u64,
        /// Tags of the DNSKEY set, those that sign it, those that sign the zone.
        keys: BTreeSet<u16>,
        key_signers: BTreeSet<u16>,
        zone_signers: BTreeSet<u16>,
        parent: BTreeSet<u16>,
    }

    fn having(state: &KeyState, has: fn(&Duty) -> bool) -> BTreeSet<u16> {
        state.keys.iter().filter(|key| has(&key.duty())).map(|key| key.tag).collect()
    }

    /// Two years in steps of ten minutes; the parent takes three days to follow, and whoever asks has any mixture of what was
    /// there within the times to live.
    fn live(plan: &RollPlan, restart_every: Option<u64>) -> (usize, usize) {
        let (mut state, mut next) = (KeyState::default(), 0u16);
        let mut make = |_, _| {
            next += 1;
            Some((format!("key {next}"), next))
        };
        let mut history: Vec<Seen> = Vec::new();
        let (mut parent, mut wish) = (BTreeSet::new(), (0, BTreeSet::new()));
        let (mut most, begin) = (0, 1_000_000u64);
        for now in (begin..begin + 2 * 365 * 86_400).step_by(STEP as usize) {
            state.step(plan, now, &mut make);
            if restart_every.is_some_and(|every| (now - begin) % every == 0) {
                state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
            }
            let told = having(&state, |duty| duty.told);
            if wish.1 != told {
                wish = (now, told);
            }
            if parent.is_empty() || now >= wish.0 + 3 * 86_400 {
                parent = wish.1.clone();
            }
            let awaited: Vec<_> =
                state.awaited().map(|awaited| awaited.key.tag).filter(|tag| parent.contains(tag)).collect();
            awaited.into_iter().for_each(|tag| state.seen_at_parent(tag, now));
            let seen = Seen {
                at: now,
                keys: having(&state, |_| true),
                key_signers: having(&state, |duty| duty.keys),
                zone_signers: having(&state, |duty| duty.zone),
                parent: parent.clone(),
            };
            most = most.max(seen.keys.len());
            if history.last().is_none_or(|last| Seen { at: now, ..last.clone() } != seen) {
                history.push(seen);
            }
            // Each entry holds until the next began.
            let until = |index: usize| history.get(index + 1).map_or(now, |next: &Seen| next.at);
            let within = |age: u64| -> Vec<&Seen> {
                let young = |(index, _): &(usize, &Seen)| until(*index) + age > now;
                history.iter().enumerate().filter(young).map(|(_, seen)| seen).collect()
            };
            let p = plan.propagation;
            for keys in within(plan.key_ttl + p) {
                for parent in within(plan.parent_ttl + p) {
                    let entry =
                        parent.parent.iter().any(|tag| keys.keys.contains(tag) && keys.key_signers.contains(tag));
                    assert!(entry, "{now}: no DS of {:?} holds for {:?}", parent.parent, keys.keys);
                }
                for zone in within(plan.zone_ttl + p) {
                    let known = zone.zone_signers.iter().any(|tag| keys.keys.contains(tag));
                    assert!(known, "{now}: signed by {:?}, known {:?}", zone.zone_signers, keys.keys);
                }
            }
            // What ended ten days ago is in nobody's cache.
            let old = (0..history.len()).filter(|index| until(*index) + 10 * 86_400 < now).count();
            history.drain(..old);
        }
        (usize::from(next), most)
    }

    #[test]
    fn rfc7583_3_whatever_was_cached_in_its_time_can_be_validated_over_two_years() {
        // 8 or 9 changes of a csk in its 90 days would be as many keys; the parent's three days make them later, not fewer.
        let (made, most) = live(&plan(KeySchemeSpec::Csk), Some(86_400 * 7));
        assert!((8..=9).contains(&made), "{made}");
        assert_eq!(most, 2);
        let (made, most) = live(&plan(KeySchemeSpec::KskZsk), Some(86_400));
        assert!((31..=34).contains(&made), "{made}");
        assert!(most <= 4, "{most}");
    }

    #[test]
    fn rfc7583_3_3_without_the_parents_ds_the_old_key_stays() {
        let plan = plan(KeySchemeSpec::Csk);
        let (mut state, mut next) = (KeyState::default(), 0u16);
        let mut make = |_, _| {
            next += 1;
            Some((String::new(), next))
        };
        for now in (0..400 * 86_400).step_by(3_600) {
            state.step(&plan, now, &mut make);
        }
        assert_eq!(state.keys.len(), 2);
        assert!(state.keys[0].active.is_some() && state.keys[0].retired.is_none());
        assert_eq!(state.awaited().map(|awaited| awaited.key.tag).collect::<Vec<_>>(), [2]);
        state.seen_at_parent(2, 400 * 86_400);
        state.step(&plan, 400 * 86_400 + 86_400, &mut make);
        assert!(state.keys[0].retired.is_none(), "the old DS may still be cached");
        state.step(&plan, 400 * 86_400 + 86_400 + 3_600, &mut make);
        assert!(state.keys[0].retired.is_some() && state.keys[1].active.is_some());
    }

    #[test]
    fn rfc4035_2_2_other_kinds_of_keys_are_in_conflict_with_those_that_serve_where_no_way_leads_to_them() {
        let mut make = |algorithm, _| Some((super::super::generate_key(algorithm).unwrap(), 1));
        let (csk, pair) = (plan(KeySchemeSpec::Csk), plan(KeySchemeSpec::KskZsk));
        let watched = |plan: &RollPlan| RollPlan { algorithm: Algorithm::EcdsaP256Sha256, ..plan.clone() };
        let other = |plan: &RollPlan| RollPlan { parent: Vec::new(), ..watched(plan) };
        for (served, wanted, expected) in [
            (&csk, csk.clone(), None),
            (&pair, pair.clone(), None),
            (&csk, pair.clone(), Some(Conflict::Scheme(KeySchemeSpec::Csk))),
            (&pair, csk.clone(), Some(Conflict::Scheme(KeySchemeSpec::KskZsk))),
            (&csk, other(&csk), Some(Conflict::Algorithm(Algorithm::Ed25519))),
            (&pair, other(&pair), Some(Conflict::Algorithm(Algorithm::Ed25519))),
            (&csk, watched(&csk), None),
            (&pair, watched(&pair), None),
            (
                &pair,
                RollPlan { scheme: KeySchemeSpec::Csk, ..watched(&pair) },
                Some(Conflict::Scheme(KeySchemeSpec::KskZsk)),
            ),
        ] {
            let mut state = KeyState::default();
            assert_eq!(state.conflict(&wanted), None, "nobody knows any key yet");
            state.step(served, 0, &mut make);
            assert_eq!(state.conflict(&wanted), expected);
        }
    }

    #[test]
    fn rfc7583_3_2_1_an_old_key_stays_for_as_long_as_what_a_published_service_answers() {
        let mut plan = plan(KeySchemeSpec::Csk);
        let before = (plan.retirement(), plan.of_signatures());
        plan.holds(60);
        assert_eq!((plan.retirement(), plan.of_signatures()), before);
        plan.holds(86_400);
        assert_eq!((plan.retirement(), plan.of_signatures()), (90_000, 90_000));
    }

    #[test]
    fn without_a_lifetime_the_key_that_the_parent_knows_stays() {
        let plan = RollPlan { entry_lifetime: None, ..plan(KeySchemeSpec::Csk) };
        let mut state = KeyState::default();
        for now in (0..3_000 * 86_400).step_by(86_400) {
            state.step(&plan, now, &mut |_, _| Some((String::new(), 1)));
        }
        assert_eq!(state.keys.len(), 1);
    }
}
