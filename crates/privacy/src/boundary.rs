//! Where a number or a word may begin and end: the octets around it decide whether it stands for itself.

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Search {
    /// Where it begins and ends.
    Found(usize, usize),
    /// Nothing begins before here; what follows is to be looked at again when there is more.
    ClearUpTo(usize),
}

/// What a reading at one place came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It ends here.
    Match(usize),
    No,
    /// What follows decides.
    More,
}

/// Octets that are looked back on.
pub(crate) const CONTEXT: usize = 3;

/// Whether something that stands for itself may begin at `at`: not within a word, and not behind a decimal point.
pub(crate) fn begins(text: &[u8], at: usize) -> bool {
    let back = |count: usize| at.checked_sub(count).and_then(|index| text.get(index)).copied();
    match back(1) {
        None => true,
        Some(last) if is_word(last) => {
            let escaped = back(2) == Some(b'\\') && matches!(last, b'n' | b'r' | b't' | b'b' | b'f');
            let percent = back(3) == Some(b'%')
                && last.is_ascii_hexdigit()
                && back(2).is_some_and(|octet| octet.is_ascii_hexdigit());
            escaped || percent
        }
        // The first two octets after it are an escape's.
        Some(b'%') => false,
        Some(b'.') => !back(2).is_some_and(|octet| octet.is_ascii_digit()),
        Some(_) => true,
    }
}

/// Whether it may end before `at`; `None`: what follows decides.
pub(crate) fn ends(text: &[u8], at: usize, end: bool) -> Option<bool> {
    match text.get(at) {
        None => end.then_some(true),
        Some(octet) if is_word(*octet) => Some(false),
        Some(b'.') => match text.get(at + 1) {
            None => end.then_some(true),
            Some(octet) => Some(!octet.is_ascii_digit()),
        },
        Some(_) => Some(true),
    }
}

/// What may stand between the groups of a number: its first octet, which tells it from the others, and its length.
pub(crate) fn separator(text: &[u8], at: usize) -> Option<(u8, usize)> {
    match text.get(at..).unwrap_or_default() {
        [octet @ (b' ' | b'-' | b'+'), ..] => Some((*octet, 1)),
        // A blank in a URL or a form.
        [b'%', b'2', b'0', ..] => Some((b'%', 3)),
        _ => None,
    }
}

/// Whether what comes next may become a separator.
pub(crate) fn may_separate(text: &[u8], at: usize) -> bool {
    matches!(text.get(at..), Some([b'%'] | [b'%', b'2']))
}

pub(crate) fn is_word(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet == b'_'
}
