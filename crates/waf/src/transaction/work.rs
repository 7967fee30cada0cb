//! How much evaluation a transaction may cost: what its size earns, and no more.

/// Work every transaction may cost, in bytes looked at.
const BASE: u64 = 4_000_000;

/// What each byte received earns.
const EARNED_PER_BYTE: u64 = 1_000;

/// However large the transaction is.
const MOST: u64 = 100_000_000;

/// What a test costs besides the bytes it looks at.
const TEST: u64 = 16;

/// The account of one transaction.
#[derive(Debug)]
pub(crate) struct Work {
    spent: u64,
    limit: u64,
    refused: u64,
}

impl Default for Work {
    fn default() -> Self {
        Self { spent: 0, limit: BASE, refused: 0 }
    }
}

impl Work {
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// Sets the limit by the bytes received so far.
    pub(super) fn earn(&mut self, received_bytes: usize) {
        let earned = u64::try_from(received_bytes).unwrap_or(u64::MAX).saturating_mul(EARNED_PER_BYTE);
        self.limit = BASE.saturating_add(earned).min(MOST);
    }

    /// Pays for looking at some bytes; `false` when there is nothing left to pay with.
    pub(crate) fn spend(&mut self, bytes: usize) -> bool {
        if self.spent >= self.limit {
            self.refused += 1;
            return false;
        }
        self.spent = self.spent.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)).saturating_add(TEST);
        true
    }

    /// Bytes looked at so far, with a fixed price for every test.
    pub(super) fn spent(&self) -> u64 {
        self.spent
    }

    /// Tests that were not made.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_where_it_is_no_longer_earned() {
        let mut work = Work::default();
        assert!(work.spend(BASE as usize));
        assert!(!work.spend(1));
        assert_eq!(work.refused(), 1);
        work.earn(1_000);
        assert!(work.spend(1));
        work.earn(usize::MAX);
        assert_eq!(work.limit, MOST);
    }
}
