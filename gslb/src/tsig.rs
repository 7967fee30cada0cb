//! Messages signed with a shared secret (RFC 8945): queries are verified, replies signed. Time comes in.

use crate::{
    Name,
    name::wire_length,
    record_type::RecordType,
    spec::{TsigAlgorithm, TsigSpec},
};
use aws_lc_rs::hmac;
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

/// The keys that messages may be signed with.
#[derive(Debug, Default)]
pub(crate) struct TsigKeys(HashMap<Name, TsigKey>);

pub(crate) struct TsigKey {
    pub(crate) name: ObjectName,
    algorithm: Name,
    key: hmac::Key,
}

/// A message that proved its key; what replies are signed with.
#[derive(Debug)]
pub(crate) struct Verified<'k> {
    pub(crate) key: &'k TsigKey,
    owner: Name,
    /// The last signature: the next covers it.
    mac: Vec<u8>,
    /// Whether the next is the first: later ones leave out what does not change (RFC 8945 §5.3.1).
    next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    First,
    Later,
}

/// The client's side of an exchange: our query was signed, the replies have to be.
#[derive(Debug)]
pub(crate) struct Signing<'k> {
    key: &'k TsigKey,
    owner: Name,
    mac: Vec<u8>,
    next: Next,
    /// Messages without a signature since the last one.
    unsigned: Vec<u8>,
    count: usize,
}

/// RFC 8945 §5.3.1: at least every hundredth message is signed.
const UNSIGNED_MAX: usize = 99;

/// Why a signature does not count.
#[derive(Debug)]
pub(crate) enum Rejected<'k> {
    /// The record itself cannot be read.
    Malformed,
    Error {
        record: Record,
        code: ErrorCode,
        key: Option<&'k TsigKey>,
    },
}

/// RFC 8945 §3: BADSIG, BADKEY, BADTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    Signature = 16,
    Key = 17,
    Time = 18,
}

/// A TSIG record.
#[derive(Debug)]
pub(crate) struct Record {
    owner: Name,
    algorithm: Name,
    time: u64,
    fudge: u16,
    mac: Vec<u8>,
    original_id: [u8; 2],
}

const CLASS_ANY: u16 = 255;
/// RFC 8945 §10: five minutes.
const FUDGE: u16 = 300;
const KEYS_MAX: usize = 1_000;
/// RFC 8945 §8: no less than the hash has.
const SECRET_MIN: usize = 16;

impl TsigKeys {
    pub(crate) fn compile(specs: &BTreeMap<ObjectName, TsigSpec>, at: &Path, cx: &mut Context) -> Self {
        let mut keys = HashMap::new();
        if specs.len() > KEYS_MAX {
            cx.error(at, format!("more than {KEYS_MAX} keys"));
        }
        for (name, spec) in specs.iter().take(KEYS_MAX) {
            let at = at.key(name).key("secret");
            let Some(text) = cx.secret(&at, &spec.secret) else { continue };
            let secret = data_encoding::BASE64.decode(text.trim_ascii()).ok();
            let Some(secret) = secret.filter(|secret| secret.len() >= SECRET_MIN) else {
                cx.error(&at, format!("a secret is base 64 of at least {SECRET_MIN} octets"))
                    .help("openssl rand -base64 32");
                continue;
            };
            let (algorithm, text) = match spec.algorithm.unwrap_or(TsigAlgorithm::HmacSha256) {
                TsigAlgorithm::HmacSha256 => (hmac::HMAC_SHA256, "hmac-sha256"),
                TsigAlgorithm::HmacSha384 => (hmac::HMAC_SHA384, "hmac-sha384"),
                TsigAlgorithm::HmacSha512 => (hmac::HMAC_SHA512, "hmac-sha512"),
            };
            if let (Ok(owner), Ok(algorithm_name)) = (Name::absolute(name.as_str()), Name::absolute(text)) {
                let key = hmac::Key::new(algorithm, &secret);
                keys.insert(owner, TsigKey { name: name.clone(), algorithm: algorithm_name, key });
            }
        }
        Self(keys)
    }

    pub(crate) fn get(&self, name: &ObjectName) -> Option<&TsigKey> {
        self.0.get(&Name::absolute(name.as_str()).ok()?)
    }

    /// RFC 8945 §5.2: key, then signature, then time.
    pub(crate) fn verify(&self, message: &[u8], at: usize, now: u64) -> Result<Verified<'_>, Rejected<'_>> {
        let record = Record::read(message.get(at..).unwrap_or_default()).ok_or(Rejected::Malformed)?;
        let Some(key) = self.0.get(&record.owner).filter(|key| key.algorithm == record.algorithm) else {
            return Err(Rejected::Error { record, code: ErrorCode::Key, key: None });
        };
        let mut octets = as_signed(message, at, &record);
        octets.extend(variables(&record.owner, &record.algorithm, record.time, record.fudge, 0, &[]));
        // Compared in constant time, and only whole: a cut signature is easier to guess.
        if hmac::verify(&key.key, &octets, &record.mac).is_err() {
            return Err(Rejected::Error { record, code: ErrorCode::Signature, key: None });
        }
        if now.abs_diff(record.time) > u64::from(record.fudge) {
            return Err(Rejected::Error { record, code: ErrorCode::Time, key: Some(key) });
        }
        Ok(Verified { key, owner: record.owner, mac: record.mac, next: Next::First })
    }
}

impl TsigKey {
    /// Signs a query of ours.
    pub(crate) fn sign_query(&self, now: u64, message: &mut Vec<u8>) -> Signing<'_> {
        // The key was found by this name when it was compiled.
        let owner = Name::absolute(self.name.as_str()).unwrap_or_else(|_| self.algorithm.clone());
        let octets = [&message[..], &variables(&owner, &self.algorithm, now, FUDGE, 0, &[])].concat();
        let mac = hmac::sign(&self.key, &octets).as_ref().to_vec();
        append(&owner, &self.algorithm, now, &mac, 0, &[], message);
        Signing { key: self, owner, mac, next: Next::First, unsigned: Vec::new(), count: 0 }
    }
}

impl Signing<'_> {
    /// Whether a reply proves the key; between the first and the last, some need not.
    pub(crate) fn verify(&mut self, message: &[u8], tsig_at: Option<usize>, now: u64) -> bool {
        let Some(at) = tsig_at else {
            self.unsigned.extend(message);
            self.count += 1;
            return self.next == Next::Later && self.count <= UNSIGNED_MAX;
        };
        let Some(record) = Record::read(message.get(at..).unwrap_or_default()) else { return false };
        let mut octets = counted(&self.mac);
        octets.append(&mut self.unsigned);
        octets.extend(as_signed(message, at, &record));
        match self.next {
            Next::First => {
                octets.extend(variables(&self.owner, &self.key.algorithm, record.time, record.fudge, 0, &[]))
            }
            Next::Later => octets.extend(timers(record.time, record.fudge)),
        }
        let same = record.owner == self.owner && record.algorithm == self.key.algorithm;
        let in_time = now.abs_diff(record.time) <= u64::from(record.fudge);
        let proved = hmac::verify(&self.key.key, &octets, &record.mac).is_ok();
        (self.mac, self.next, self.count) = (record.mac, Next::Later, 0);
        same && in_time && proved
    }

    /// Whether the last reply was signed.
    pub(crate) fn is_settled(&self) -> bool {
        self.count == 0 && self.next == Next::Later
    }
}

/// A message as it was before its TSIG record was added, and before a forwarder changed the id.
fn as_signed(message: &[u8], at: usize, record: &Record) -> Vec<u8> {
    let mut octets = message.get(..at).unwrap_or_default().to_vec();
    if let Some([id0, id1, .., count0, count1]) = octets.get_mut(..12) {
        [*id0, *id1] = record.original_id;
        let count = u16::from_be_bytes([*count0, *count1]).saturating_sub(1);
        [*count0, *count1] = count.to_be_bytes();
    }
    octets
}

impl Record {
    fn read(octets: &[u8]) -> Option<Self> {
        let (owner, rest) = take_name(octets)?;
        let ([t0, t1, c0, c1, _, _, _, _, _, _], rest) = rest.split_first_chunk::<10>()?;
        let is_tsig =
            u16::from_be_bytes([*t0, *t1]) == RecordType::TSIG.0 && u16::from_be_bytes([*c0, *c1]) == CLASS_ANY;
        let (algorithm, rest) = take_name(rest)?;
        let ([a, b, c, d, e, f, fudge0, fudge1, size0, size1], rest) = rest.split_first_chunk::<10>()?;
        let (mac, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*size0, *size1])))?;
        let (original_id, rest) = rest.split_first_chunk::<2>()?;
        let ([_, _, other0, other1], other) = rest.split_first_chunk::<4>()?;
        let fits = other.len() == usize::from(u16::from_be_bytes([*other0, *other1]));
        (is_tsig && fits).then(|| Self {
            owner,
            algorithm,
            time: u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]),
            fudge: u16::from_be_bytes([*fudge0, *fudge1]),
            mac: mac.to_vec(),
            original_id: *original_id,
        })
    }
}

impl Rejected<'_> {
    /// Adds what RFC 8945 §5.2 wants to a reply: the code without a signature, or signed for a clock that is wrong.
    pub(crate) fn append(&self, now: u64, out: &mut Vec<u8>) {
        let Self::Error { record, code, key } = self else { return };
        match key {
            Some(key) => {
                // The client is told our time, so that it sees whose clock is wrong.
                let other = now.to_be_bytes();
                let other = other.get(2..).unwrap_or_default();
                let mut octets = counted(&record.mac);
                octets.extend_from_slice(out);
                octets.extend(variables(&record.owner, &key.algorithm, record.time, FUDGE, *code as u16, other));
                let mac = hmac::sign(&key.key, &octets);
                append(&record.owner, &key.algorithm, record.time, mac.as_ref(), *code as u16, other, out);
            }
            None => append(&record.owner, &record.algorithm, record.time, &[], *code as u16, &[], out),
        }
    }
}

impl Verified<'_> {
    /// Octets that [`Verified::sign`] adds.
    pub(crate) fn length(&self) -> usize {
        let hash = self.key.key.algorithm().digest_algorithm().output_len();
        self.owner.as_wire().len() + 10 + self.key.algorithm.as_wire().len() + 16 + hash
    }

    /// Signs a reply.
    pub(crate) fn sign(&mut self, now: u64, out: &mut Vec<u8>) {
        let mut octets = counted(&self.mac);
        octets.extend_from_slice(out);
        match self.next {
            Next::First => octets.extend(variables(&self.owner, &self.key.algorithm, now, FUDGE, 0, &[])),
            Next::Later => octets.extend(timers(now, FUDGE)),
        }
        self.mac = hmac::sign(&self.key.key, &octets).as_ref().to_vec();
        self.next = Next::Later;
        append(&self.owner, &self.key.algorithm, now, &self.mac, 0, &[], out);
    }
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TsigKey({})", self.name)
    }
}

fn take_name(octets: &[u8]) -> Option<(Name, &[u8])> {
    let length = wire_length(octets)?;
    Some((Name::from_wire(octets).ok()?, octets.get(length..)?))
}

/// With two octets of length before it.
fn counted(octets: &[u8]) -> Vec<u8> {
    // A signature came in a record, or is a hash.
    [&(octets.len() as u16).to_be_bytes()[..], octets].concat()
}

/// RFC 8945 §4.3.3.
fn variables(owner: &Name, algorithm: &Name, time: u64, fudge: u16, error: u16, other: &[u8]) -> Vec<u8> {
    let mut out = owner.as_wire().to_vec();
    out.extend(CLASS_ANY.to_be_bytes());
    out.extend([0; 4]);
    out.extend(algorithm.as_wire());
    out.extend(timers(time, fudge));
    out.extend(error.to_be_bytes());
    out.extend(counted(other));
    out
}

fn timers(time: u64, fudge: u16) -> [u8; 8] {
    let [_, _, a, b, c, d, e, f] = time.to_be_bytes();
    let [fudge0, fudge1] = fudge.to_be_bytes();
    [a, b, c, d, e, f, fudge0, fudge1]
}

/// The record itself, counted in the header.
fn append(owner: &Name, algorithm: &Name, time: u64, mac: &[u8], error: u16, other: &[u8], out: &mut Vec<u8>) {
    let id = out.first_chunk::<2>().copied().unwrap_or_default();
    out.extend(owner.as_wire());
    out.extend(RecordType::TSIG.0.to_be_bytes());
    out.extend(CLASS_ANY.to_be_bytes());
    out.extend([0; 4]);
    let length = algorithm.as_wire().len() + 16 + mac.len() + other.len();
    out.extend((length as u16).to_be_bytes());
    out.extend(algorithm.as_wire());
    out.extend(timers(time, FUDGE));
    out.extend(counted(mac));
    out.extend(id);
    out.extend(error.to_be_bytes());
    out.extend(counted(other));
    if let Some([.., count0, count1]) = out.get_mut(..12) {
        [*count0, *count1] = u16::from_be_bytes([*count0, *count1]).saturating_add(1).to_be_bytes();
    }
}
