//! Signatures of one zone: made when first asked for and kept, so that a set costs one signature in its time. Time comes in.

use super::{Chain, DenialSpec, DnssecSpec, KeyRole, key::Key, spec::CdsSpec};
use crate::{Name, RecordType, rdata, record_type::CLASS_IN, zone::RrSet};
use portcullis_config::{Context, Path};
use portcullis_names::TimeSpan;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering::Relaxed},
    time::Duration,
};

/// Signs the sets of one zone.
#[derive(Debug)]
pub(crate) struct Signer {
    keys: Vec<Key>,
    pub(crate) denial: DenialSpec,
    /// Made when all names are known.
    pub(crate) chain: Chain,
    validity: u32,
    /// DNSKEY, and CDS and CDNSKEY where they are published.
    pub(crate) apex_sets: Vec<RrSet>,
    kept: [Mutex<HashMap<u64, Arc<[Vec<u8>]>>>; SHARDS],
    hasher: RandomState,
    /// Second, and signatures made in it.
    spent: AtomicU64,
}

/// A set as it is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signable<'s> {
    pub(crate) apex: &'s Name,
    /// A wildcard for what it was expanded to.
    pub(crate) owner: &'s [u8],
    pub(crate) of_type: RecordType,
    pub(crate) ttl: u32,
    pub(crate) data: &'s [&'s [u8]],
}

/// Whether a signature counts against what is made in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Budget {
    /// Over UDP anybody can ask for anything.
    Bounded,
    /// Streams are few, and their clients are who they say.
    Free,
}

/// What became of a wish for a signature.
#[derive(Debug, Clone)]
pub(crate) enum Signed {
    /// The data of RRSIG records.
    With(Arc<[Vec<u8>]>),
    /// Too many were made in this second.
    Spent,
}

const KEYS_MAX: usize = 8;
const SHARDS: usize = 16;
/// Signatures kept in a shard. Of 64 octets each and their frame, all shards hold some 30 MiB at most.
const KEPT_MAX: usize = 8_192;
/// New signatures in a second: at some 15 µs each a third of a core. Floods of absent names must not take more.
const BUDGET: u64 = 20_000;
/// Clocks of resolvers are behind by this much at most.
const SKEW: u32 = 3_600;
const VALIDITY_MIN: Duration = Duration::from_secs(86_400);
const VALIDITY_MAX: Duration = Duration::from_secs(90 * 86_400);

impl Signer {
    /// `None`: the report says why not.
    pub(crate) fn compile(spec: &DnssecSpec, apex: &Name, ttl: u32, at: &Path, cx: &mut Context) -> Option<Self> {
        let keys_at = at.key("keys");
        if spec.keys.is_empty() || spec.keys.len() > KEYS_MAX {
            cx.error(&keys_at, format!("a zone has one to {KEYS_MAX} keys"));
        }
        let mut keys = Vec::new();
        for (index, key) in spec.keys.iter().enumerate().take(KEYS_MAX) {
            let at = keys_at.index(index).key("secret");
            let Some(pem) = cx.secret(&at, &key.secret) else { continue };
            match Key::read(&pem, key.role.unwrap_or(KeyRole::Csk)) {
                Ok(key) => keys.push(key),
                Err(error) => _ = cx.error(&at, error.to_string()),
            }
        }
        let signs = |role: KeyRole| keys.iter().any(|key| key.role == role || key.role == KeyRole::Csk);
        if keys.len() == spec.keys.len() && !(signs(KeyRole::Ksk) && signs(KeyRole::Zsk)) {
            cx.error(&keys_at, "no key signs the keys, or none signs the rest").help("one csk, or a ksk and a zsk");
        }
        // RFC 4035 §2.2: each algorithm of the keys signs all.
        for key in &keys {
            let same = |role| {
                keys.iter()
                    .any(|other| other.algorithm == key.algorithm && (other.role == role || other.role == KeyRole::Csk))
            };
            if key.role != KeyRole::Standby && !(same(KeyRole::Ksk) && same(KeyRole::Zsk)) {
                cx.error(&keys_at, format!("{:?} signs only a part (RFC 4035 §2.2)", key.algorithm));
            }
        }
        let validity = spec.validity.map_or(Duration::from_secs(14 * 86_400), TimeSpan::get);
        if !(VALIDITY_MIN..=VALIDITY_MAX).contains(&validity) {
            cx.error(&at.key("validity"), "signatures hold between one day and 90");
        }
        let mut signer = Self {
            denial: spec.denial.unwrap_or(DenialSpec::Nsec),
            chain: Chain::default(),
            // At most 90 days, as just said.
            validity: validity.min(VALIDITY_MAX).as_secs() as u32,
            apex_sets: Vec::new(),
            kept: Default::default(),
            hasher: RandomState::new(),
            spent: AtomicU64::new(0),
            keys,
        };
        signer.apex_sets = signer.key_sets(apex, ttl, spec.cds.unwrap_or(CdsSpec::Off));
        Some(signer)
    }

    fn key_sets(&self, apex: &Name, ttl: u32, cds: CdsSpec) -> Vec<RrSet> {
        let set = |of_type, data: Vec<Vec<u8>>| RrSet {
            of_type,
            ttl,
            data: data.into_iter().map(Vec::into_boxed_slice).collect(),
        };
        let all = self.keys.iter().map(|key| key.rdata.clone()).collect();
        let mut sets = vec![set(RecordType::DNSKEY, all)];
        if cds == CdsSpec::On {
            let entries = || self.keys.iter().filter(|key| matches!(key.role, KeyRole::Csk | KeyRole::Ksk));
            sets.push(set(RecordType::CDS, entries().map(|key| ds_data(apex, key)).collect()));
            sets.push(set(RecordType::CDNSKEY, entries().map(|key| key.rdata.clone()).collect()));
        }
        if self.denial == DenialSpec::Nsec3 {
            // RFC 5155 §4.1.2: no flags; RFC 9276 §3.1: no iterations, no salt.
            sets.push(RrSet { ttl: 0, ..set(RecordType::NSEC3PARAM, vec![vec![1, 0, 0, 0, 0]]) });
        }
        sets
    }

    /// DS records for the parent.
    pub(crate) fn ds(&self, apex: &Name) -> Vec<Vec<u8>> {
        let entries = self.keys.iter().filter(|key| matches!(key.role, KeyRole::Csk | KeyRole::Ksk));
        entries.map(|key| ds_data(apex, key)).collect()
    }

    /// Signatures over a set, made or kept.
    pub(crate) fn sign(&self, set: &Signable<'_>, now: u32, budget: Budget) -> Signed {
        let Signable { apex: _, owner, of_type, ttl, data } = *set;
        // Signatures of one period are alike, so that they can be kept; each is used for two thirds of its time at most.
        let period = (self.validity / 3).max(1);
        let inception = (now / period).wrapping_mul(period);
        let key = self.hasher.hash_one((owner, of_type, ttl, data, inception));
        let Some(shard) = self.kept.get(key as usize % SHARDS) else { return Signed::Spent };
        if let Some(kept) = shard.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Signed::With(kept.clone());
        }
        if budget == Budget::Bounded && !self.spend(now) {
            return Signed::Spent;
        }
        let times = (inception.wrapping_sub(SKEW), inception.wrapping_add(self.validity));
        let is_keys = matches!(of_type, RecordType::DNSKEY | RecordType::CDS | RecordType::CDNSKEY);
        let signs = |key: &&Key| match key.role {
            KeyRole::Csk => true,
            KeyRole::Ksk => is_keys,
            KeyRole::Zsk => !is_keys,
            KeyRole::Standby => false,
        };
        let made: Vec<_> = self.keys.iter().filter(signs).filter_map(|key| rrsig(key, set, times)).collect();
        let made: Arc<[Vec<u8>]> = made.into();
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= KEPT_MAX {
            // All at once: which are of use is found out anew within the budget.
            shard.clear();
        }
        shard.insert(key, made.clone());
        Signed::With(made)
    }

    /// One more signature in this second, if there is one left.
    fn spend(&self, now: u32) -> bool {
        let second = u64::from(now) << 32;
        let before = self.spent.load(Relaxed);
        if before & !0xffff_ffff != second {
            self.spent.store(second + 1, Relaxed);
            return true;
        }
        self.spent.fetch_add(1, Relaxed) & 0xffff_ffff < BUDGET
    }
}

/// RFC 4034 §5.1.4, with SHA-256.
fn ds_data(apex: &Name, key: &Key) -> Vec<u8> {
    let octets = [apex.as_wire(), &key.rdata].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &octets);
    [&key.tag.to_be_bytes()[..], &[key.algorithm.number(), 2], digest.as_ref()].concat()
}

/// RFC 4034 §3.1.8.1: what is signed, and the record over it.
fn rrsig(key: &Key, set: &Signable<'_>, (inception, expiration): (u32, u32)) -> Option<Vec<u8>> {
    let Signable { apex, owner, of_type, ttl, data } = *set;
    let labels = Name::from_wire(owner).ok()?.rrsig_labels();
    let mut rrsig = of_type.0.to_be_bytes().to_vec();
    rrsig.extend([key.algorithm.number(), labels]);
    rrsig.extend(ttl.to_be_bytes());
    rrsig.extend(expiration.to_be_bytes());
    rrsig.extend(inception.to_be_bytes());
    rrsig.extend(key.tag.to_be_bytes());
    rrsig.extend(apex.as_wire());
    let mut octets = rrsig.clone();
    let mut canonical: Vec<_> = data.iter().map(|data| rdata::canonical(of_type, data)).collect();
    // RFC 4034 §6.3.
    canonical.sort_unstable();
    canonical.dedup();
    for data in canonical {
        octets.extend_from_slice(owner);
        octets.extend(of_type.0.to_be_bytes());
        octets.extend(CLASS_IN.to_be_bytes());
        octets.extend(ttl.to_be_bytes());
        octets.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        octets.extend(data);
    }
    rrsig.extend(key.sign(&octets)?);
    Some(rrsig)
}
