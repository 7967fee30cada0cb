//! Memory that a burst of load took goes back to the kernel when the burst is over.

use std::{hint::black_box, time::Duration};
use tokio::time::MissedTickBehavior;

/// How long the allocator keeps what was freed (mimalloc's `purge_delay`), for then it is likely to be wanted again.
const INTERVAL: Duration = Duration::from_secs(1);
/// Too large for the allocator to keep a page of its own for it.
const LARGE: usize = 8 << 20;

/// Until the future is dropped.
///
/// mimalloc gives back what has been free for a second whenever a whole page is freed, and has no thread of its own for
/// it. A process at rest frees none, and would hold its peak for ever: an operator would see a leak, and
/// [`crate::OverloadMonitor`] pressure that does not end. So a page is freed now and then; as nothing is ever written to
/// it, it costs no memory.
pub async fn give_back_memory() {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        drop(black_box(Vec::<u8>::with_capacity(LARGE)));
    }
}
