//! Zones that are fetched from another server: where from, what was fetched, and until when it holds. Asks nobody; `fetch` does.

use crate::{
    Name,
    spec::SecondarySpec,
    transfer_in::soa_numbers,
    zone_file::{Record, ZoneReader},
};
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::UNIX_EPOCH,
};
use tokio::sync::Notify;

/// Where a zone comes from.
#[derive(Debug)]
pub(crate) struct SecondaryPlan {
    pub(crate) of: Vec<SocketAddr>,
    pub(crate) key: Option<ObjectName>,
    /// Seconds since 1970 after which it is not answered from (RFC 1035 §3.3.13); 0: it was never fetched.
    pub(crate) expires: Arc<AtomicU32>,
}

/// Zones that were fetched. Outlives reloads; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fetched(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Where they are kept over restarts.
    folder: Option<PathBuf>,
    zones: Mutex<HashMap<Name, Arc<FetchedZone>>>,
    /// Those that a primary said have changed.
    notified: Mutex<HashSet<Name>>,
    wake: Notify,
}

#[derive(Debug)]
pub(crate) struct FetchedZone {
    pub(crate) records: Vec<Record>,
    pub(crate) serial: u32,
    pub(crate) refresh: u32,
    pub(crate) retry: u32,
    expire: u32,
    expires: Arc<AtomicU32>,
}

const PRIMARIES_MAX: usize = 16;

impl SecondaryPlan {
    pub(crate) fn compile(
        spec: &SecondarySpec,
        known: &[&str],
        zone: Option<&FetchedZone>,
        at: &Path,
        cx: &mut Context,
    ) -> Self {
        if spec.of.is_empty() || spec.of.len() > PRIMARIES_MAX {
            cx.error(&at.key("of"), format!("a zone is fetched from one to {PRIMARIES_MAX} servers"));
        }
        if let Some(key) = spec.key.as_ref().filter(|key| !known.contains(&key.as_str())) {
            cx.undefined(&at.key("key"), "tsig", key.as_str(), known.iter().copied());
        }
        let expires = zone.map_or_else(Arc::default, |zone| zone.expires.clone());
        Self { of: spec.of.clone(), key: spec.key.clone(), expires }
    }

    pub(crate) fn holds_for(&self, now: u32) -> u32 {
        self.expires.load(Relaxed).saturating_sub(now)
    }

    pub(crate) fn has_expired(&self, now: u32) -> bool {
        self.holds_for(now) == 0
    }

    /// RFC 1996 §3.11: word of anybody else is not taken.
    pub(crate) fn is_primary(&self, client: IpAddr) -> bool {
        self.of.iter().any(|primary| primary.ip() == client)
    }
}

impl FetchedZone {
    /// `None`: without a SOA it is no zone.
    fn new(apex: &Name, records: Vec<Record>, checked: u32) -> Option<Self> {
        let soa = records.iter().find(|record| record.owner == *apex && soa_numbers(record).is_some())?;
        let [serial, refresh, retry, expire, _] = soa_numbers(soa)?;
        let expires = Arc::new(AtomicU32::new(checked.saturating_add(expire)));
        Some(Self { records, serial, refresh, retry, expire, expires })
    }

    pub(crate) fn soa(&self) -> Option<&Record> {
        self.records.iter().find(|record| soa_numbers(record).is_some())
    }

    /// The primary has nothing newer.
    pub(crate) fn confirm(&self, now: u32) {
        self.expires.store(now.saturating_add(self.expire), Relaxed);
    }
}

impl Fetched {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner { folder, ..Inner::default() }))
    }

    /// What was fetched last, in this process or an earlier one.
    pub(crate) fn get(&self, apex: &Name) -> Option<Arc<FetchedZone>> {
        let mut zones = lock(&self.0.zones);
        if let Some(zone) = zones.get(apex) {
            return Some(zone.clone());
        }
        let zone = Arc::new(self.read(apex)?);
        zones.insert(apex.clone(), zone.clone());
        Some(zone)
    }

    pub(crate) fn put(&self, apex: &Name, records: Vec<Record>, now: u32) -> bool {
        let Some(zone) = FetchedZone::new(apex, records, now) else { return false };
        // Availability: what cannot be kept is served all the same.
        if let Err(error) = self.write(apex, &zone.records) {
            tracing::warn!(zone = %apex, %error, "a fetched zone cannot be kept over a restart");
        }
        lock(&self.0.zones).insert(apex.clone(), Arc::new(zone));
        true
    }

    pub(crate) fn notify(&self, apex: Name) {
        lock(&self.0.notified).insert(apex);
        self.0.wake.notify_one();
    }

    pub(crate) fn take_notified(&self) -> HashSet<Name> {
        std::mem::take(&mut *lock(&self.0.notified))
    }

    pub(crate) async fn notified(&self) {
        self.0.wake.notified().await;
    }

    fn file(&self, apex: &Name) -> Option<PathBuf> {
        // Of letters that no name of a file can be hurt by.
        Some(self.0.folder.as_ref()?.join(format!("{}.zone", data_encoding::HEXLOWER.encode(apex.as_wire()))))
    }

    fn read(&self, apex: &Name) -> Option<FetchedZone> {
        let file = self.file(apex)?;
        let text = std::fs::read_to_string(&file).ok()?;
        let checked = std::fs::metadata(&file).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let mut scratch = Context::default();
        let mut reader = ZoneReader::new(apex, Path::root(), &mut scratch);
        reader.lines(&[text], &Path::root(), None);
        let records = reader.finish();
        let whole = !scratch.finish().0.has_errors();
        // The cast holds until 2106.
        whole.then(|| FetchedZone::new(apex, records, checked.as_secs() as u32)).flatten()
    }

    /// Beside the file and renamed: a crash leaves the old zone or the new one.
    fn write(&self, apex: &Name, records: &[Record]) -> std::io::Result<()> {
        let Some(file) = self.file(apex) else { return Ok(()) };
        if let Some(folder) = &self.0.folder {
            std::fs::create_dir_all(folder)?;
        }
        let mut text = String::with_capacity(records.len() * 64);
        for Record { owner, of_type, ttl, rdata, .. } in records {
            // As RFC 3597 §5 writes any type: read back without loss.
            let data = data_encoding::HEXUPPER.encode(rdata);
            _ = writeln!(text, "{owner} {ttl} IN TYPE{} \\# {} {data}", of_type.0, rdata.len());
        }
        let beside = file.with_extension("new");
        let mut written = std::fs::File::create(&beside)?;
        written.write_all(text.as_bytes())?;
        written.sync_all()?;
        std::fs::rename(beside, file)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
