//! A set of rules, by index: what exclusions mean once they are resolved.

/// One bit per rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RuleSet {
    words: Vec<u64>,
}

impl RuleSet {
    pub(crate) fn insert(&mut self, rule: usize) {
        let word = rule / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word |= 1 << (rule % 64);
        }
    }

    /// Without members, in the same memory.
    pub(crate) fn clear(&mut self) {
        self.words.clear();
    }

    pub(crate) fn contains(&self, rule: usize) -> bool {
        self.words.get(rule / 64).is_some_and(|word| word >> (rule % 64) & 1 == 1)
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (own, other) in self.words.iter_mut().zip(&other.words) {
            *own |= other;
        }
    }
}

impl FromIterator<usize> for RuleSet {
    fn from_iter<I: IntoIterator<Item = usize>>(rules: I) -> Self {
        let mut set = Self::default();
        rules.into_iter().for_each(|rule| set.insert(rule));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_and_joined() {
        let mut set: RuleSet = [1, 200].into_iter().collect();
        set.extend(&[3].into_iter().collect());
        let members: Vec<usize> = (0..500).filter(|rule| set.contains(*rule)).collect();
        assert_eq!(members, [1, 3, 200]);
    }
}
