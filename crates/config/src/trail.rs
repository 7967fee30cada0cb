//! The address of a value while the tree is walked: borrowed links, made into a [`Path`] only when there is a mistake to name.

use crate::Path;
use std::fmt;

/// One step below `parent`.
#[derive(Clone, Copy)]
pub(crate) enum Trail<'t> {
    Root,
    Key(&'t Trail<'t>, &'t str),
    Index(&'t Trail<'t>, usize),
}

impl<'t> Trail<'t> {
    pub(crate) fn key(&'t self, key: &'t str) -> Self {
        Self::Key(self, key)
    }

    pub(crate) fn index(&'t self, index: usize) -> Self {
        Self::Index(self, index)
    }

    pub(crate) fn path(&self) -> Path {
        match self {
            Self::Root => Path::root(),
            Self::Key(parent, key) => parent.path().key(key),
            Self::Index(parent, index) => parent.path().index(*index),
        }
    }

    pub(crate) fn is_root(&self) -> bool {
        matches!(self, Self::Root)
    }

    /// The keys from the end to the root, without indices.
    pub(crate) fn keys_upwards(&self) -> impl Iterator<Item = &'t str> {
        let mut at = Some(*self);
        std::iter::from_fn(move || {
            loop {
                match at? {
                    Trail::Root => at = None,
                    Trail::Key(parent, key) => {
                        at = Some(*parent);
                        return Some(key);
                    }
                    Trail::Index(parent, _) => at = Some(*parent),
                }
            }
        })
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().fmt(f)
    }
}
