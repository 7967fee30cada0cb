//! The own identity: certificate, key and roots from files, exchanged whole, renewed long before its end.

use crate::{
    PeerRefused,
    spiffe::{NotAnSvid, svid_id},
    svid_verifier::Chains,
};
use arc_swap::ArcSwapOption;
use portcullis_names::SpiffeId;
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// One identity with what it needs; never changed, only replaced.
#[derive(Debug)]
pub struct Svid {
    id: SpiffeId,
    key: Arc<CertifiedKey>,
    roots: Vec<CertificateDer<'static>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    chains: Chains,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Why files are no identity. The one in use is kept.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("the {what} is not PEM with at least one entry")]
    NotPem { what: &'static str },
    #[error("the certificate and its key do not belong together (between two writes they never do): {0}")]
    Pair(rustls::Error),
    #[error(transparent)]
    NotAnSvid(#[from] NotAnSvid),
    #[error("the certificate names {found}, this workload is {own}")]
    OtherWorkload { found: SpiffeId, own: SpiffeId },
    #[error("what is believed cannot be used: {0}")]
    Trust(String),
    #[error("peers with the same roots would not believe the certificate: {0}")]
    NotBelieved(String),
}

/// Where an identity is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidFiles {
    /// PEM, the leaf first, without the root.
    pub chain: PathBuf,
    pub key: PathBuf,
    /// PEM: every root that is believed; the old one and the new one while one follows the other.
    pub bundle: PathBuf,
    /// PEM: revocation lists of the issuers, one after another; an issuer without a list revokes nothing.
    pub revoked: Option<PathBuf>,
}

/// The same as text.
#[derive(Debug, Clone, Copy)]
pub struct SvidPem<'a> {
    pub chain: &'a [u8],
    pub key: &'a [u8],
    pub bundle: &'a [u8],
    pub revoked: Option<&'a [u8]>,
}

/// The identity in use. Readers take it without a lock.
#[derive(Debug)]
pub struct OwnIdentity {
    id: SpiffeId,
    current: ArcSwapOption<Svid>,
    /// Counts those that were taken.
    taken: AtomicU64,
}

/// What became of an identity that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    Taken,
    /// The very same certificate and roots.
    Unchanged,
    /// It began and ends before the one in use: an old file that came back.
    Older,
}

const FILE_MAX: u64 = 1 << 20;

impl SvidFiles {
    /// Reads the three files; nothing of them is taken unless all of it is good.
    pub fn read(&self, own: &SpiffeId, now: SystemTime) -> Result<Svid, SvidError> {
        let read = |path: &PathBuf| {
            let failed = |source| SvidError::File { path: path.clone(), source };
            if std::fs::metadata(path).map_err(failed)?.len() > FILE_MAX {
                return Err(failed(std::io::Error::other("larger than 1 MiB")));
            }
            std::fs::read(path).map_err(failed)
        };
        let (chain, key, bundle) = (read(&self.chain)?, read(&self.key)?, read(&self.bundle)?);
        // A list that is named must be there: a security check, so it fails closed, and the identity in use stays.
        let revoked = self.revoked.as_ref().map(read).transpose()?;
        let pem = SvidPem { chain: &chain, key: &key, bundle: &bundle, revoked: revoked.as_deref() };
        Svid::from_pem(pem, own, now)
    }
}

impl Svid {
    pub fn from_pem(pem: SvidPem<'_>, own: &SpiffeId, now: SystemTime) -> Result<Self, SvidError> {
        let key = PrivateKeyDer::from_pem_slice(pem.key).map_err(|_| SvidError::NotPem { what: "key" })?;
        let revoked = pem.revoked.map_or_else(|| Ok(Vec::new()), lists)?;
        let (chain, roots) =
            (certificates(pem.chain, "certificate chain")?, certificates(pem.bundle, "bundle of roots")?);
        Self::new(chain, key, roots, revoked, own, now)
    }

    /// Nothing of it is taken unless all of it is good.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
        revoked: Vec<CertificateRevocationListDer<'static>>,
        own: &SpiffeId,
        now: SystemTime,
    ) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::NotPem { what: "certificate chain" })?;
        let id = svid_id(leaf, &[own.trust_domain()])?;
        if id != *own {
            return Err(SvidError::OtherWorkload { found: id, own: own.clone() });
        }
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| NotAnSvid::Unreadable)?;
        let moment = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let (not_before, not_after) =
            (moment(parsed.validity().not_before.timestamp()), moment(parsed.validity().not_after.timestamp()));
        let chains = Chains::new(&roots, &revoked)?;
        believe(&chain, &chains, now)?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(SvidError::Pair)?;
        Ok(Self { id, key: Arc::new(key), roots, revoked, chains, not_before, not_after })
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// For rustls, both ways.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// How peers' chains are judged.
    pub(crate) fn chains(&self) -> &Chains {
        &self.chains
    }

    /// What peers are looked up in.
    pub fn revoked(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.revoked
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// For the metric; negative once it is over.
    pub fn seconds_to_expiry(&self, now: SystemTime) -> i64 {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        self.not_after.duration_since(now).map_or_else(|past| -seconds(past.duration()), seconds)
    }

    /// When to ask for the next one: between 50 % and 70 % of its life, by a uniform `draw`, so that workloads which
    /// started together do not come back together.
    pub fn rotate_at(&self, draw: u64) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let jitter = life / 5 / 1000 * u32::try_from(draw % 1001).unwrap_or(0);
        self.not_before + life / 2 + jitter
    }
}

impl OwnIdentity {
    /// Nobody yet: until an identity is taken, nothing can be proven and no mTLS is spoken.
    pub fn new(id: SpiffeId) -> Self {
        Self { id, current: ArcSwapOption::empty(), taken: AtomicU64::new(0) }
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub fn current(&self) -> Option<Arc<Svid>> {
        self.current.load_full()
    }

    /// Another number for each identity that was taken.
    pub fn generation(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// What can be proven at this moment. Fails closed: an identity that is over proves nothing any more, and says so here
    /// rather than by alerts of peers. It is kept all the same, for status and for the roots by which the authority is asked.
    pub fn at(&self, now: SystemTime) -> Result<Arc<Svid>, PeerRefused> {
        let svid = self.current().ok_or(PeerRefused::NoIdentity)?;
        if now < svid.not_after { Ok(svid) } else { Err(PeerRefused::Expired) }
    }

    /// Takes `new` unless it would be a step back. What cannot be read never gets here, so the last valid identity stays.
    pub fn offer(&self, new: Svid, now: SystemTime) -> Offered {
        if let Some(current) = self.current.load().as_deref() {
            let is_same_leaf = current.key.cert.first() == new.key.cert.first();
            let is_same_trust = current.roots == new.roots && current.revoked == new.revoked;
            if is_same_leaf && current.key.cert == new.key.cert && is_same_trust {
                return Offered::Unchanged;
            }
            let is_step_back = new.not_after < current.not_after && new.not_before < current.not_before;
            if !is_same_leaf && is_step_back && current.is_valid(now) {
                return Offered::Older;
            }
        }
        self.current.store(Some(Arc::new(new)));
        self.taken.fetch_add(1, Relaxed);
        Offered::Taken
    }
}

fn lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, SvidError> {
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(SvidError::NotPem { what: "revocation list" })
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, SvidError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(SvidError::NotPem { what })
}

/// By the own roots, as peers do: a bundle without the root that signed this certificate is a roll-over gone wrong, and
/// found here rather than at the first handshake.
fn believe(chain: &[CertificateDer<'static>], chains: &Chains, now: SystemTime) -> Result<(), SvidError> {
    let (leaf, issuers) = chain.split_first().ok_or_else(|| SvidError::NotBelieved("it is empty".to_owned()))?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let verified = chains.client(leaf, issuers, UnixTime::since_unix_epoch(since));
    verified.map(drop).map_err(|error| SvidError::NotBelieved(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Root, START};

    const OWN: &str = "spiffe://corp/ns/pay/sa/api";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(START + seconds)
    }

    fn leaf(root: &Root, id: &str, from: u64) -> (String, String) {
        root.leaf_from(id, 1, from)
    }

    fn read(pair: &(String, String), bundle: &str, now: SystemTime) -> Result<Svid, SvidError> {
        let (chain, key) = (pair.0.as_bytes(), pair.1.as_bytes());
        Svid::from_pem(SvidPem { chain, key, bundle: bundle.as_bytes(), revoked: None }, &OWN.parse().unwrap(), now)
    }

    #[test]
    fn an_identity_is_taken_whole_or_not_at_all() {
        let (own, stranger) = (Root::new("own"), Root::new("stranger"));
        let good = leaf(&own, OWN, 0);
        let other_key = (good.0.clone(), leaf(&own, OWN, 0).1);
        for (pair, bundle, now, words) in [
            (good.clone(), own.pem(), at(1), "ok"),
            (good.clone(), stranger.pem() + &own.pem(), at(1), "ok"),
            (other_key, own.pem(), at(1), "do not belong together"),
            (good.clone(), stranger.pem(), at(1), "would not believe"),
            (good.clone(), own.pem(), at(1001), "would not believe"),
            (leaf(&own, OWN, 500), own.pem(), at(1), "would not believe"),
            (leaf(&own, "spiffe://corp/ns/pay/sa/web", 0), own.pem(), at(1), "this workload is"),
            (leaf(&own, "spiffe://else/ns/pay/sa/api", 0), own.pem(), at(1), "trust domain else"),
            ((String::new(), good.1.clone()), own.pem(), at(1), "certificate chain is not PEM"),
            ((good.0.clone(), String::new()), own.pem(), at(1), "key is not PEM"),
            (good.clone(), "junk".to_owned(), at(1), "bundle of roots is not PEM"),
        ] {
            let found = read(&pair, &bundle, now).map_or_else(|error| error.to_string(), |_| "ok".to_owned());
            assert!(found.contains(words), "{words}: {found}");
        }
    }

    #[test]
    fn rotation_falls_between_half_and_seven_tenths_of_its_life() {
        let own = Root::new("own");
        let svid = read(&leaf(&own, OWN, 0), &own.pem(), at(1)).unwrap();
        assert_eq!((svid.rotate_at(0), svid.rotate_at(1000)), (at(500), at(700)));
        for draw in [1, 17, 999, u64::MAX, u64::MAX / 3] {
            assert!((at(500)..=at(700)).contains(&svid.rotate_at(draw)), "{draw}");
        }
        assert_ne!(svid.rotate_at(1), svid.rotate_at(999));
        for (now, left) in [(0, 1000), (999, 1), (1000, 0), (1060, -60)] {
            assert_eq!(svid.seconds_to_expiry(at(now)), left, "{now}");
        }
        assert!(svid.is_valid(at(999)) && !svid.is_valid(at(1000)));
    }

    #[test]
    fn the_identity_in_use_goes_forward_through_a_root_roll_over_and_never_back() {
        let (old, new) = (Root::new("old"), Root::new("new"));
        let both = old.pem() + &new.pem();
        let (first, second) = (leaf(&old, OWN, 0), leaf(&new, OWN, 500));
        let own = OwnIdentity::new(OWN.parse().unwrap());
        assert!(own.current().is_none());
        let offer = |pair, bundle: &str, now| own.offer(read(pair, bundle, now).unwrap(), now);
        assert_eq!(offer(&first, &old.pem(), at(1)), Offered::Taken);
        assert_eq!(offer(&first, &old.pem(), at(2)), Offered::Unchanged);
        assert_eq!(offer(&first, &both, at(3)), Offered::Taken);
        assert_eq!(own.current().unwrap().roots().len(), 2);
        // The old root goes while the old leaf is in use: refused before it is offered, and nothing changes.
        assert!(read(&first, &new.pem(), at(4)).is_err());
        assert_eq!(offer(&second, &both, at(600)), Offered::Taken);
        assert_eq!(offer(&first, &both, at(610)), Offered::Older);
        // Of the same second, and shorter: whoever issued it again meant it.
        let short = new.leaf_between(OWN, 2, 500, 700);
        assert_eq!(offer(&short, &both, at(611)), Offered::Taken);
        assert_eq!(offer(&second, &new.pem(), at(620)), Offered::Taken);
        assert_eq!(own.current().unwrap().seconds_to_expiry(at(620)), 880);
        // Nothing valid is offered any more: the last one stays, proves what it can to its end, and nothing after.
        assert!(read(&second, &new.pem(), at(2000)).is_err() && own.current().is_some());
        assert!(own.at(at(1499)).is_ok());
        assert!(matches!(own.at(at(1500)), Err(PeerRefused::Expired)));
        assert!(matches!(OwnIdentity::new(OWN.parse().unwrap()).at(at(1)), Err(PeerRefused::NoIdentity)));
    }

    #[test]
    fn files_are_read_together() {
        let folder = tempfile::tempdir().unwrap();
        let files = SvidFiles {
            chain: folder.path().join("a.crt"),
            key: folder.path().join("a.key"),
            bundle: folder.path().join("bundle.crt"),
            revoked: Some(folder.path().join("revoked.crl")),
        };
        let (own, id) = (Root::new("own"), OWN.parse().unwrap());
        let pair = leaf(&own, OWN, 0);
        std::fs::write(&files.chain, &pair.0).unwrap();
        std::fs::write(&files.bundle, own.pem()).unwrap();
        assert!(matches!(files.read(&id, at(1)), Err(SvidError::File { path, .. }) if path == files.key));
        std::fs::write(&files.key, &pair.1).unwrap();
        // A list that is named and not there is no list that revokes nothing.
        let list = files.revoked.clone().unwrap();
        assert!(matches!(files.read(&id, at(1)), Err(SvidError::File { path, .. }) if path == list));
        std::fs::write(&list, "junk").unwrap();
        assert!(files.read(&id, at(1)).unwrap_err().to_string().contains("revocation list is not PEM"));
        std::fs::write(&list, own.revoking(&[])).unwrap();
        assert_eq!(files.read(&id, at(1)).unwrap().id(), &id);
        std::fs::write(&files.bundle, vec![b'x'; 2 << 20]).unwrap();
        assert!(files.read(&id, at(1)).unwrap_err().to_string().contains("larger than 1 MiB"));
    }
}
