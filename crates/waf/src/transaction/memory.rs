//! The memory of a transaction, kept by each thread for the next one.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::evaluate::Workshop;
use super::facts::Facts;
use super::state::State;
use crate::program::Program;

/// Memories a thread keeps; more transactions than this at once allocate their own.
const KEPT: usize = 64;

/// A memory that has grown beyond this is given back.
const KEPT_BYTES: usize = 1 << 18;

/// All that a transaction needs to grow.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(super) facts: Facts,
    pub(super) state: State,
    pub(super) workshop: Workshop,
}

thread_local! {
    #[allow(clippy::vec_box, reason = "the boxes are what is handed out")]
    static POOL: RefCell<Vec<Box<Memory>>> = const { RefCell::new(Vec::new()) };
}

/// A memory in use; it goes back when this is dropped.
#[derive(Debug)]
pub(super) struct Lent(Option<Box<Memory>>);

impl Lent {
    /// One that is empty, with the settings of a rule set.
    pub(super) fn new(program: &Program) -> Self {
        let mut memory = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        memory.facts.begin();
        memory.state.begin(program);
        memory.workshop.begin();
        Self(Some(memory))
    }
}

impl Deref for Lent {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        self.0.as_deref().expect("it is only taken when this is dropped")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Memory {
        self.0.as_deref_mut().expect("it is only taken when this is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(memory) = self.0.take() else { return };
        let bytes = memory.facts.kept_bytes() + memory.state.kept_bytes() + memory.workshop.kept_bytes();
        if bytes <= KEPT_BYTES {
            // A thread that is ending keeps nothing.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < KEPT {
                    pool.push(memory);
                }
            });
        }
    }
}
