//! What the search found in texts that come with request after request: names, and the headers that a browser always
//! sends alike.
//!
//! What is found in a text depends on nothing but the text and the rules that look at it, so that a text which has been
//! searched needs no second search. Values that may be secret (cookies, credentials, arguments) are never kept here.

use std::cell::RefCell;
use std::num::NonZero;
use std::sync::atomic::{AtomicU32, Ordering};

/// Texts that a thread remembers.
const PLACES: usize = 1024;

/// Longer texts are searched every time; browsers' longest header lines are half of this.
const TEXT_BYTES: usize = 256;

/// Misses that a place withstands for each hit, up to this many: who sends a thousand new names does not drive out those
/// that all others send.
const WORTH: u8 = 7;

/// Headers whose values repeat and are no secret, in lower case. What is not on this list is not kept.
pub(super) const HEADERS: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "access-control-allow-origin",
    "access-control-request-headers",
    "access-control-request-method",
    "cache-control",
    "connection",
    "content-encoding",
    "content-language",
    "content-type",
    "dnt",
    "host",
    "keep-alive",
    "origin",
    "pragma",
    "priority",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-user",
    "sec-gpc",
    "server",
    "strict-transport-security",
    "te",
    "transfer-encoding",
    "upgrade-insecure-requests",
    "user-agent",
    "vary",
    "via",
    "x-content-type-options",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-frame-options",
    "x-requested-with",
];

/// Names one set of rules that look at a text; no two sets share one while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Audience(NonZero<u32>);

impl Audience {
    /// A new one; `None` when there are no more, after four thousand million of them.
    pub(super) fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let next = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| next.checked_add(1)).ok()?;
        NonZero::new(next).map(Self)
    }
}

/// The texts one thread remembers: each has one place, and what stands there gives way when it is worth no more.
#[derive(Debug, Default)]
pub(super) struct Recurring {
    places: Vec<Place>,
}

#[derive(Debug, Clone, Default)]
struct Place {
    audience: Option<Audience>,
    worth: u8,
    text: Vec<u8>,
    /// Numbers of the rules that the text may satisfy.
    found: Vec<u16>,
}

thread_local! {
    static RECURRING: RefCell<Recurring> = const { RefCell::new(Recurring { places: Vec::new() }) };
}

impl Recurring {
    /// Runs with what this thread remembers.
    pub(super) fn with<T>(run: impl FnOnce(&mut Self) -> T) -> T {
        RECURRING.with_borrow_mut(run)
    }

    /// The rules that a text may satisfy, if it has been searched for this audience.
    #[inline]
    pub(super) fn found(&mut self, audience: Audience, text: &[u8]) -> Option<&[u16]> {
        let place = self.places.get_mut(place_of(audience, text))?;
        if place.audience != Some(audience) || place.text != text {
            place.worth = place.worth.saturating_sub(1);
            return None;
        }
        place.worth = (place.worth + 1).min(WORTH);
        Some(&place.found)
    }

    /// Remembers what was found, unless the place is worth more to another text.
    pub(super) fn keep(&mut self, audience: Audience, text: &[u8], found: impl Iterator<Item = u16>) {
        if text.len() > TEXT_BYTES {
            return;
        }
        if self.places.is_empty() {
            self.places.resize(PLACES, Place::default());
        }
        let Some(place) = self.places.get_mut(place_of(audience, text)) else { return };
        if place.worth == 0 {
            place.audience = Some(audience);
            place.text.clear();
            place.text.extend_from_slice(text);
            place.found.clear();
            place.found.extend(found);
        }
    }
}

/// Where a text stands. Nothing depends on how well this mixes but time: two texts that share a place are told apart by
/// comparison, and are searched as if there were no memory.
#[inline]
fn place_of(audience: Audience, text: &[u8]) -> usize {
    // 2^64 divided by the golden ratio: Knuth, The Art of Computer Programming, volume 3, 6.4.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: u64| (sum.rotate_left(23) ^ word).wrapping_mul(SPREAD);
    let (words, rest) = text.as_chunks::<8>();
    let sum = words.iter().fold(u64::from(audience.0.get()), |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let rest = rest.iter().fold(text.len() as u64, |word, byte| word << 8 | u64::from(*byte));
    (mix(sum, rest) >> (64 - PLACES.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_remembered_for_its_audience_alone() {
        let mut memory = Recurring::default();
        let (one, other) = (Audience::new().unwrap(), Audience::new().unwrap());
        assert_eq!(memory.found(one, b"gzip"), None);
        memory.keep(one, b"gzip", [3, 7].into_iter());
        memory.keep(one, b"", [].into_iter());
        assert_eq!(memory.found(one, b"gzip"), Some(&[3, 7][..]));
        assert_eq!(memory.found(one, b""), Some(&[][..]));
        assert_eq!(memory.found(other, b"gzip"), None);
        assert_eq!(memory.found(one, b"gzip\0"), None);
        let long = vec![b'a'; TEXT_BYTES + 1];
        memory.keep(one, &long, [].into_iter());
        assert_eq!(memory.found(one, &long), None);
    }

    #[test]
    fn what_all_send_is_not_driven_out_by_what_one_sends() {
        let mut memory = Recurring::default();
        let audience = Audience::new().unwrap();
        memory.keep(audience, b"accept", [1].into_iter());
        let mut lost = 0;
        for number in 0..200_000u32 {
            if number % 100 == 0 && memory.found(audience, b"accept").is_none() {
                lost += 1;
                memory.keep(audience, b"accept", [1].into_iter());
            }
            let name = format!("x-{number}");
            if memory.found(audience, name.as_bytes()).is_none() {
                memory.keep(audience, name.as_bytes(), std::iter::empty());
            }
        }
        assert!(lost < 20, "lost {lost} times of 2,000");
        assert_eq!(memory.places.len(), PLACES);
        assert!(memory.places.iter().all(|place| place.text.capacity() <= 2 * TEXT_BYTES));
    }
}
