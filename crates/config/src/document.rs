//! One configuration as a tree that knows its places, from however many files.
//!
//! `loader` reads the files, `lint` checks the tree against a schema, `reader` makes a spec of it.

use crate::{
    ContentHash, Path, Place, Report,
    loader::Loader,
    node::{Node, Span, Value},
    path::Segment,
    source::Sources,
};
use sha2::{Digest, Sha256};
use std::{
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

/// One configuration, from however many files.
#[derive(Debug, Clone)]
pub struct Document {
    pub(crate) root: Node,
    pub(crate) sources: Arc<Sources>,
    pub(crate) watched: Vec<PathBuf>,
    /// Some file is not TOML; what stands in it is a guess.
    pub(crate) torn: bool,
}

/// Which part of an entry to point at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Key,
    Value,
}

impl Default for Document {
    fn default() -> Self {
        Loader::default().finish().0
    }
}

impl Document {
    /// Reads `files` and what they include. Everything that is wrong with them goes to the report; what could be read is
    /// in the document.
    pub fn load(files: &[PathBuf]) -> (Self, Report) {
        let mut loader = Loader::default();
        for file in files {
            loader.file(file);
        }
        loader.finish()
    }

    /// A document from one text; for tests and for what never was a file.
    pub fn parse(name: &str, text: &str) -> (Self, Report) {
        let mut loader = Loader::default();
        loader.text(FilePath::new(name), text.to_owned());
        loader.finish()
    }

    /// The files whose change can change this document. A name with `*`, `?` or `[` is a pattern that later files can match.
    pub fn watched(&self) -> &[PathBuf] {
        &self.watched
    }

    /// The document as plain data.
    pub fn to_json(&self) -> serde_json::Value {
        self.root.to_json()
    }

    /// SHA-256 over what the document says: the same for the same content in other files, order or layout.
    pub fn hash(&self) -> ContentHash {
        // Objects of serde_json are sorted, so the text is canonical.
        ContentHash(Sha256::digest(self.to_json().to_string()).into())
    }

    /// Where the value at `at` stands; for what was not written, the nearest written parent.
    pub fn place(&self, at: &Path) -> Option<Place> {
        self.span(at, Target::Value).and_then(|span| self.sources.place(&span))
    }

    /// Where the key at `at` stands; for what was not written, the nearest written parent.
    pub fn place_of_key(&self, at: &Path) -> Option<Place> {
        self.span(at, Target::Key).and_then(|span| self.sources.place(&span))
    }

    /// Whether exactly this was written.
    pub fn has(&self, at: &Path) -> bool {
        self.node_at(at).is_some()
    }

    pub(crate) fn node_at(&self, at: &Path) -> Option<&Node> {
        at.segments().iter().try_fold(&self.root, |node, segment| child(node, segment).map(|(_, inner)| inner))
    }

    pub(crate) fn folder_of(&self, at: &Path) -> Option<PathBuf> {
        let span = self.span(at, Target::Value)?;
        self.sources.get(&span)?.path.parent().map(FilePath::to_owned)
    }

    pub(crate) fn span(&self, at: &Path, target: Target) -> Option<Span> {
        let mut node = &self.root;
        let mut key = None;
        for segment in at.segments() {
            let Some((span, inner)) = child(node, segment) else { return key };
            (key, node) = (Some(span.clone()), inner);
        }
        // A table's own span is its whole body: its key says more.
        match (target, &node.value) {
            (_, Value::Table(_)) | (Target::Key, _) => key,
            (Target::Value, _) => Some(node.span.clone()),
        }
    }
}

/// The child and the span that names it: its key, or for an item of an array itself.
fn child<'n>(node: &'n Node, segment: &Segment) -> Option<(&'n Span, &'n Node)> {
    match (segment, &node.value) {
        (Segment::Key(key), Value::Table(table)) => table.get(key).map(|entry| (&entry.key, &entry.node)),
        (Segment::Index(index), Value::Array(items)) => items.get(*index).map(|item| (&item.span, item)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_of_the_value_the_key_or_the_nearest_written_parent() {
        let (document, report) =
            Document::parse("a.toml", "[route.shop]\nhosts = [\"a\", \"b\"]\nrule.api.path = \"/ö\"\n");
        assert!(report.is_empty());
        let shop = Path::root().key("route").key("shop");
        let text = |place: Option<Place>| place.map(|place| place.to_string());
        for (at, value, key) in [
            (shop.key("hosts").key("x"), "a.toml:2:1", "a.toml:2:1"),
            (shop.key("hosts").index(1), "a.toml:2:15", "a.toml:2:15"),
            (shop.key("rule").key("api").key("path"), "a.toml:3:17", "a.toml:3:10"),
            (shop.key("upstream"), "a.toml:1:8", "a.toml:1:8"),
        ] {
            assert_eq!(text(document.place(&at)).as_deref(), Some(value), "{at}");
            assert_eq!(text(document.place_of_key(&at)).as_deref(), Some(key), "{at}");
        }
        assert_eq!(document.place(&Path::root()), None);
        assert!(document.has(&shop.key("hosts")) && !document.has(&shop.key("upstream")));
    }

    #[test]
    fn the_hash_is_of_the_content_and_not_of_its_layout() {
        let hash = |text: &str| Document::parse("a.toml", text).0.hash();
        assert_eq!(hash("a.b = 1\nc = 2"), hash("# x\nc = 2\n[a]\nb = 1"));
        assert_ne!(hash("a = 1"), hash("a = 2"));
    }
}
