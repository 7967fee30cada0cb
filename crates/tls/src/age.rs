//! Where a moment stands in a certificate's life, and spans of time in words.

use std::time::{SystemTime, UNIX_EPOCH};
use x509_parser::prelude::Validity;

/// Spans in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    NotYet(i64),
    Valid(i64),
    Expired(i64),
}

impl Age {
    pub(crate) fn of(validity: &Validity, now: i64) -> Self {
        let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        if now < from {
            Self::NotYet(from.saturating_sub(now))
        } else if now > to {
            Self::Expired(now.saturating_sub(to))
        } else {
            Self::Valid(to.saturating_sub(now))
        }
    }
}

/// Seconds since 1970.
pub(crate) fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// `3 days`: the largest unit that fits, rounded down.
pub(crate) fn words(seconds: i64) -> String {
    let (count, noun) = match seconds {
        86_400.. => (seconds / 86_400, "day"),
        3_600.. => (seconds / 3_600, "hour"),
        60.. => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_naturally() {
        for (seconds, text) in
            [(0, "0 seconds"), (59, "59 seconds"), (60, "1 minute"), (7_199, "1 hour"), (3 * 86_400 + 5, "3 days")]
        {
            assert_eq!(words(seconds), text);
        }
    }
}
