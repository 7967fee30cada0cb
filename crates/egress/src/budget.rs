//! So many requests and octets in a window of time. Windows follow each other from 1970, so that all processes agree on them.

use crate::{SharedBy, destination_spec::BudgetSpec};
use portcullis_config::{Context, Path};
use portcullis_limit::{Meter, Nanos, Standing, Verdict};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Clone)]
pub(crate) struct Budget {
    requests: Option<u64>,
    octets: Option<u64>,
    window: Duration,
    pub(crate) shared: SharedBy,
}

/// One amount to be taken out of one window. The state is the window's number and what was spent in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spending {
    window: u64,
    amount: u64,
    max: u64,
    how: How,
    reset_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Spent only if it fits.
    IfItFits,
    /// It has been spent already.
    Already,
}

const WINDOW_MIN: Duration = Duration::from_secs(1);
const WINDOW_MAX: Duration = Duration::from_secs(366 * 86_400);

impl Budget {
    pub(crate) fn compile(spec: &BudgetSpec, at: &Path, cx: &mut Context) -> Option<Self> {
        let window = spec.per.get();
        if !(WINDOW_MIN..=WINDOW_MAX).contains(&window) {
            cx.error(&at.key("per"), format!("a budget's time is from 1s to 366d, not {}", spec.per));
            return None;
        }
        if spec.requests.is_none() && spec.bytes.is_none() {
            cx.error(at, "nothing is limited").help("say `requests`, `bytes` or both");
            return None;
        }
        let octets = spec.bytes.map(|bytes| bytes.bytes());
        if octets == Some(0) {
            cx.error(&at.key("bytes"), "a budget of nothing lets nobody pass").help("deny it by an [access] rule");
        }
        let requests = spec.requests.map(|requests| requests.get());
        Some(Self { requests, octets, window, shared: spec.key.unwrap_or_default() })
    }

    pub(crate) fn requests(&self, wall: SystemTime) -> Option<Spending> {
        self.requests.map(|max| self.spending(1, max, How::IfItFits, wall))
    }

    pub(crate) fn octets(&self, amount: u64, wall: SystemTime) -> Option<Spending> {
        self.octets.map(|max| self.spending(amount, max, How::Already, wall))
    }

    pub(crate) fn window_left(&self, wall: SystemTime) -> Duration {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let window = self.window.as_secs().max(1);
        Duration::from_secs(window.saturating_sub(since.checked_rem(window).unwrap_or(0)))
    }

    fn spending(&self, amount: u64, max: u64, how: How, wall: SystemTime) -> Spending {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let window = since.checked_div(self.window.as_secs()).unwrap_or(0);
        Spending { window, amount, max, how, reset_after: self.window_left(wall) }
    }
}

impl Meter<2> for Spending {
    fn check(&self, [window, spent]: &mut [u64; 2], _: Nanos) -> Verdict {
        // A thread with a later clock was here first: its window counts on.
        if *window < self.window {
            (*window, *spent) = (self.window, 0);
        }
        let wanted = spent.saturating_add(self.amount);
        let allowed = match self.how {
            How::IfItFits => wanted <= self.max,
            How::Already => wanted < self.max,
        };
        if allowed || self.how == How::Already {
            *spent = wanted;
        }
        Verdict {
            allowed,
            remaining: self.max.saturating_sub(*spent),
            reset_after: self.reset_after,
            retry_after: if allowed { Duration::ZERO } else { self.reset_after },
        }
    }

    fn standing(&self, [window, spent]: &[u64; 2]) -> Standing {
        // Windows of different lengths are not comparable; whoever spent least is forgotten first.
        let full_at = if *window == 0 { Nanos(0) } else { Nanos(u64::MAX) };
        Standing { full_at, spent: *spent }
    }
}
