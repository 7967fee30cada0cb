//! Signs the sets of one zone: with keys of its own, when first asked for, or with what came with a zone that was signed
//! elsewhere. Time comes in.

use super::{
    Chain, DenialSpec, DnssecSpec,
    key::{Duty, Key},
    presigned::Presigned,
    roll::{KeyState, RollPlan},
    signatures::Signatures,
    spec::CdsSpec,
};
use crate::{Name, RecordType, rdata, record_type::CLASS_IN, zone::RrSet};
use portcullis_config::{Context, Path};
use portcullis_names::TimeSpan;
use std::{sync::Arc, time::Duration};

/// Signs the sets of one zone.
#[derive(Debug)]
pub(crate) struct Signer {
    maker: Maker,
    pub(crate) denial: DenialSpec,
    /// Made when all names are known.
    pub(crate) chain: Chain,
    /// DNSKEY, and CDS and CDNSKEY where they are published.
    pub(crate) apex_sets: Vec<RrSet>,
}

#[derive(Debug)]
enum Maker {
    Keys { keys: Vec<Key>, validity: u32, signatures: Arc<Signatures> },
    Elsewhere(Presigned),
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
/// Clocks of resolvers are behind by this much at most.
const SKEW: u32 = 3_600;
const VALIDITY_MIN: Duration = Duration::from_secs(86_400);
const VALIDITY_MAX: Duration = Duration::from_secs(90 * 86_400);

impl Signer {
    /// `None`: the report says why not. `rolled` are the keys that we make ourselves.
    pub(crate) fn compile(
        spec: &DnssecSpec,
        apex: &Name,
        ttl: u32,
        rolled: Option<(&RollPlan, &KeyState)>,
        at: &Path,
        cx: &mut Context,
    ) -> Option<Self> {
        let keys = match rolled {
            Some((plan, state)) => state.duties(plan).filter_map(|(pem, duty)| Key::read(pem, duty).ok()).collect(),
            None => given(spec, &at.key("keys"), cx),
        };
        let validity = spec.validity.map_or(Duration::from_secs(14 * 86_400), TimeSpan::get);
        if !(VALIDITY_MIN..=VALIDITY_MAX).contains(&validity) {
            cx.error(&at.key("validity"), "signatures hold between one day and 90");
        }
        let denial = spec.denial.unwrap_or(DenialSpec::Nsec);
        // A parent that follows by itself has to be told.
        let cds = spec.cds.unwrap_or(if rolled.is_some() { CdsSpec::On } else { CdsSpec::Off });
        let apex_sets = key_sets(&keys, apex, ttl, denial, cds);
        // At most 90 days, as just said.
        let validity = validity.min(VALIDITY_MAX).as_secs() as u32;
        let maker = Maker::Keys { keys, validity, signatures: Arc::default() };
        Some(Self { maker, denial, chain: Chain::default(), apex_sets })
    }

    /// Of a zone that came with signatures.
    pub(crate) fn elsewhere(presigned: Presigned) -> Self {
        let chain = Chain::read(&presigned);
        let denial = if chain.uses_hashes() { DenialSpec::Nsec3 } else { DenialSpec::Nsec };
        Self { maker: Maker::Elsewhere(presigned), denial, chain, apex_sets: Vec::new() }
    }

    /// Goes on with what an earlier snapshot made, when it signed alike.
    pub(crate) fn adopt(&mut self, before: &Self) {
        if let (
            Maker::Keys { keys, validity, signatures },
            Maker::Keys { keys: old_keys, validity: old_validity, signatures: old },
        ) = (&mut self.maker, &before.maker)
            && *validity == *old_validity
            && keys.iter().map(Key::identity).eq(old_keys.iter().map(Key::identity))
        {
            *signatures = old.clone();
        }
    }

    /// Whether a DS that was right before is so no more, and none of the others is.
    pub(crate) fn leaves_its_parent(&self, before: &Self, apex: &Name) -> bool {
        let (Maker::Keys { keys, .. }, Maker::Keys { keys: old, .. }) = (&self.maker, &before.maker) else {
            return false;
        };
        let stays = |key: &Key| keys.iter().any(|own| own.duty.keys && ds_data(apex, own) == ds_data(apex, key));
        let mut told = old.iter().filter(|key| key.duty.told).peekable();
        told.peek().is_some() && !told.any(stays)
    }

    /// What somebody else signed, with which we can make nothing new.
    pub(crate) fn presigned(&self) -> Option<&Presigned> {
        match &self.maker {
            Maker::Keys { .. } => None,
            Maker::Elsewhere(presigned) => Some(presigned),
        }
    }

    /// Begin of the time in which signatures are alike, so that they can be kept; each is used for two thirds of its time at most.
    pub(crate) fn period(&self, now: u32) -> u32 {
        match &self.maker {
            Maker::Keys { validity, .. } => {
                let period = (validity / 3).max(1);
                (now / period).wrapping_mul(period)
            }
            Maker::Elsewhere(_) => 0,
        }
    }

    /// DS records for the parent.
    pub(crate) fn ds(&self, apex: &Name) -> Vec<Vec<u8>> {
        match &self.maker {
            Maker::Keys { keys, .. } => keys.iter().filter(|key| key.duty.told).map(|key| ds_data(apex, key)).collect(),
            Maker::Elsewhere(_) => Vec::new(),
        }
    }

    /// Signatures over a set, made or kept.
    pub(crate) fn sign(&self, set: &Signable<'_>, now: u32, budget: Budget) -> Signed {
        let Signable { apex: _, owner, of_type, ttl, data } = *set;
        let (keys, validity, signatures) = match &self.maker {
            Maker::Keys { keys, validity, signatures } => (keys, *validity, signatures),
            Maker::Elsewhere(presigned) => return Signed::With(presigned.get(owner, of_type)),
        };
        let inception = self.period(now);
        let key = signatures.key((owner, of_type, ttl, data, inception));
        if let Some(kept) = signatures.get(key) {
            return Signed::With(kept);
        }
        if budget == Budget::Bounded && !signatures.spend(now) {
            return Signed::Spent;
        }
        let times = (inception.wrapping_sub(SKEW), inception.wrapping_add(validity));
        let is_keys = matches!(of_type, RecordType::DNSKEY | RecordType::CDS | RecordType::CDNSKEY);
        let signs = |key: &&Key| if is_keys { key.duty.keys } else { key.duty.zone };
        let made: Vec<_> = keys.iter().filter(signs).filter_map(|key| rrsig(key, set, times)).collect();
        let made: Arc<[Vec<u8>]> = made.into();
        signatures.keep(key, made.clone());
        Signed::With(made)
    }
}

/// The keys that the document names.
fn given(spec: &DnssecSpec, at: &Path, cx: &mut Context) -> Vec<Key> {
    if spec.keys.is_empty() || spec.keys.len() > KEYS_MAX {
        cx.error(at, format!("a zone has one to {KEYS_MAX} keys"))
            .help("`portcullis gslb key FILE` makes one; or give `automatic = {}`");
    }
    let mut keys = Vec::new();
    for (index, key) in spec.keys.iter().enumerate().take(KEYS_MAX) {
        let at = at.index(index).key("secret");
        let Some(pem) = cx.secret(&at, &key.secret) else { continue };
        match Key::read(&pem, Duty::of(key.role.unwrap_or(super::KeyRole::Csk))) {
            Ok(key) => keys.push(key),
            Err(error) => _ = cx.error(&at, error.to_string()),
        }
    }
    let is_whole = |keys: &[&Key]| keys.iter().any(|key| key.duty.keys) && keys.iter().any(|key| key.duty.zone);
    if keys.len() == spec.keys.len() && !is_whole(&keys.iter().collect::<Vec<_>>()) {
        cx.error(at, "no key signs the keys, or none signs the rest").help("one csk, or a ksk and a zsk");
    }
    // RFC 4035 §2.2: each algorithm of the keys signs all.
    for key in keys.iter().filter(|key| key.duty.keys || key.duty.zone) {
        let alike: Vec<_> = keys.iter().filter(|other| other.algorithm == key.algorithm).collect();
        if !is_whole(&alike) {
            cx.error(at, format!("{:?} signs only a part (RFC 4035 §2.2)", key.algorithm));
        }
    }
    keys
}

fn key_sets(keys: &[Key], apex: &Name, ttl: u32, denial: DenialSpec, cds: CdsSpec) -> Vec<RrSet> {
    let set = |of_type, data: Vec<Vec<u8>>| RrSet {
        of_type,
        ttl,
        data: data.into_iter().map(Vec::into_boxed_slice).collect(),
    };
    let published = keys.iter().filter(|key| key.duty.published);
    let mut sets = vec![set(RecordType::DNSKEY, published.map(|key| key.rdata.clone()).collect())];
    if cds == CdsSpec::On {
        let entries = || keys.iter().filter(|key| key.duty.told);
        sets.push(set(RecordType::CDS, entries().map(|key| ds_data(apex, key)).collect()));
        sets.push(set(RecordType::CDNSKEY, entries().map(|key| key.rdata.clone()).collect()));
    }
    if denial == DenialSpec::Nsec3 {
        // RFC 5155 §4.1.2: no flags; RFC 9276 §3.1: no iterations, no salt.
        sets.push(RrSet { ttl: 0, ..set(RecordType::NSEC3PARAM, vec![vec![1, 0, 0, 0, 0]]) });
    }
    sets
}

/// RFC 4034 §5.1.4, with SHA-256.
pub(super) fn ds_data(apex: &Name, key: &Key) -> Vec<u8> {
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
