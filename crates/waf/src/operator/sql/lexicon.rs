//! The words and fingerprints that `libinjectionrs` knows, found by hash instead of by comparing copies.

use std::sync::LazyLock;

use libinjectionrs::sqli::TokenType;
use libinjectionrs::sqli::sqli_data::SQL_KEYWORDS;

/// The kind of a word, in any case.
pub(super) fn kind(word: &str) -> TokenType {
    find(word.as_bytes()).unwrap_or(TokenType::Bareword)
}

/// The longest fingerprint in the list, with the mark that begins it.
const FINGERPRINT_BYTES: usize = 8;

/// Whether these kinds of tokens are those of an attack.
pub(super) fn is_fingerprint(kinds: &[u8]) -> bool {
    let mut key = [0; FINGERPRINT_BYTES];
    let Some((mark, rest)) = key.split_first_mut() else { return false };
    let Some(place) = rest.get_mut(..kinds.len()).filter(|place| !place.is_empty()) else { return false };
    *mark = b'0';
    place.copy_from_slice(kinds);
    find(key.get(..=kinds.len()).unwrap_or_default()) == Some(TokenType::Fingerprint)
}

/// Places of the table: more than three for each word, so that nearly all are found at once.
const PLACES: usize = 1 << 15;

/// By hash, then the next free one: the index of a word plus one.
struct Table(Vec<u16>);

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table(vec![0; PLACES]);
    for (number, keyword) in (1u16..).zip(SQL_KEYWORDS) {
        let free = places(keyword.word.as_bytes()).find(|place| table.0.get(*place) == Some(&0));
        if let Some(place) = free.and_then(|place| table.0.get_mut(place)) {
            *place = number;
        }
    }
    table
});

fn find(word: &[u8]) -> Option<TokenType> {
    if word.len() > LONGEST {
        return None;
    }
    for place in places(word) {
        let number = usize::from(*TABLE.0.get(place)?);
        let keyword = SQL_KEYWORDS.get(number.checked_sub(1)?)?;
        if keyword.word.as_bytes().eq_ignore_ascii_case(word) {
            return Some(token_type(keyword.token_type));
        }
    }
    None
}

/// No word in the list is longer.
const LONGEST: usize = 31;

/// Where a word may stand, beginning with the most likely place.
fn places(word: &[u8]) -> impl Iterator<Item = usize> {
    let hash = word
        .iter()
        .fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte.to_ascii_uppercase())).wrapping_mul(0x0100_0193));
    let first = (hash ^ (hash >> 15)) as usize;
    (0..PLACES).map(move |step| first.wrapping_add(step) % PLACES)
}

fn token_type(letter: u8) -> TokenType {
    match letter {
        b'k' => TokenType::Keyword,
        b'f' => TokenType::Function,
        b'U' => TokenType::Union,
        b'E' => TokenType::Expression,
        b'T' => TokenType::Tsql,
        b't' => TokenType::SqlType,
        b'o' => TokenType::Operator,
        b'&' => TokenType::LogicOperator,
        b'v' => TokenType::Variable,
        b'1' => TokenType::Number,
        b'A' => TokenType::Collate,
        b'B' => TokenType::Group,
        b'F' => TokenType::Fingerprint,
        _ => TokenType::Bareword,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libinjectionrs::sqli::sqli_data::lookup_word;

    #[test]
    fn every_word_is_known_as_the_list_has_it() {
        assert!(SQL_KEYWORDS.iter().all(|keyword| keyword.word.len() <= LONGEST));
        assert!(SQL_KEYWORDS.len() < PLACES / 3);
        for keyword in SQL_KEYWORDS {
            assert_eq!(kind(keyword.word), lookup_word(keyword.word), "{}", keyword.word);
            assert_eq!(kind(&keyword.word.to_lowercase()), lookup_word(keyword.word), "{}", keyword.word);
            let longer = format!("{}_", keyword.word);
            assert_eq!(kind(&longer), lookup_word(&longer), "{longer}");
        }
        assert!(is_fingerprint(b"1UE1") && is_fingerprint(b"s&sos") && !is_fingerprint(b"n") && !is_fingerprint(b""));
    }
}
