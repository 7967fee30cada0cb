//! What a request brings to the choice of its endpoint, and what it is given. The choice itself is `cluster`'s.

use crate::{EndpointState, Permit, StickyToken, balance::next_draw};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Endpoints that one request has used up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    indices: [u32; TRIED_MAX],
    count: u8,
}

/// More tries than any request has.
const TRIED_MAX: usize = 8;

/// What a request brings to the choice of its endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Uniform.
    pub draw: u64,
    /// Of the upstream's hash key, if the request has one.
    pub hash: Option<u64>,
    /// Of the upstream's cookie, if the request has one.
    pub sticky: Option<StickyToken>,
    pub volunteer: Volunteer,
    pub now: Instant,
}

/// Whether a request may be the one that finds out whether an ejected endpoint, or one whose last try failed, is well again.
/// One that cannot be sent a second time had better not: it would pay for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volunteer {
    Yes,
    No,
}

/// How long a question about an endpoint waits for a volunteer.
pub(crate) const VOLUNTEERS_COME: Duration = Duration::from_secs(2);

/// Why no endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPicked {
    /// None is left for this request.
    NoEndpoint,
    /// The upstream has all the requests that its circuit breaker allows.
    Overflow,
}

/// A chosen endpoint; counts as active until dropped.
#[derive(Debug)]
pub struct Pick {
    pub index: usize,
    pub state: Arc<EndpointState>,
    /// To be put into the client's cookie.
    pub set_cookie: Option<StickyToken>,
    /// On trial, and not judged yet.
    pub(crate) trial: AtomicBool,
    pub(crate) _permit: Permit,
}

impl Tried {
    pub(crate) fn has(&self, index: usize) -> bool {
        self.indices.iter().take(usize::from(self.count)).any(|tried| *tried as usize == index)
    }

    pub(crate) fn add(&mut self, index: usize) {
        if let Some(slot) = self.indices.get_mut(usize::from(self.count)) {
            *slot = u32::try_from(index).unwrap_or(u32::MAX);
            self.count += 1;
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        usize::from(self.count) == TRIED_MAX
    }
}

impl Wish {
    /// Of a request that has neither key nor cookie.
    pub fn plain(draw: u64, now: Instant) -> Self {
        Self { draw, hash: None, sticky: None, volunteer: Volunteer::Yes, now }
    }

    /// Where only requests come that do not volunteer, one of them has to in the end.
    pub(crate) fn may_try(&self, state: &EndpointState) -> bool {
        self.volunteer == Volunteer::Yes
            || state.health().trial_due_for(self.now).is_some_and(|waited| waited >= VOLUNTEERS_COME)
    }

    /// For a further try: another place in the row of draws.
    pub fn again(mut self, now: Instant) -> Self {
        self.draw = next_draw(&mut self.draw);
        self.now = now;
        self
    }
}

impl Pick {
    /// Whether this try decides if its endpoint may come back, and has not decided it yet.
    pub fn is_trial(&self) -> bool {
        self.trial.load(Relaxed)
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.state.active.fetch_sub(1, Relaxed);
        if *self.trial.get_mut() {
            self.state.end_trial();
        }
    }
}
