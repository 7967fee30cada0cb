//! Why the store gave no verdict.

/// The caller does what `on_fail` says about any of them; which it was is for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StoreError {
    #[error("the store is not asked: it failed repeatedly and has not come back")]
    Open,
    #[error("the store did not answer in time")]
    Timeout,
    #[error("more requests wait for the store than the queue holds")]
    Overloaded,
    #[error("the connection to the store was lost")]
    Lost,
    #[error("the store answered with an error")]
    Refused,
}

impl StoreError {
    pub const ALL: [Self; 5] = [Self::Open, Self::Timeout, Self::Overloaded, Self::Lost, Self::Refused];

    /// The metric label and the log field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Lost => "lost",
            Self::Refused => "refused",
        }
    }
}
