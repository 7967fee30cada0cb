//! Payment card numbers: 12 to 19 digits of an issuer's range (ISO/IEC 7812) whose last one is Luhn's, in one piece or in groups.

use crate::boundary::{self, Reading, Search, begins, ends, may_separate};

const DIGITS_MAX: usize = 19;
/// `4111 1111 1111 1111 111` has five.
const GROUPS_MAX: usize = 5;

pub(crate) fn search(text: &[u8], from: usize, end: bool) -> Search {
    let mut at = from;
    while let Some(octet) = text.get(at) {
        if !octet.is_ascii_digit() {
            at += 1;
            continue;
        }
        // What begins with 0, 1, 7 or in the middle of a word is nobody's.
        if matches!(octet, b'2'..=b'6' | b'8' | b'9') && begins(text, at) {
            match read(text, at, end) {
                Reading::Match(until) => return Search::Found(at, until),
                Reading::More => return Search::ClearUpTo(at),
                Reading::No => {}
            }
        }
        let is_percent = |back: usize| at.checked_sub(back).and_then(|index| text.get(index)) == Some(&b'%');
        // Behind a percent sign only the escape is left out, not the number that may follow it.
        at += match (is_percent(1), is_percent(2)) {
            (true, _) => 2,
            (_, true) => 1,
            _ => digits_at(text, at),
        };
    }
    Search::ClearUpTo(text.len())
}

fn digits_at(text: &[u8], at: usize) -> usize {
    text.get(at..).unwrap_or_default().iter().take_while(|octet| octet.is_ascii_digit()).count().max(1)
}

/// Digits so far, with the ends of their groups.
#[derive(Default)]
struct Number {
    digits: [u8; DIGITS_MAX],
    count: usize,
    /// How many digits there are at the end of each group, and where that is.
    groups: [(usize, usize); GROUPS_MAX],
    group_count: usize,
}

impl Number {
    fn push_digit(&mut self, octet: u8) -> Option<()> {
        *self.digits.get_mut(self.count)? = octet - b'0';
        self.count += 1;
        Some(())
    }

    fn groups(&self) -> &[(usize, usize)] {
        self.groups.get(..self.group_count).unwrap_or_default()
    }

    /// Digits of the last whole group.
    fn last_len(&self) -> usize {
        let counts = self.groups();
        let before = counts.len().checked_sub(2).and_then(|index| counts.get(index)).map_or(0, |(count, _)| *count);
        self.count - before
    }
}

fn read(text: &[u8], at: usize, end: bool) -> Reading {
    let mut number = Number::default();
    let mut at = at;
    let mut separator = None;
    loop {
        while let Some(octet) = text.get(at).filter(|octet| octet.is_ascii_digit()) {
            if number.push_digit(*octet).is_none() {
                // Too long: what was whole before may still be one.
                return judge(&number, text, end);
            }
            at += 1;
        }
        if !end && (at >= text.len() || may_separate(text, at)) {
            return Reading::More;
        }
        if let Some(slot) = number.groups.get_mut(number.group_count) {
            *slot = (number.count, at);
            number.group_count += 1;
        }
        let next = boundary::separator(text, at);
        let (Some((next, width)), true) =
            (next, number.group_count < GROUPS_MAX && (3..=8).contains(&number.last_len()))
        else {
            break;
        };
        if separator.is_some_and(|before| before != next) {
            break;
        }
        match text.get(at + width) {
            None if !end => return Reading::More,
            Some(octet) if octet.is_ascii_digit() => {}
            _ => break,
        }
        separator = Some(next);
        at += width;
    }
    judge(&number, text, end)
}

/// The longest run of whole groups that is a card's.
fn judge(number: &Number, text: &[u8], end: bool) -> Reading {
    let groups = number.groups();
    for (index, (count, until)) in groups.iter().enumerate().rev() {
        let before = index.checked_sub(1).and_then(|index| groups.get(index)).map_or(0, |(count, _)| *count);
        // A date or a CVC behind the number is no group of it.
        if index > 0 && *count - before < 3 {
            continue;
        }
        if !number.digits.get(..*count).is_some_and(is_card) {
            continue;
        }
        match ends(text, *until, end) {
            Some(true) => return Reading::Match(*until),
            Some(false) => {}
            None => return Reading::More,
        }
    }
    Reading::No
}

fn is_card(digits: &[u8]) -> bool {
    is_issued(digits) && luhn(digits)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(*digit)) {
            (1, digit) if digit > 4 => digit * 2 - 9,
            (1, digit) => digit * 2,
            (_, digit) => digit,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Whether an issuer has numbers of this beginning and length.
fn is_issued(digits: &[u8]) -> bool {
    let length = digits.len();
    let lead = digits.iter().chain(std::iter::repeat(&0)).take(6).fold(0, |sum, digit| sum * 10 + u32::from(*digit));
    RANGES.iter().any(|(first, last, lengths)| (*first..=*last).contains(&lead) && lengths.contains(&(length as u8)))
}

const SIXTEEN_AND_UP: &[u8] = &[16, 17, 18, 19];
const MAESTRO: &[u8] = &[12, 13, 14, 15, 16, 17, 18, 19];

/// First six digits from and to, and the lengths of those numbers.
const RANGES: &[(u32, u32, &[u8])] = &[
    // Visa
    (400_000, 499_999, &[13, 16, 19]),
    // Mastercard
    (510_000, 559_999, &[16]),
    (222_100, 272_099, &[16]),
    // American Express
    (340_000, 349_999, &[15]),
    (370_000, 379_999, &[15]),
    // Discover
    (601_100, 601_199, SIXTEEN_AND_UP),
    (644_000, 659_999, SIXTEEN_AND_UP),
    // Diners Club
    (300_000, 305_999, &[14, 16, 17, 18, 19]),
    (309_500, 309_599, &[14, 16, 17, 18, 19]),
    (360_000, 369_999, &[14, 15, 16, 17, 18, 19]),
    (380_000, 399_999, &[14, 16, 17, 18, 19]),
    // JCB
    (352_800, 358_999, SIXTEEN_AND_UP),
    // UnionPay
    (620_000, 629_999, SIXTEEN_AND_UP),
    (810_000, 817_199, SIXTEEN_AND_UP),
    // Maestro
    (501_800, 501_899, MAESTRO),
    (502_000, 502_099, MAESTRO),
    (503_800, 503_899, MAESTRO),
    (589_300, 589_399, MAESTRO),
    (630_400, 630_499, MAESTRO),
    (675_900, 675_999, MAESTRO),
    (676_100, 676_399, MAESTRO),
    // Mir
    (220_000, 220_499, SIXTEEN_AND_UP),
    // RuPay
    (508_500, 508_999, &[16]),
    (606_985, 607_984, &[16]),
    (608_001, 608_500, &[16]),
    (817_200, 829_999, &[16]),
    // Troy
    (979_200, 979_299, &[16]),
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
    fn numbers_of_every_scheme_are_found() {
        for number in [
            "4111111111111111",
            "4222222222222",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "6011111111111117",
            "30569309025904",
            "36227206271667",
            "3530111333300000",
            "6200000000000005",
            "6759649826438453",
            "2200000000000004",
            "9792000000000003",
        ] {
            assert_eq!(found(number), [number]);
            assert_eq!(found(&format!("{{\"pan\":\"{number}\"}}")), [number]);
            assert_eq!(found(&format!("pan={number}&x=1")), [number]);
        }
    }

    #[test]
    fn groups_are_read_and_what_stands_beside_them_is_left() {
        for (text, expected) in [
            ("4111 1111 1111 1111", "4111 1111 1111 1111"),
            ("4111-1111-1111-1111", "4111-1111-1111-1111"),
            ("n=4111+1111+1111+1111&", "4111+1111+1111+1111"),
            ("3782 822463 10005", "3782 822463 10005"),
            ("4111 1111 1111 1111 12/27 123", "4111 1111 1111 1111"),
            ("4111 1111 1111 1111 737", "4111 1111 1111 1111"),
            ("no. 17 4111 1111 1111 1111", "4111 1111 1111 1111"),
            ("%204111111111111111", "4111111111111111"),
            ("n=4111%201111%201111%201111&", "4111%201111%201111%201111"),
            ("a\\n4111111111111111", "4111111111111111"),
            ("paid by 4111111111111111.", "4111111111111111"),
        ] {
            assert_eq!(found(text), [expected], "{text}");
        }
    }

    #[test]
    fn what_is_no_card_is_left_alone() {
        for text in [
            "4111111111111112",
            "1111111111111117",
            "0.4111111111111111",
            "4111111111111111.25",
            "id4111111111111111",
            "4111111111111111abc",
            "41111111111111111111",
            "1731234567890",
            "1731234567890123",
            "4111 1111-1111 1111",
            "12 34 56 78 90 12 34 56",
            "2026-11-21 12:30:45",
            "4111 111111111 111",
        ] {
            assert!(found(text).is_empty(), "{text}");
        }
    }
}
