//! `@detectSQLi` and `@detectXSS` through libinjection's tokenizer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use libinjectionrs::{SqliFlags, SqliState};

use super::Captured;

/// The fingerprint when the value reads like SQL.
pub(super) fn sqli(value: &[u8]) -> Option<Captured> {
    guarded(|| {
        let mut state = SqliState::new(value, SqliFlags::FLAG_NONE);
        state.detect().then(|| {
            let end = state.fingerprint.iter().position(|byte| *byte == 0).unwrap_or(state.fingerprint.len());
            Captured::Text(state.fingerprint.get(..end).unwrap_or_default().to_vec())
        })
    })
}

/// The value itself when it reads like script.
pub(super) fn xss(value: &[u8]) -> Option<Captured> {
    guarded(|| {
        let whole = Some(0..value.len());
        libinjectionrs::detect_xss(value).is_injection().then(|| Captured::Groups(vec![whole]))
    })
}

/// The tokenizer is a port of C that indexes freely. A panic in it is not the client's way past the rule: a value it
/// cannot read counts as a match (fail closed).
fn guarded(detect: impl FnOnce() -> Option<Captured>) -> Option<Captured> {
    catch_unwind(AssertUnwindSafe(detect)).unwrap_or(Some(Captured::Undecided))
}
