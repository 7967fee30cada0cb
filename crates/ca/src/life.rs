//! For how long a certificate is good.

use crate::CaError;
use portcullis_names::TimeSpan;
use std::time::Duration;

/// Of a workload's certificate: 24 hours unless told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafLife(Duration);

/// Of a root or an intermediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorityLife(Duration);

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

impl LeafLife {
    /// Less and a slow clock refuses it; also what an intermediate must still have to issue.
    pub const LEAST: Duration = HOUR;
    /// More and revocation must do what expiry should.
    pub const MOST: Duration = Duration::from_secs(90 * DAY.as_secs());

    pub fn new(span: TimeSpan) -> Result<Self, CaError> {
        if (Self::LEAST..=Self::MOST).contains(&span.get()) {
            return Ok(Self(span.get()));
        }
        Err(CaError::Life { what: "a workload", asked: span, least: "1h", most: "90d" })
    }

    pub fn get(self) -> Duration {
        self.0
    }
}

impl Default for LeafLife {
    fn default() -> Self {
        Self(DAY)
    }
}

impl AuthorityLife {
    const LEAST: Duration = DAY;
    const MOST: Duration = Duration::from_secs(3_653 * DAY.as_secs());
    /// Ten years: what roots of meshes have.
    pub const ROOT: Self = Self(Duration::from_secs(3_650 * DAY.as_secs()));
    pub const INTERMEDIATE: Self = Self(Duration::from_secs(365 * DAY.as_secs()));

    pub fn new(span: TimeSpan) -> Result<Self, CaError> {
        if (Self::LEAST..=Self::MOST).contains(&span.get()) {
            return Ok(Self(span.get()));
        }
        Err(CaError::Life { what: "an authority", asked: span, least: "1d", most: "3653d" })
    }

    pub fn get(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_have_bounds() {
        for (text, leaf, authority) in [
            ("59m", false, false),
            ("1h", true, false),
            ("24h", true, true),
            ("90d", true, true),
            ("91d", false, true),
            ("3653d", false, true),
            ("3654d", false, false),
        ] {
            let span: TimeSpan = text.parse().unwrap();
            assert_eq!(LeafLife::new(span).is_ok(), leaf, "{text}");
            assert_eq!(AuthorityLife::new(span).is_ok(), authority, "{text}");
        }
        assert_eq!(LeafLife::default().get(), Duration::from_secs(86_400));
    }
}
