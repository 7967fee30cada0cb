//! Bank account numbers by ISO 13616: a country, its length, and a remainder of 1 modulo 97; in one piece or in groups of four.

use crate::boundary::{self, Reading, Search, begins, ends, may_separate};

pub(crate) fn search(text: &[u8], from: usize, end: bool) -> Search {
    let mut at = from;
    while let Some(octet) = text.get(at) {
        if octet.is_ascii_alphabetic() && begins(text, at) {
            match read(text, at, end) {
                Reading::Match(until) => return Search::Found(at, until),
                Reading::More => return Search::ClearUpTo(at),
                Reading::No => {}
            }
        }
        at += 1;
    }
    Search::ClearUpTo(text.len())
}

fn read(text: &[u8], at: usize, end: bool) -> Reading {
    let more = |at: usize| if at >= text.len() && !end { Reading::More } else { Reading::No };
    let (Some(first), Some(second)) = (text.get(at), text.get(at + 1)) else { return more(at + 1) };
    let Some(length) = length_of(*first, *second) else { return Reading::No };
    let is_upper = first.is_ascii_uppercase();
    if second.is_ascii_uppercase() != is_upper {
        return Reading::No;
    }
    let (mut at, mut read, mut remainder, mut head) = (at, 0, 0, 0);
    let (mut style, mut separated) = (None, false);
    while read < length {
        let Some(octet) = text.get(at).copied() else { return more(at) };
        if read > 0 && read % 4 == 0 && !separated {
            if !end && may_separate(text, at) {
                return Reading::More;
            }
            // Either no group is set apart or all are, in the same way.
            let between = boundary::separator(text, at);
            if read == 4 {
                style = between.map(|(octet, _)| octet);
            } else if style != between.map(|(octet, _)| octet) {
                return Reading::No;
            }
            (at, separated) = (at + between.map_or(0, |(_, width)| width), true);
            continue;
        }
        separated = false;
        let fits = match read {
            0 | 1 => true,
            2 | 3 => octet.is_ascii_digit(),
            _ => octet.is_ascii_digit() || (octet.is_ascii_alphabetic() && octet.is_ascii_uppercase() == is_upper),
        };
        if !fits {
            return Reading::No;
        }
        // The first four come last in the sum (ISO 7064).
        if read < 4 {
            head = add(head, octet);
        } else {
            remainder = add(remainder, octet);
        }
        (at, read) = (at + 1, read + 1);
    }
    // Two letters and two digits are six digits of the sum.
    if (remainder * 27 + head) % 97 != 1 {
        return Reading::No;
    }
    match ends(text, at, end) {
        Some(true) => Reading::Match(at),
        Some(false) => Reading::No,
        None => Reading::More,
    }
}

/// One more character: letters count from 10.
fn add(remainder: u32, octet: u8) -> u32 {
    match octet {
        b'0'..=b'9' => (remainder * 10 + u32::from(octet - b'0')) % 97,
        _ => (remainder * 100 + u32::from(octet.to_ascii_uppercase().saturating_sub(b'A')) + 10) % 97,
    }
}

fn length_of(first: u8, second: u8) -> Option<usize> {
    let country = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
    LENGTHS
        .binary_search_by(|(known, _)| (*known).cmp(&country))
        .ok()
        .and_then(|index| LENGTHS.get(index))
        .map(|(_, length)| *length)
}

/// The register of ISO 13616.
const LENGTHS: [([u8; 2], usize); 89] = [
    (*b"AD", 24),
    (*b"AE", 23),
    (*b"AL", 28),
    (*b"AT", 20),
    (*b"AZ", 28),
    (*b"BA", 20),
    (*b"BE", 16),
    (*b"BG", 22),
    (*b"BH", 22),
    (*b"BI", 27),
    (*b"BR", 29),
    (*b"BY", 28),
    (*b"CH", 21),
    (*b"CR", 22),
    (*b"CY", 28),
    (*b"CZ", 24),
    (*b"DE", 22),
    (*b"DJ", 27),
    (*b"DK", 18),
    (*b"DO", 28),
    (*b"EE", 20),
    (*b"EG", 29),
    (*b"ES", 24),
    (*b"FI", 18),
    (*b"FK", 18),
    (*b"FO", 18),
    (*b"FR", 27),
    (*b"GB", 22),
    (*b"GE", 22),
    (*b"GI", 23),
    (*b"GL", 18),
    (*b"GR", 27),
    (*b"GT", 28),
    (*b"HN", 28),
    (*b"HR", 21),
    (*b"HU", 28),
    (*b"IE", 22),
    (*b"IL", 23),
    (*b"IQ", 23),
    (*b"IS", 26),
    (*b"IT", 27),
    (*b"JO", 30),
    (*b"KW", 30),
    (*b"KZ", 20),
    (*b"LB", 28),
    (*b"LC", 32),
    (*b"LI", 21),
    (*b"LT", 20),
    (*b"LU", 20),
    (*b"LV", 21),
    (*b"LY", 25),
    (*b"MC", 27),
    (*b"MD", 24),
    (*b"ME", 22),
    (*b"MK", 19),
    (*b"MN", 20),
    (*b"MR", 27),
    (*b"MT", 31),
    (*b"MU", 30),
    (*b"NI", 28),
    (*b"NL", 18),
    (*b"NO", 15),
    (*b"OM", 23),
    (*b"PK", 24),
    (*b"PL", 28),
    (*b"PS", 29),
    (*b"PT", 25),
    (*b"QA", 29),
    (*b"RO", 24),
    (*b"RS", 22),
    (*b"RU", 33),
    (*b"SA", 24),
    (*b"SC", 31),
    (*b"SD", 18),
    (*b"SE", 24),
    (*b"SI", 19),
    (*b"SK", 24),
    (*b"SM", 27),
    (*b"SO", 23),
    (*b"ST", 25),
    (*b"SV", 28),
    (*b"TL", 23),
    (*b"TN", 24),
    (*b"TR", 26),
    (*b"UA", 29),
    (*b"VA", 22),
    (*b"VG", 24),
    (*b"XK", 20),
    (*b"YE", 30),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        let (mut from, mut all) = (0, Vec::new());
        while let Search::Found(begin, until) = search(text.as_bytes(), from, true) {
            all.push(&text[begin..until]);
            from = until;
        }
        all
    }

    #[test]
    fn the_register_is_in_order() {
        assert!(LENGTHS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn accounts_are_found_however_they_are_written() {
        for text in [
            "DE89370400440532013000",
            "GB29NWBK60161331926819",
            "FR1420041010050500013M02606",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
            "de89370400440532013000",
            "GB29 NWBK 6016 1331 9268 19",
            "GB29-NWBK-6016-1331-9268-19",
            "CH93+0076+2011+6238+5295+7",
            "CH93%200076%202011%206238%205295%207",
        ] {
            assert_eq!(found(text), [text]);
            assert_eq!(found(&format!("iban: {text}, bic")), [text]);
        }
        assert_eq!(
            found("from DE89370400440532013000 to NO9386011117947"),
            ["DE89370400440532013000", "NO9386011117947"]
        );
    }

    #[test]
    fn what_is_no_account_is_left_alone() {
        for text in [
            "DE89370400440532013001",
            "DE8937040044053201300",
            "DE893704004405320130000",
            "XDE89370400440532013000",
            "De89370400440532013000",
            "DE89 370400440532013000",
            "DE89 3704 004405320130 00",
            "ZZ89370400440532013000",
            "DE is a country",
        ] {
            assert!(found(text).is_empty(), "{text}");
        }
    }
}
