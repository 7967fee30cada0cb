//! Notices that configuration files changed: in place, by rename, or by Kubernetes' symlink swap.
//!
//! Folders are watched rather than files, because editors and kubelets replace files; whether anything *changed* is then
//! decided by looking at the contents, so that noise causes no reload. A slow poll covers what has no events (NFS).

use crate::{
    fingerprint::{Change, Fingerprints},
    loader::is_pattern,
    unfinished::Unfinished,
};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::AccessKind, event::AccessMode};
use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{sync::mpsc, time::Instant};

/// Watches a set of files that can be replaced while running.
#[derive(Debug)]
pub struct Watcher {
    events: mpsc::Receiver<()>,
    notifier: Option<RecommendedWatcher>,
    /// Watched folders by what they are on disk: one that was removed and made anew has to be watched anew.
    folders: BTreeMap<PathBuf, (u64, u64)>,
    files: Vec<PathBuf>,
    known: Arc<Mutex<Known>>,
    pace: Pace,
    /// An event was taken and the files were not looked at since.
    restless: bool,
    unfinished: Unfinished,
}

/// What a reader of configuration found out about, whether or not it could be used.
#[derive(Debug, Clone)]
pub struct Watched {
    /// A name with `*`, `?` or `[` is a pattern.
    pub files: Vec<PathBuf>,
    /// When the reading began: what was written since may not be in what was read.
    pub read: SystemTime,
}

/// How long a change may take to be noticed.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Writers finish within this; a burst of events is one change.
    pub quiet: Duration,
    /// A folder that is never quiet is looked at after this all the same.
    pub longest: Duration,
    /// How often to look without any event.
    pub poll: Duration,
    /// A file that is open for writing is waited for, this long at most.
    pub unfinished: Duration,
}

/// Shared with the thread that reads the files: a look that nobody waited for must not swallow its finding.
#[derive(Debug, Default)]
struct Known {
    prints: Fingerprints,
    changed: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(200),
            longest: Duration::from_secs(2),
            poll: Duration::from_secs(5),
            unfinished: Duration::from_secs(30),
        }
    }
}

impl Watcher {
    /// Of files that are read after this. Without events from the kernel (too many watches in use, say) the poll alone serves.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self::with_pace(files, Pace::default())
    }

    pub fn with_pace(files: Vec<PathBuf>, pace: Pace) -> Self {
        let (sender, events) = mpsc::channel(1);
        let unfinished = Unfinished::default();
        let noted = unfinished.clone();
        let notifier = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = &event {
                noted.note(event);
            }
            // Our own looking opens and reads; taking that for news would never end.
            let is_news = match event.as_ref().map(|event| event.kind) {
                Ok(EventKind::Access(kind)) => kind == AccessKind::Close(AccessMode::Write),
                Ok(_) | Err(_) => true,
            };
            if is_news {
                // Full means that a wake-up is already on its way.
                let _ = sender.try_send(());
            }
        });
        if let Err(error) = &notifier {
            tracing::warn!(%error, "no file events: configuration is polled");
        }
        Self::start(files, pace, notifier.ok(), events, unfinished)
    }

    /// Only looks now and then; for file systems without events.
    pub fn polling(files: Vec<PathBuf>, pace: Pace) -> Self {
        Self::start(files, pace, None, mpsc::channel(1).1, Unfinished::default())
    }

    fn start(
        files: Vec<PathBuf>,
        pace: Pace,
        notifier: Option<RecommendedWatcher>,
        events: mpsc::Receiver<()>,
        unfinished: Unfinished,
    ) -> Self {
        let (folders, known) = (BTreeMap::new(), Arc::default());
        let mut watcher =
            Self { events, notifier, folders, files: Vec::new(), known, pace, restless: false, unfinished };
        watcher.files = files;
        watcher.follow();
        let _ = lock(&watcher.known).prints.track(&watcher.files, SystemTime::UNIX_EPOCH);
        watcher
    }

    /// Of files that were read before.
    pub fn of(watched: Watched) -> Self {
        let mut watcher = Self::new(Vec::new());
        watcher.watch(watched);
        watcher
    }

    /// From now on these files count. Of a file that was watched before, a change since it was last looked at still counts; of
    /// another one a change since it was read.
    pub fn watch(&mut self, Watched { files, read }: Watched) {
        // Folders first: a change between the two is then an event, not a loss.
        self.files = files;
        self.follow();
        let mut known = lock(&self.known);
        known.changed |= known.prints.track(&self.files, read) == Change::Something;
    }

    /// Resolves when the contents have changed and have been quiet for a moment. Cancel-safe.
    pub async fn changed(&mut self) {
        // A look of a wait that was given up may have found something.
        while !std::mem::take(&mut lock(&self.known).changed) {
            self.settled().await;
            self.look().await;
            self.restless = false;
        }
        self.follow();
    }

    /// After an event and the quiet that follows it, or when it is time to poll.
    async fn settled(&mut self) {
        if self.notifier.is_none() {
            return tokio::time::sleep(self.pace.poll).await;
        }
        if !self.restless && tokio::time::timeout(self.pace.poll, self.events.recv()).await.is_err() {
            return;
        }
        self.restless = true;
        let begin = Instant::now();
        let latest = begin + self.pace.longest;
        loop {
            let quiet = Instant::now() + self.pace.quiet;
            let is_open = self.unfinished.is_any_of(&self.files);
            let until = if is_open { quiet.min(begin + self.pace.unfinished) } else { quiet.min(latest) };
            if matches!(tokio::time::timeout_at(until, self.events.recv()).await, Ok(Some(()))) {
                continue;
            }
            if !is_open {
                return;
            }
            if Instant::now() >= begin + self.pace.unfinished {
                // An end may have been missed, and whoever is that slow is told by the next change.
                return self.unfinished.forget();
            }
        }
    }

    async fn look(&self) {
        let known = self.known.clone();
        let look = move || {
            let mut known = lock(&known);
            known.changed |= known.prints.look() == Change::Something;
        };
        // It fails only while the runtime shuts down.
        let _ = tokio::task::spawn_blocking(look).await;
    }

    /// Watches the folders that the files are in now.
    fn follow(&mut self) {
        let Some(notifier) = &mut self.notifier else { return };
        let mut wanted = BTreeMap::new();
        for folder in self.files.iter().flat_map(|file| folders_of(file)) {
            if let Ok(metadata) = std::fs::metadata(&folder) {
                wanted.insert(folder, (metadata.dev(), metadata.ino()));
            }
        }
        let before = std::mem::take(&mut self.folders);
        for (folder, identity) in &before {
            if wanted.get(folder) != Some(identity) {
                // A folder that is gone has taken its watch along.
                let _ = notifier.unwatch(folder);
            }
        }
        for (folder, identity) in wanted {
            if before.get(&folder) == Some(&identity) {
                self.folders.insert(folder, identity);
                continue;
            }
            match notifier.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.folders.insert(folder, identity)),
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "no file events from this folder: it is polled")
                }
            }
        }
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folders in which something can happen that changes what a name leads to.
fn folders_of(file: &Path) -> Vec<PathBuf> {
    if is_pattern(file) && std::fs::symlink_metadata(file).is_err() {
        return folders_of_pattern(file);
    }
    let mut folders = vec![parent(file)];
    // `..data -> ..2026_11_20` and `conf -> releases/7`: the link is swapped in the folder that it stands in.
    let links = file.ancestors().filter(|part| std::fs::symlink_metadata(part).is_ok_and(|data| data.is_symlink()));
    folders.extend(links.map(parent));
    if let Ok(real) = file.canonicalize() {
        folders.push(parent(&real));
    }
    if file.is_dir() {
        folders.push(file.to_owned());
    }
    folders
}

/// `conf.d/*/*.toml`: `conf.d` and each folder in it.
fn folders_of_pattern(pattern: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for folder in pattern.ancestors().skip(1) {
        if !is_pattern(folder) {
            folders.push(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() });
            break;
        }
        let found = glob::glob(&folder.to_string_lossy()).into_iter().flatten().flatten();
        folders.extend(found.filter(|found| found.is_dir()));
    }
    folders
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}
