//! One question as the script takes it, and its answer as a verdict.

use portcullis_limit::{Key, Nanos, Plan, RateLimit, Verdict, Window};
use redis::{Cmd, Script, Value};
use sha2::{Digest, Sha256};
use std::{fmt::Write, time::Duration};

/// `EVALSHA`'s arguments, and what is needed to read the answer.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    key: String,
    plan: Plan,
    now: Option<Nanos>,
}

const LUA: &str = include_str!("limit.lua");
/// A key that no limit has: names of limits have no space.
const PROBE: &str = "portcullis:probe of the store";

pub(crate) fn script() -> Script {
    Script::new(LUA)
}

impl Question {
    /// `now`: the store's own time, unless one is given.
    pub(crate) fn new(limit: &RateLimit, key: &Key, now: Option<Nanos>) -> Self {
        Self { key: store_key(limit, key), plan: limit.plan(), now }
    }

    pub(crate) fn command(&self, sha: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(sha).arg(1).arg(&self.key);
        match &self.plan {
            Plan::TokenBucket(gcra) => {
                let (increment, capacity) = (pair(gcra.increment()), pair(gcra.capacity()));
                command.arg("bucket").arg(increment.0).arg(increment.1).arg(capacity.0).arg(capacity.1);
            }
            Plan::SlidingWindow(window) => {
                let length = window.length_micros().get();
                command.arg("window").arg(length).arg(window.limit()).arg(window.cost().get()).arg(0);
            }
        }
        if let Some(now) = self.now {
            let now = pair(now.0);
            command.arg(now.0).arg(now.1);
        }
        command
    }

    /// `None`: that is no answer of the script.
    pub(crate) fn verdict(&self, answer: &Value) -> Option<Verdict> {
        let Value::Array(values) = answer else { return None };
        let mut numbers = [0_u64; 4];
        for (index, number) in numbers.iter_mut().enumerate() {
            let Some(Value::Int(value)) = values.get(index) else { return None };
            *number = u64::try_from(*value).ok()?;
        }
        let [allowed, first, second, third] = numbers;
        let allowed = allowed == 1;
        Some(match &self.plan {
            Plan::TokenBucket(gcra) => gcra.verdict(allowed, first.checked_mul(1_000_000_000)?.checked_add(second)?),
            Plan::SlidingWindow(window) => {
                let (current, previous) = (u32::try_from(first).ok()?, u32::try_from(second).ok()?);
                window.verdict(allowed, &Window { index: 0, current, previous }, third)
            }
        })
    }
}

/// A question that counts nowhere, and is answered only by a store that runs the script and takes writes.
pub(crate) fn probe(sha: &str) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(sha).arg(1).arg(PROBE).arg("bucket").arg(0).arg(1).arg(1).arg(0);
    command
}

/// The limit's name and rate, and the client as a digest: a store is no place for addresses, cookies and claims in clear.
/// Limits of one name count together in all processes while algorithm, rate and key agree; otherwise everybody starts anew, as
/// `RateLimit::carry_over` has it.
fn store_key(limit: &RateLimit, key: &Key) -> String {
    let algorithm = match limit.plan() {
        Plan::TokenBucket(_) => "bucket",
        Plan::SlidingWindow(_) => "window",
    };
    let mut text = format!("portcullis:{}:{algorithm}:{}:", limit.name(), limit.rate());
    let mut digest = Sha256::new();
    digest.update(limit.key().to_string());
    digest.update([0]);
    digest.update(key.as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    // 128 bits: nobody finds a second key to the digest of a first.
    for octet in digest.iter().take(16) {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{octet:02x}");
    }
    text
}

fn pair(nanos: u64) -> (u64, u32) {
    let span = Duration::from_nanos(nanos);
    (span.as_secs(), span.subsec_nanos())
}
