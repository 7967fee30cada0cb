//! Whether a proportion lies above a limit, and how sure that is.
//!
//! A one-sided test of two proportions, with an added success and failure each (Agresti and Coull), so that two bad requests
//! out of ten, or none out of ten, prove nothing. Releases are judged at every tick, so the certainty asked for is far
//! beyond the usual 95 %: at that, one good release in a few would be cut for having been looked at often.

/// So many of so many. Fractional hits come from interpolated histograms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proportion {
    hits: f64,
    of: f64,
}

/// What a proportion is held against, and how uncertain that itself is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) share: f64,
    variance: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    Within,
    /// Above the limit, and it may be chance.
    Doubtful,
    Beyond,
}

impl Proportion {
    /// Nothing was measured; anything is possible.
    pub(crate) const UNKNOWN: Self = Self { hits: 0.0, of: 0.0 };

    pub(crate) fn new(hits: f64, of: u64) -> Self {
        Self { hits, of: of as f64 }
    }

    pub(crate) fn share(self) -> f64 {
        if self.of > 0.0 { self.hits / self.of } else { 0.0 }
    }

    fn variance(self) -> f64 {
        let share = (self.hits + 1.0) / (self.of + 2.0);
        share * (1.0 - share).max(0.0) / self.of.max(1.0)
    }

    /// `standard_errors` above the limit is what it takes to be sure.
    pub(crate) fn weigh(self, limit: Limit, standard_errors: f64) -> Evidence {
        let above = self.share() - limit.share;
        if above <= 0.0 || self.of <= 0.0 {
            Evidence::Within
        } else if above >= standard_errors * (self.variance() + limit.variance).sqrt() {
            Evidence::Beyond
        } else {
            Evidence::Doubtful
        }
    }
}

impl Limit {
    /// A limit that somebody wrote down.
    pub(crate) fn fixed(share: f64) -> Self {
        Self { share, variance: 0.0 }
    }

    /// So many times what was measured elsewhere.
    pub(crate) fn times(factor: f64, measured: Proportion) -> Self {
        Self { share: factor * measured.share(), variance: factor * factor * measured.variance() }
    }

    /// This limit, but not below `floor`. It stays as uncertain as it was.
    pub(crate) fn at_least(self, floor: f64) -> Self {
        Self { share: self.share.max(floor), ..self }
    }

    pub(crate) fn or_more(self, other: Self) -> Self {
        if other.share > self.share { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Evidence::*;

    #[test]
    fn small_samples_do_not_decide_and_large_ones_do() {
        for (bad, of, old_bad, old_of, expected) in [
            (0, 0, 0, 0, Within),
            (0, 1_000, 0, 1_000, Within),
            (1, 5, 0, 1_000, Doubtful),
            (3, 20, 0, 1_000, Doubtful),
            (20, 20, 0, 1_000, Beyond),
            (20, 20, 1_000, 1_000, Within),
            (1, 100, 1, 1_000, Doubtful),
            (5, 500, 1, 10_000, Doubtful),
            (50, 1_000, 10, 10_000, Beyond),
            (50, 1_000, 0, 10, Doubtful),
            (150, 1_000, 1_000, 10_000, Within),
            (300, 1_000, 1_000, 10_000, Beyond),
            (220, 1_000, 1_000, 10_000, Doubtful),
        ] {
            let limit = Limit::times(2.0, Proportion::new(f64::from(old_bad), old_of)).at_least(0.002);
            let found = Proportion::new(f64::from(bad), of).weigh(limit, 4.0);
            assert_eq!(found, expected, "{bad}/{of} against {old_bad}/{old_of}");
        }
    }

    #[test]
    fn chance_alone_is_hardly_ever_taken_for_a_fault_however_often_it_is_looked_at() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut cut = 0;
        for _ in 0..1_000 {
            // Both fail 1 %: the new one is as good as the old. Looked at after every ten requests.
            let (mut new, mut old) = (0.0, 0.0);
            let bad = (1..=100u64).any(|look| {
                new += (0..10).filter(|_| random.f64() < 0.01).count() as f64;
                old += (0..90).filter(|_| random.f64() < 0.01).count() as f64;
                let limit = Limit::times(1.0, Proportion::new(old, look * 90));
                Proportion::new(new, look * 10).weigh(limit, 4.0) == Beyond
            });
            cut += u32::from(bad);
        }
        assert!(cut <= 2, "{cut} of 1000");
    }
}
