//! How a transaction holds its rule set: borrowed, or shared with all others.

use std::ops::Deref;
use std::sync::Arc;

/// A reference or a share.
#[derive(Debug)]
pub(crate) enum Held<'h, T> {
    Borrowed(&'h T),
    Shared(Arc<T>),
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Borrowed(borrowed) => borrowed,
            Self::Shared(shared) => shared,
        }
    }
}
