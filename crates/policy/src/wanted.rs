//! Profiles that a level of the configuration asks for by name, and where it says so. Compiled by whoever has the profiles.

use portcullis_config::Path;

/// Names from the outermost level to the innermost. Levels accumulate: each of them is applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted(Vec<(String, Path)>);

impl Wanted {
    /// The same name twice is wanted once.
    pub(crate) fn add(&mut self, name: &str, at: Path) {
        if !self.names().any(|known| known == name) {
            self.0.push((name.to_owned(), at));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.0.iter().map(|(name, at)| (name.as_str(), at))
    }

    /// Empties it; how many there were.
    pub(crate) fn drop_all(&mut self) -> usize {
        std::mem::take(&mut self.0).len()
    }
}
