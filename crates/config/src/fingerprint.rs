//! What files hold, remembered, so that a change is told from noise. Reads only what its metadata says may have changed.

use crate::loader::is_pattern;
use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fs::Metadata,
    hash::{Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The contents of a set of files, as they were when last looked at.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints(BTreeMap<PathBuf, Print>);

#[derive(Debug, Clone, PartialEq)]
enum Print {
    Absent,
    /// The names in a folder, or those that match a pattern.
    Names(u64),
    File {
        content: u64,
        stat: Stat,
        looked: SystemTime,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Clocks of file systems are coarse: two writes within this of each other can leave the same times.
const RACY: Duration = Duration::from_secs(2);

impl Fingerprints {
    /// From now on these files count. What is known of them stays known, so that a change since then is still seen. Whether
    /// one of the others was written after `read`, when their reader began.
    pub(crate) fn track(&mut self, files: &[PathBuf], read: SystemTime) -> Change {
        let mut before = std::mem::take(&mut self.0);
        let mut change = Change::Nothing;
        for file in files {
            let print = before.remove(file).unwrap_or_else(|| {
                let print = Print::of(file, None);
                if print.is_later_than(read) || has_more(file, files) {
                    change = Change::Something;
                }
                print
            });
            self.0.insert(file.clone(), print);
        }
        change
    }

    /// Looks again. Whether anything is different from the last look.
    pub(crate) fn look(&mut self) -> Change {
        let mut change = Change::Nothing;
        for (file, print) in &mut self.0 {
            let now = Print::of(file, Some(print));
            if !now.same(print) {
                change = Change::Something;
            }
            *print = now;
        }
        change
    }
}

/// Whether contents changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    Something,
}

impl Print {
    fn of(file: &Path, before: Option<&Self>) -> Self {
        let looked = SystemTime::now();
        let Ok(metadata) = std::fs::metadata(file) else {
            return if is_pattern(file) { Self::Names(matching(file)) } else { Self::Absent };
        };
        if metadata.is_dir() {
            return Self::Names(names(file));
        }
        let stat = Stat::of(&metadata);
        if let Some(Self::File { content, stat: known, looked: then }) = before
            && *known == stat
            && then.duration_since(stat.latest()).is_ok_and(|age| age > RACY)
        {
            return Self::File { content: *content, stat, looked: *then };
        }
        match std::fs::read(file) {
            Ok(bytes) => Self::File { content: hash(&bytes), stat, looked },
            Err(_) => Self::Absent,
        }
    }

    /// Clocks of file systems go by ticks, up to 10 ms behind ours.
    fn is_later_than(&self, read: SystemTime) -> bool {
        match self {
            Self::File { stat, .. } => stat.latest() + Duration::from_millis(10) > read,
            Self::Absent | Self::Names(_) => false,
        }
    }

    /// Times and inodes do not count: a file that was written anew with the same content has not changed.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { content: one, .. }, Self::File { content: two, .. }) => one == two,
            (Self::Names(one), Self::Names(two)) => one == two,
            (Self::Absent, Self::Absent) => true,
            (Self::File { .. } | Self::Names(_) | Self::Absent, _) => false,
        }
    }
}

impl Stat {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn latest(&self) -> SystemTime {
        let (seconds, nanos) = self.modified.max(self.changed);
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
        SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// A pattern stands in a list together with what it led to when it was read.
fn has_more(pattern: &Path, read: &[PathBuf]) -> bool {
    let is_new = |found: PathBuf| found.is_file() && !read.contains(&found);
    is_pattern(pattern) && std::fs::metadata(pattern).is_err() && matches_of(pattern).any(is_new)
}

fn names(folder: &Path) -> u64 {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    hash(&names)
}

fn matches_of(pattern: &Path) -> impl Iterator<Item = PathBuf> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
    glob::glob_with(&pattern.to_string_lossy(), options).into_iter().flatten().flatten()
}

fn matching(pattern: &Path) -> u64 {
    hash(&matches_of(pattern).collect::<Vec<_>>())
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
