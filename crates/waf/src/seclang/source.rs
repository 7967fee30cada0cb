//! Where rule text comes from: the list a caller gives, and the files it names.
//!
//! Reading goes through [`Files`], so that the gateway can watch what was read and tests need no disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// One input of a compilation, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A rule file; `*` and `?` in the last part name several, taken in byte order.
    File(PathBuf),
    /// Text given directly; the name stands in messages.
    Text {
        /// What to call it in messages.
        name: String,
        /// SecLang.
        text: String,
    },
}

/// Reads rule and data files.
pub trait Files {
    /// The bytes of one file.
    ///
    /// # Errors
    /// What the file system said.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The files a pattern names, sorted; the last part of the path may hold `*` and `?`.
    ///
    /// # Errors
    /// What the file system said.
    fn list(&self, pattern: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn list(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str())) else {
            return Ok(Vec::new());
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|entry| wildcard(name.as_bytes(), entry.as_bytes())) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Files held in memory: tests, and rule sets built into the program.
#[derive(Debug, Clone, Default)]
pub struct InMemory {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl InMemory {
    /// No files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one file.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.into(), bytes.into());
        self
    }
}

impl Files for InMemory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn list(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let matches =
            |path: &&PathBuf| wildcard(pattern.as_os_str().as_encoded_bytes(), path.as_os_str().as_encoded_bytes());
        Ok(self.files.keys().filter(matches).cloned().collect())
    }
}

/// `*` stands for any run of bytes but `/`, `?` for one.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if wildcard(rest, text) => true,
        (Some((b'*', _)), Some((byte, tail))) if *byte != b'/' => wildcard(pattern, tail),
        (Some((b'?', rest)), Some((byte, tail))) if *byte != b'/' => wildcard(rest, tail),
        (Some((wanted, rest)), Some((byte, tail))) if wanted == byte && *wanted != b'*' => wildcard(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stays_within_one_folder() {
        let cases = [
            ("a/*.conf", "a/x.conf", true),
            ("a/*.conf", "a/b/x.conf", false),
            ("a/?.conf", "a/x.conf", true),
            ("a/*-before.conf", "a/wordpress-before.conf", true),
            ("a/*-before.conf", "a/wordpress-after.conf", false),
            ("*", "", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(wildcard(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn memory_lists_in_order() {
        let files = InMemory::new().with("r/b.conf", "").with("r/a.conf", "").with("r/a.data", "");
        assert_eq!(files.list(Path::new("r/*.conf")).unwrap(), [PathBuf::from("r/a.conf"), "r/b.conf".into()]);
    }
}
