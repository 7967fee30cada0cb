//! Tells whether a ClientHello carries the extension `encrypted_client_hello` (RFC 9849 §5).
//!
//! Does not open it: nobody but its server can. Takes what [`crate::client_hello::peek`] has accepted, which has checked
//! every length; here a length that does not fit ends the search.

/// RFC 9849 §11.1, and the ESNI drafts before it, which hide a name just as well.
const EXTENSIONS: [u16; 2] = [0xfe0d, 0xffce];
const RECORD_HEADER: usize = 5;
/// Handshake header, version and random (RFC 8446 §4.1.2).
const BEFORE_SESSION: usize = 4 + 2 + 32;

/// `octets`: the records that `peek` looked at.
pub fn is_present(octets: &[u8]) -> bool {
    let message = unframed(octets);
    extension_kinds(&message).is_some_and(|kinds| kinds.iter().any(|kind| EXTENSIONS.contains(kind)))
}

/// The handshake message without the record headers it was cut up by.
fn unframed(octets: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(octets.len());
    let mut rest = octets;
    while let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) {
        let length = header.get(3..5).map_or(0, number);
        let (record, after) = after.split_at_checked(length).unwrap_or((after, &[]));
        message.extend_from_slice(record);
        rest = after;
    }
    message
}

fn extension_kinds(message: &[u8]) -> Option<Vec<u16>> {
    let rest = message.get(BEFORE_SESSION..)?;
    let rest = skip_vector(rest, 1)?;
    let rest = skip_vector(rest, 2)?;
    let rest = skip_vector(rest, 1)?;
    let mut extensions = rest.get(2..)?.get(..number(rest.get(..2)?))?;
    let mut kinds = Vec::new();
    while let Some(kind) = extensions.get(..2) {
        kinds.push(u16::from_be_bytes(kind.try_into().ok()?));
        extensions = skip_vector(extensions.get(2..)?, 2)?;
    }
    Some(kinds)
}

/// Behind a vector whose length stands in `width` octets before it.
fn skip_vector(octets: &[u8], width: usize) -> Option<&[u8]> {
    let length = number(octets.get(..width)?);
    octets.get(width.checked_add(length)?..)
}

fn number(octets: &[u8]) -> usize {
    octets.iter().fold(0, |number, octet| number << 8 | usize::from(*octet))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Parse, client_hello};

    /// A hello with these extensions, in records of at most `record` octets.
    fn hello(extensions: &[(u16, &[u8])], record: usize) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, value) in extensions {
            list.extend(kind.to_be_bytes());
            list.extend((value.len() as u16).to_be_bytes());
            list.extend(*value);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((list.len() as u16).to_be_bytes());
        body.extend(list);
        let mut message = vec![1, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        let framed = message.chunks(record).flat_map(|part| {
            let length = (part.len() as u16).to_be_bytes();
            [&[22, 3, 1, length[0], length[1]], part].concat()
        });
        framed.collect()
    }

    #[test]
    fn the_extension_is_found_wherever_it_stands_and_however_it_is_cut() {
        for record in [1, 3, 40, 16_000] {
            for (extensions, present) in [
                (&[(0xfe0d_u16, &b"x"[..])][..], true),
                (&[(43, b"ab"), (0xfe0d, b""), (45, b"c")], true),
                (&[(0xffce, b"abc")], true),
                (&[(43, b"\xfe\x0d")], false),
                (&[], false),
            ] {
                let octets = hello(extensions, record);
                assert!(matches!(client_hello::peek(&octets), Ok(Parse::Complete { .. })));
                assert_eq!(is_present(&octets), present, "{extensions:?} {record}");
            }
        }
    }

    #[test]
    fn octets_of_strangers_never_stop_the_search_the_wrong_way() {
        let mut random = fastrand::Rng::with_seed(3);
        let whole = hello(&[(43, b"ab"), (0xfe0d, b"xyz")], 50);
        for _ in 0..50_000 {
            let mut octets = whole.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..octets.len());
                octets[at] = random.u8(..);
            }
            octets.truncate(random.usize(..=octets.len()));
            let _: bool = is_present(&octets);
        }
    }
}
