//! `fault = { … }`: trouble on purpose, to learn how clients bear it.

use portcullis_config::{Context, Path};
use portcullis_names::{Percent, Status, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Delays and refusals of a share of the requests. They are drawn independently; the delay comes first.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<DelaySpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortSpec>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DelaySpec {
    /// At most 60s.
    pub time: TimeSpan,
    /// Of the requests (default 100%).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AbortSpec {
    /// From 400 to 599.
    pub status: Status,
    /// Of the requests (default 100%).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
}

/// The settings with every value settled.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fault {
    delay: Option<(Duration, Percent)>,
    abort: Option<(u16, Percent)>,
}

/// A delayed request holds memory and a connection; more than this is no test of patience but a leak.
const DELAY_MAX: Duration = Duration::from_secs(60);

impl FaultSpec {
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> Fault {
        if self.delay.is_none() && self.abort.is_none() {
            cx.error(at, "this fault does nothing").help("give it `delay` or `abort`");
        }
        if self.delay.as_ref().is_some_and(|delay| delay.time.get().is_zero() || delay.time.get() > DELAY_MAX) {
            cx.error(&at.key("delay").key("time"), "a delay is more than no time and at most 60s");
        }
        if self.abort.as_ref().is_some_and(|abort| abort.status.get() < 400) {
            cx.error(&at.key("abort").key("status"), "an abort answers with a status from 400 to 599");
        }
        Fault {
            delay: self.delay.as_ref().map(|delay| (delay.time.get(), delay.percent.unwrap_or(Percent::ALL))),
            abort: self.abort.as_ref().map(|abort| (abort.status.get(), abort.percent.unwrap_or(Percent::ALL))),
        }
    }
}

impl Fault {
    pub(crate) fn aborts(&self) -> bool {
        self.abort.is_some()
    }

    /// How long this request waits first; `draw` is even over all of `u64`.
    pub fn delay(&self, draw: u64) -> Option<Duration> {
        self.delay.filter(|(_, percent)| percent.takes(draw)).map(|(time, _)| time)
    }

    /// The status that this request is answered with instead of being served.
    pub fn abort(&self, draw: u64) -> Option<u16> {
        self.abort.filter(|(_, percent)| percent.takes(draw)).map(|(status, _)| status)
    }
}
