//! The header fields that tell a client of its limits: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-10 §3 and §4) and `Retry-After` (RFC 9110 §10.2.3).
//!
//! Each function appends one member to a field's value; a comma goes before it when the value is not empty. A limit in shadow
//! mode is not told.

use crate::{RateLimit, Verdict};
use std::{fmt::Write, time::Duration};

/// A policy as a client sees it: so many requests in so many seconds. Of a bucket it is what a full one gives and the time in
/// which it fills, so that `r` is never above `q`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) requests: u64,
    pub(crate) window_seconds: u64,
}

/// `"shop";q=100;w=1`
pub fn write_policy(value: &mut String, limit: &RateLimit) {
    let quota = limit.quota();
    begin(value, limit.name());
    // Writing to a `String` cannot fail.
    let _ = write!(value, ";q={};w={}", quota.requests, quota.window_seconds);
}

/// `"shop";r=50;t=30`
pub fn write_state(value: &mut String, limit: &RateLimit, verdict: &Verdict) {
    begin(value, limit.name());
    let _ = write!(value, ";r={};t={}", verdict.remaining, seconds(verdict.reset_after));
}

/// Whole seconds, rounded up, at least 1: who comes back earlier is refused again.
pub fn write_retry_after(value: &mut String, verdict: &Verdict) {
    let _ = write!(value, "{}", seconds(verdict.retry_after).max(1));
}

fn begin(value: &mut String, name: &str) {
    if !value.is_empty() {
        value.push_str(", ");
    }
    value.push('"');
    for octet in name.chars() {
        // RFC 9651 §3.3.3: a string holds printable ASCII, and these two escaped.
        match octet {
            '"' | '\\' => value.extend(['\\', octet]),
            ' '..='~' => value.push(octet),
            _ => value.push('?'),
        }
    }
    value.push('"');
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
