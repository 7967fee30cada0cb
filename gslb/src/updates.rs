//! Changes that were sent to zones, kept over reloads and restarts, and requests that wait for their turn.

use crate::{
    Name,
    update::{Overlay, RecordKey},
    zone_file::{Record, ZoneReader},
};
use portcullis_config::{Context, Path};
use std::{
    collections::{HashMap, VecDeque},
    fmt::{self, Write as _},
    io::Write as _,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Of all zones. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Updates(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    folder: Option<PathBuf>,
    /// `None`: there is nothing on disk.
    overlays: Mutex<HashMap<Name, Option<Arc<Overlay>>>>,
    queue: Mutex<VecDeque<Job>>,
    wake: Notify,
}

/// Takes the reply to where the request came from.
pub(crate) type ReplyTo = Box<dyn FnOnce(Vec<u8>) + Send>;

/// A request of somebody who may send one.
pub(crate) struct Job {
    pub(crate) octets: Vec<u8>,
    pub(crate) client: IpAddr,
    pub(crate) reply: ReplyTo,
}

/// Requests that wait; who sends more is told to come again.
const QUEUE_MAX: usize = 256;

impl Updates {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner { folder, ..Inner::default() }))
    }

    /// What was sent to a zone, by this process or an earlier one.
    pub(crate) fn get(&self, apex: &Name) -> Result<Option<Arc<Overlay>>, String> {
        let mut overlays = lock(&self.0.overlays);
        if let Some(overlay) = overlays.get(apex) {
            return Ok(overlay.clone());
        }
        let overlay = self.read(apex)?.map(Arc::new);
        overlays.insert(apex.clone(), overlay.clone());
        Ok(overlay)
    }

    /// Written down first: RFC 2136 §3.5 wants a change that was confirmed to outlive a crash.
    pub(crate) fn put(&self, apex: &Name, overlay: Option<Arc<Overlay>>) -> std::io::Result<()> {
        self.write(apex, overlay.as_deref())?;
        lock(&self.0.overlays).insert(apex.clone(), overlay);
        Ok(())
    }

    /// Gives the job back when too many wait.
    pub(crate) fn push(&self, job: Job) -> Result<(), Job> {
        let mut queue = lock(&self.0.queue);
        if queue.len() >= QUEUE_MAX {
            return Err(job);
        }
        queue.push_back(job);
        drop(queue);
        self.0.wake.notify_one();
        Ok(())
    }

    /// The next of those that wait.
    pub(crate) async fn next(&self) -> Job {
        loop {
            let job = lock(&self.0.queue).pop_front();
            match job {
                Some(job) => return job,
                None => self.0.wake.notified().await,
            }
        }
    }

    fn file(&self, apex: &Name) -> Option<PathBuf> {
        Some(self.0.folder.as_ref()?.join(format!("{}.updates", data_encoding::HEXLOWER.encode(apex.as_wire()))))
    }

    fn read(&self, apex: &Name) -> Result<Option<Overlay>, String> {
        let Some(file) = self.file(apex) else { return Ok(None) };
        let text = match std::fs::read_to_string(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| format!("{}: {error}", file.display()))?,
        };
        let wrong = || format!("{} cannot be read: repair or remove it", file.display());
        let mut lines = text.lines();
        let serial = lines.next().and_then(|line| line.strip_prefix("serial ")?.parse().ok()).ok_or_else(wrong)?;
        let of = |sign: &str| {
            let own = text.lines().filter_map(|line| line.strip_prefix(sign)).map(str::to_owned);
            records(apex, &own.collect::<Vec<_>>())
        };
        let (removed, added) = (of("- ").ok_or_else(wrong)?, of("+ ").ok_or_else(wrong)?);
        let key = |record: &Record| (record.owner.clone(), record.of_type, record.rdata.clone());
        Ok(Some(Overlay {
            removed: removed.iter().map(key).collect(),
            added: added.iter().map(|record| (key(record), record.ttl)).collect(),
            serial,
        }))
    }

    /// Beside the file and renamed: a crash leaves the old changes or the new ones.
    fn write(&self, apex: &Name, overlay: Option<&Overlay>) -> std::io::Result<()> {
        let Some(file) = self.file(apex) else { return Ok(()) };
        let Some(overlay) = overlay else {
            return match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        if let Some(folder) = &self.0.folder {
            std::fs::create_dir_all(folder)?;
        }
        let mut text = format!("serial {}\n", overlay.serial);
        let mut line = |sign: char, (owner, of_type, rdata): &RecordKey, ttl: u32| {
            // As RFC 3597 §5 writes any type: read back without loss.
            let data = data_encoding::HEXUPPER.encode(rdata);
            _ = writeln!(text, "{sign} {owner} {ttl} IN TYPE{} \\# {} {data}", of_type.0, rdata.len());
        };
        overlay.removed.iter().for_each(|key| line('-', key, 0));
        overlay.added.iter().for_each(|(key, ttl)| line('+', key, *ttl));
        let beside = file.with_extension("updates.new");
        let mut written = std::fs::File::create(&beside)?;
        written.write_all(text.as_bytes())?;
        written.sync_all()?;
        std::fs::rename(beside, file)
    }
}

fn records(apex: &Name, lines: &[String]) -> Option<Vec<Record>> {
    let mut scratch = Context::default();
    let mut reader = ZoneReader::new(apex, Path::root(), &mut scratch);
    reader.lines(lines, &Path::root(), None);
    let records = reader.finish();
    (!scratch.finish().0.has_errors()).then_some(records)
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job(of {})", self.client)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
