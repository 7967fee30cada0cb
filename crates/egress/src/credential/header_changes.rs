//! What is done to the fields of one request: removals first, then what is set.

use super::Secret;

/// Values are secrets; names are of configuration or of this crate.
#[derive(Debug, Clone, Default)]
pub struct HeaderChanges {
    remove: Vec<String>,
    set: Vec<(String, Secret)>,
}

impl HeaderChanges {
    /// Fields to be removed, all of each name, in lower case.
    pub fn removals(&self) -> impl Iterator<Item = &str> {
        self.remove.iter().map(String::as_str)
    }

    /// Fields to be set after that.
    pub fn additions(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.set.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if !self.remove.iter().any(|have| have == name) {
            self.remove.push(name.to_owned());
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: Secret) {
        self.remove(name);
        self.set.push((name.to_owned(), value));
    }

    #[cfg(test)]
    pub(crate) fn value_of(&self, name: &str) -> Option<&[u8]> {
        self.set.iter().find(|(have, _)| have == name).map(|(_, value)| value.expose())
    }
}
