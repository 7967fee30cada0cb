//! One kind of data that is looked for.

use crate::{boundary::Search, card, iban, pattern::Pattern, social_security};

#[derive(Debug, Clone)]
pub enum Detector {
    /// Payment cards.
    Card,
    /// Bank accounts.
    Iban,
    /// US social security numbers.
    UsSsn,
    /// What the operator describes.
    Custom(Custom),
}

/// A pattern with a name.
#[derive(Debug, Clone)]
pub struct Custom {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) pattern: Pattern,
}

impl Detector {
    /// From the configuration or a closed set: fit for a metric's label.
    pub fn name(&self) -> &str {
        match self {
            Self::Card => "card",
            Self::Iban => "iban",
            Self::UsSsn => "us_ssn",
            Self::Custom(custom) => &custom.name,
        }
    }

    /// What it finds may be of any length.
    pub fn is_custom(&self) -> bool {
        matches!(self, Self::Custom(_))
    }

    /// Looks for the same, whatever is done about it.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Custom(own), Self::Custom(other)) => own.name == other.name && own.text == other.text,
            (Self::Card, Self::Card) | (Self::Iban, Self::Iban) | (Self::UsSsn, Self::UsSsn) => true,
            (Self::Card | Self::Iban | Self::UsSsn | Self::Custom(_), _) => false,
        }
    }

    /// The first one that begins at `from` or later.
    pub(crate) fn search(&self, text: &[u8], from: usize, end: bool) -> Search {
        match self {
            Self::Card => card::search(text, from, end),
            Self::Iban => iban::search(text, from, end),
            Self::UsSsn => social_security::search(text, from, end),
            Self::Custom(custom) => custom.pattern.search(text, from, end),
        }
    }

    /// Characters at the end that may be shown. PCI DSS 3.4.1 lets the last four digits of a card be seen; with them people tell
    /// their cards and accounts apart.
    pub(crate) fn shown(&self) -> usize {
        match self {
            Self::Card | Self::Iban => 4,
            Self::UsSsn | Self::Custom(_) => 0,
        }
    }
}
