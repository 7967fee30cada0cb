//! A domain name: wire octets in lower case (RFC 4343 compares without case), at most 255 of them.
//!
//! No compression here: messages are read by `query` and written by `message`.

use std::{borrow::Borrow, cmp::Ordering, fmt};

/// An absolute name in wire form, in lower case, with the root label at its end.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<[u8]>);

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a label is empty")]
    EmptyLabel,
    #[error("a label is longer than 63 octets")]
    LongLabel,
    #[error("the name is longer than 255 octets")]
    Long,
    #[error("an escape is `\\` and a character, or `\\` and three digits up to 255")]
    Escape,
    #[error("a relative name needs an origin")]
    Relative,
    #[error("not a name in wire form")]
    Wire,
}

impl Name {
    /// RFC 1035 §2.3.4.
    pub const OCTETS_MAX: usize = 255;
    pub const LABEL_MAX: usize = 63;

    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Reads the text of RFC 1035 §5.1; a name without a final dot is completed by `origin`.
    pub fn parse(text: &str, origin: Option<&Self>) -> Result<Self, NameError> {
        Ok(Self::lowered(wire_of_text(text.as_bytes(), origin)?))
    }

    /// For names in TOML, where everybody writes `gslb.example.com` and means the absolute name.
    pub fn absolute(text: &str) -> Result<Self, NameError> {
        Self::parse(text, Some(&Self::root()))
    }

    /// Takes one uncompressed name from the head of `octets`.
    pub fn from_wire(octets: &[u8]) -> Result<Self, NameError> {
        let length = wire_length(octets).ok_or(NameError::Wire)?;
        octets.get(..length).map(|wire| Self::lowered(wire.to_vec())).ok_or(NameError::Wire)
    }

    fn lowered(mut wire: Vec<u8>) -> Self {
        // Length octets are at most 63 and so no letters: the whole can be lowered at once.
        wire.make_ascii_lowercase();
        Self(wire.into())
    }

    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// Labels from the left, without the root.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        let labels: Vec<_> = Suffixes(&self.0).filter_map(first_label).collect();
        labels.into_iter()
    }

    /// Without the root, and without counting a leading `*` when asked for RRSIG (see [`Name::rrsig_labels`]).
    pub fn label_count(&self) -> usize {
        label_count(&self.0)
    }

    /// RFC 4034 §3.1.3: a leading `*` is not counted.
    pub fn rrsig_labels(&self) -> u8 {
        let all = self.label_count() - usize::from(self.is_wildcard());
        // A name has at most 127 labels.
        all as u8
    }

    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with(b"\x01*")
    }

    /// The name without its first label; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        parent(&self.0).map(|wire| Self(wire.into()))
    }

    /// Whether this is `other` or lies below it.
    pub fn is_at_or_under(&self, other: &Self) -> bool {
        is_suffix(&self.0, &other.0)
    }

    /// `*.` before this name.
    pub fn wildcard(&self) -> Result<Self, NameError> {
        self.with_label(b"*")
    }

    /// `label.` before this name.
    pub fn with_label(&self, label: &[u8]) -> Result<Self, NameError> {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        if label.len() > Self::LABEL_MAX {
            return Err(NameError::LongLabel);
        }
        let mut wire = Vec::with_capacity(self.0.len() + label.len() + 1);
        wire.push(label.len() as u8);
        wire.extend_from_slice(label);
        wire.extend_from_slice(&self.0);
        if wire.len() > Self::OCTETS_MAX { Err(NameError::Long) } else { Ok(Self::lowered(wire)) }
    }

    /// RFC 6672 §2.2: the labels before `from`, put before `to`. `None`: not below `from`, or too long.
    pub fn substitute(&self, from: &Self, to: &Self) -> Option<Self> {
        if !self.is_at_or_under(from) {
            return None;
        }
        let front = self.0.get(..self.0.len().checked_sub(from.0.len())?)?;
        let wire = [front, &to.0].concat();
        (wire.len() <= Self::OCTETS_MAX).then(|| Self::lowered(wire))
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// RFC 4034 §6.1: by labels from the right.
impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.labels().rev().cmp(other.labels().rev())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => write!(f, "\\{}", *octet as char)?,
                    0x21..=0x7e => write!(f, "{}", *octet as char)?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name and each of its ancestors, the root last.
pub(crate) struct Suffixes<'w>(pub(crate) &'w [u8]);

impl<'w> Iterator for Suffixes<'w> {
    type Item = &'w [u8];

    fn next(&mut self) -> Option<&'w [u8]> {
        let here = Some(self.0).filter(|here| !here.is_empty())?;
        self.0 = parent(here).unwrap_or_default();
        Some(here)
    }
}

/// Wire form of a text, in the case it was written.
pub(crate) fn wire_of_text(text: &[u8], origin: Option<&Name>) -> Result<Vec<u8>, NameError> {
    if text == b"@" {
        return origin.map(|origin| origin.0.to_vec()).ok_or(NameError::Relative);
    }
    if text == b"." {
        return Ok(vec![0]);
    }
    let mut wire = Vec::with_capacity(text.len() + 2);
    let mut label = Vec::new();
    let mut absolute = false;
    let mut rest = text.iter().copied();
    while let Some(octet) = rest.next() {
        absolute = false;
        match octet {
            b'.' => {
                close_label(&mut wire, &mut label)?;
                absolute = true;
            }
            b'\\' => label.push(unescape(&mut rest).ok_or(NameError::Escape)?),
            _ => label.push(octet),
        }
    }
    if absolute {
        wire.push(0);
    } else {
        close_label(&mut wire, &mut label)?;
        wire.extend_from_slice(&origin.ok_or(NameError::Relative)?.0);
    }
    if wire.len() > Name::OCTETS_MAX { Err(NameError::Long) } else { Ok(wire) }
}

fn close_label(wire: &mut Vec<u8>, label: &mut Vec<u8>) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > Name::LABEL_MAX {
        return Err(NameError::LongLabel);
    }
    wire.push(label.len() as u8);
    wire.append(label);
    Ok(())
}

/// What follows a backslash: `\X` or `\DDD` (RFC 1035 §5.1).
pub(crate) fn unescape(rest: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let first = rest.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        let digit = rest.next().filter(u8::is_ascii_digit)?;
        value = value * 10 + u32::from(digit - b'0');
    }
    u8::try_from(value).ok()
}

/// Octets of the uncompressed name at the head of `octets`; `None` when it is not one.
pub(crate) fn wire_length(octets: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*octets.get(at)?);
        if length > Name::LABEL_MAX {
            return None;
        }
        at += length + 1;
        if at > Name::OCTETS_MAX || at > octets.len() {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// The wire form without its first label; `None` for the root.
pub(crate) fn parent(wire: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*wire.first()?);
    if length == 0 { None } else { wire.get(length + 1..) }
}

pub(crate) fn first_label(wire: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*wire.first()?);
    if length == 0 { None } else { wire.get(1..=length) }
}

pub(crate) fn label_count(wire: &[u8]) -> usize {
    Suffixes(wire).count().saturating_sub(1)
}

/// Whether `name` is `above` or below it, label by label.
pub(crate) fn is_suffix(name: &[u8], above: &[u8]) -> bool {
    Suffixes(name).any(|suffix| suffix == above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::absolute(text).unwrap()
    }

    #[test]
    fn rfc1035_5_1_texts_become_names_and_print_back() {
        let origin = name("example.com");
        for (text, printed) in [
            ("www", "www.example.com."),
            ("WWW.Example.ORG.", "www.example.org."),
            ("@", "example.com."),
            (".", "."),
            ("a\\.b", "a\\.b.example.com."),
            ("\\097\\000", "a\\000.example.com."),
            ("*.x", "*.x.example.com."),
            ("_sip._tcp", "_sip._tcp.example.com."),
        ] {
            assert_eq!(Name::parse(text, Some(&origin)).unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn what_is_too_long_or_empty_is_refused() {
        let long_label = "a".repeat(64);
        let long = format!("{}.", ["a".repeat(63).as_str(); 4].join("."));
        for (text, error) in [
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("", NameError::EmptyLabel),
            (&long_label, NameError::LongLabel),
            (&long, NameError::Long),
            ("a\\", NameError::Escape),
            ("a\\25", NameError::Escape),
            ("a\\256", NameError::Escape),
        ] {
            assert_eq!(Name::parse(text, Some(&Name::root())), Err(error), "{text}");
        }
        let most = format!("{}.{}", ["a".repeat(63).as_str(); 3].join("."), "a".repeat(61));
        assert_eq!(name(&most).as_wire().len(), 255);
    }

    #[test]
    fn rfc4034_6_1_names_sort_by_labels_from_the_right() {
        let sorted = [
            "example.",
            "a.example.",
            "yljkjljk.a.example.",
            "Z.a.example.",
            "zABC.a.EXAMPLE.",
            "z.example.",
            "\\001.z.example.",
            "*.z.example.",
            "\\200.z.example.",
        ];
        for pair in sorted.windows(2) {
            assert!(name(pair[0]) < name(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn descent_is_by_whole_labels() {
        for (a, b, under) in [
            ("a.example.com", "example.com", true),
            ("example.com", "example.com", true),
            ("badexample.com", "example.com", false),
            ("com", "example.com", false),
            ("a.b", ".", true),
        ] {
            assert_eq!(name(a).is_at_or_under(&name(b)), under, "{a} {b}");
        }
        let moved = name("x.y.old.test").substitute(&name("old.test"), &name("new.example")).unwrap();
        assert_eq!(moved, name("x.y.new.example"));
        assert_eq!(name("*.a.b").rrsig_labels(), 2);
    }

    #[test]
    fn wire_forms_are_read_strictly() {
        for (octets, length) in [
            (&b"\x01a\0"[..], Some(3)),
            (b"\x01a\0tail", Some(3)),
            (b"\x01a", None),
            (b"\xc0\x0c", None),
            (b"\x40aaaa", None),
            (b"", None),
        ] {
            assert_eq!(wire_length(octets), length, "{octets:?}");
        }
    }
}
