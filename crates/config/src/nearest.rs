//! "Did you mean": the nearest of some known words.

/// The known word that `word` is most likely a slip of; `None` when nothing is near.
pub fn nearest<'n>(word: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let lower = word.to_lowercase();
    let scored =
        known.into_iter().map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate));
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + best.chars().count() / 4).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word_and_strangers_do_not() {
        for (word, expected) in [
            ("wieght", Some("weight")),
            ("Address", Some("address")),
            ("adress", Some("address")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, ["address", "weight", "priority"]), expected, "{word}");
        }
    }
}
