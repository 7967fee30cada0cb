//! Notices that configuration files changed: in place, by rename, or by Kubernetes' symlink swap.
//!
//! Folders are watched rather than files, because editors and kubelets replace files; whether anything *changed* is then
//! decided by looking at the contents, so that noise causes no reload. A slow poll covers what has no events (NFS).

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::{
    collections::{BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::mpsc;

/// Watches a set of files that can be replaced while running.
#[derive(Debug)]
pub struct Watcher {
    events: mpsc::Receiver<()>,
    notifier: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    files: Vec<PathBuf>,
    fingerprint: u64,
}

/// Writers finish within this; a burst of events is one change.
const QUIET: Duration = Duration::from_millis(150);
/// After this long a change is taken up even while events go on.
const BURST: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_secs(5);

impl Watcher {
    /// Without events from the kernel (too many watches in use, say) the poll alone serves.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let notifier = notify::recommended_watcher(move |_| {
            // Full means that a wake-up is already on its way.
            let _ = sender.try_send(());
        });
        if let Err(error) = &notifier {
            tracing::warn!(%error, "no file events: configuration is polled");
        }
        let mut watcher =
            Self { events, notifier: notifier.ok(), folders: BTreeSet::new(), files: Vec::new(), fingerprint: 0 };
        watcher.watch(files);
        watcher
    }

    /// From now on these files count. What they hold now is the known state.
    pub fn watch(&mut self, files: Vec<PathBuf>) {
        let folders: BTreeSet<PathBuf> = files.iter().flat_map(|file| watched_folders(file)).collect();
        if let Some(notifier) = &mut self.notifier {
            for gone in self.folders.difference(&folders) {
                let _ = notifier.unwatch(gone);
            }
            for new in folders.difference(&self.folders) {
                let _ = notifier.watch(new, RecursiveMode::NonRecursive);
            }
        }
        self.fingerprint = fingerprint(&files);
        self.folders = folders;
        self.files = files;
    }

    /// Resolves when the contents have changed and have been quiet for a moment. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            let _ = tokio::time::timeout(POLL, self.events.recv()).await;
            // Quiet, but not for ever: a log file in the same folder never is.
            let burst = async {
                while tokio::time::timeout(QUIET, self.events.recv()).await.is_ok_and(|event| event.is_some()) {}
            };
            let _ = tokio::time::timeout(BURST, burst).await;
            let now = fingerprint(&self.files);
            if now != self.fingerprint {
                self.fingerprint = now;
                return;
            }
        }
    }
}

/// The folder of the file, and the folders that its symlinks lead through.
fn watched_folders(file: &Path) -> Vec<PathBuf> {
    let folder = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![if file.is_dir() { file.to_owned() } else { folder(file) }];
    if let Ok(real) = file.canonicalize() {
        folders.push(folder(&real));
    }
    folders
}

/// Contents of files and names in folders. Hashing some megabytes once a change is cheaper than a wrong guess from times.
fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        if file.is_dir() {
            let mut names: Vec<_> =
                std::fs::read_dir(file).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            names.hash(&mut hasher);
        } else {
            std::fs::read(file).ok().hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    async fn fires(watcher: &mut Watcher) -> bool {
        tokio::time::timeout(Duration::from_secs(8), watcher.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn writes_renames_and_symlink_swaps_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.toml"), "1").unwrap();
        fs::create_dir(at("v1")).unwrap();
        fs::create_dir(at("v2")).unwrap();
        fs::write(at("v1/b.toml"), "1").unwrap();
        fs::write(at("v2/b.toml"), "2").unwrap();
        symlink("v1", at("..data")).unwrap();
        symlink("..data/b.toml", at("b.toml")).unwrap();
        let mut watcher = Watcher::new(vec![at("a.toml"), at("b.toml")]);

        fs::write(at("a.toml"), "2").unwrap();
        assert!(fires(&mut watcher).await, "write in place");
        fs::write(at("a.new"), "3").unwrap();
        fs::rename(at("a.new"), at("a.toml")).unwrap();
        assert!(fires(&mut watcher).await, "rename and replace");
        symlink("v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(fires(&mut watcher).await, "symlink swap");
        fs::remove_file(at("a.toml")).unwrap();
        assert!(fires(&mut watcher).await, "removal");
    }

    #[tokio::test]
    async fn what_does_not_change_the_contents_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let mut watcher = Watcher::new(vec![file.clone()]);
        fs::write(&file, "1").unwrap();
        fs::write(folder.path().join("other"), "x").unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(600), watcher.changed()).await.is_err());
    }
}
