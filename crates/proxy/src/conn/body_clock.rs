//! Cuts a client that sends its body too slowly: an average over the time that *we* waited for *it*.

use crate::listen::MinRate;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// Counts octets and waiting time of one body. Time in which nobody asked for more (an upstream that is slow to take
/// it) does not count against the client.
#[derive(Debug, Default)]
pub(crate) struct BodyClock {
    rate: Option<MinRate>,
    received: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl BodyClock {
    pub(crate) fn new(rate: MinRate) -> Self {
        Self { rate: Some(rate), ..Self::default() }
    }

    pub(crate) fn received(&mut self, octets: u64, now: Instant) {
        self.received = self.received.saturating_add(octets);
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_duration_since(since);
            self.alarm = None;
        }
    }

    /// Called when a read found nothing. Ready: the client has used up its time.
    pub(crate) fn poll_too_slow(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(rate) = self.rate else { return Poll::Pending };
        let since = *self.waiting_since.get_or_insert(now);
        let left = rate.allowance(self.received).saturating_sub(self.waited + now.saturating_duration_since(since));
        if left.is_zero() {
            return Poll::Ready(());
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
        alarm.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    const RATE: MinRate = MinRate { bytes_per_second: 100, grace: Duration::from_secs(5) };

    #[tokio::test]
    async fn only_time_spent_waiting_for_the_client_counts() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut clock = BodyClock::new(RATE);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(clock.poll_too_slow(&mut cx, at(0)).is_pending());
        clock.received(100, at(2));
        // Two seconds used, six allowed; an hour in which nobody read does not matter.
        assert!(clock.poll_too_slow(&mut cx, at(3602)).is_pending());
        assert!(clock.poll_too_slow(&mut cx, at(3605)).is_pending());
        assert!(clock.poll_too_slow(&mut cx, at(3606)).is_ready());
    }

    #[tokio::test]
    async fn a_client_at_the_rate_may_take_for_ever() {
        let start = Instant::now();
        let mut clock = BodyClock::new(RATE);
        let mut cx = Context::from_waker(Waker::noop());
        for second in 0..1000 {
            assert!(clock.poll_too_slow(&mut cx, start + Duration::from_secs(second)).is_pending(), "{second}");
            clock.received(100, start + Duration::from_secs(second + 1));
        }
    }
}
