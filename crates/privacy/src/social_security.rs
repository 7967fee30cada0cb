//! US social security numbers, written AAA-GG-SSSS. Nine digits in one piece are too many things to be taken for one.

use crate::boundary::{Reading, Search, begins, ends};

const SHAPE: &[u8; 11] = b"000-00-0000";

pub(crate) fn search(text: &[u8], from: usize, end: bool) -> Search {
    let mut at = from;
    while let Some(octet) = text.get(at) {
        if octet.is_ascii_digit() && begins(text, at) {
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
    let rest = text.get(at..).unwrap_or_default();
    for (shape, octet) in SHAPE.iter().zip(rest) {
        if if *shape == b'0' { !octet.is_ascii_digit() } else { octet != shape } {
            return Reading::No;
        }
    }
    let Some(number) = rest.get(..SHAPE.len()) else {
        return if end { Reading::No } else { Reading::More };
    };
    if !is_issued(number) {
        return Reading::No;
    }
    let until = at + SHAPE.len();
    // A fourth group makes it something else.
    match (ends(text, until, end), text.get(until)) {
        (None, _) => Reading::More,
        (Some(true), Some(b'-')) => match text.get(until + 1) {
            None if !end => Reading::More,
            Some(octet) if octet.is_ascii_digit() => Reading::No,
            _ => Reading::Match(until),
        },
        (Some(true), _) => Reading::Match(until),
        (Some(false), _) => Reading::No,
    }
}

/// Areas 000, 666 and 900 up, group 00 and serial 0000 were never given to anybody, and one number was printed in wallets.
fn is_issued(number: &[u8]) -> bool {
    let never = number.starts_with(b"000") || number.starts_with(b"666") || number.starts_with(b"9");
    !never && number.get(4..6) != Some(b"00") && !number.ends_with(b"0000") && number != b"078-05-1120"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issued_numbers_are_found_and_nothing_else() {
        for (text, expected) in [
            ("ssn 536-90-4399.", Some((4, 15))),
            ("\"536-90-4399\"", Some((1, 12))),
            ("000-12-3456", None),
            ("666-12-3456", None),
            ("900-12-3456", None),
            ("536-00-4399", None),
            ("536-90-0000", None),
            ("078-05-1120", None),
            ("1536-90-4399", None),
            ("536-90-43991", None),
            ("536-90-4399-1", None),
            ("536904399", None),
            ("536 90 4399", None),
        ] {
            let found = match search(text.as_bytes(), 0, true) {
                Search::Found(begin, until) => Some((begin, until)),
                Search::ClearUpTo(_) => None,
            };
            assert_eq!(found, expected, "{text}");
        }
    }
}
