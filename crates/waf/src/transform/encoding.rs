//! Base64, hexadecimal, digests and parity bits.

use md5::Md5;
use sha1::{Digest, Sha1};

use super::hex_pair;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn sextet(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

/// Decodes up to the first byte outside the alphabet, as APR does.
pub(super) fn base64_decode(value: &[u8], out: &mut Vec<u8>) {
    decode_sextets(value.iter().map_while(|byte| sextet(*byte)), out);
}

/// Skips what is not in the alphabet, as PHP does; padding ends it.
pub(super) fn base64_decode_lenient(value: &[u8], out: &mut Vec<u8>) {
    decode_sextets(value.iter().take_while(|byte| **byte != b'=').filter_map(|byte| sextet(*byte)), out);
}

fn decode_sextets(sextets: impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    let (mut bits, mut held) = (0u32, 0u32);
    for sextet in sextets {
        bits = (bits << 6 | u32::from(sextet)) & 0xff_ffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
}

pub(super) fn base64_encode(value: &[u8], out: &mut Vec<u8>) {
    out.reserve(value.len().div_ceil(3) * 4);
    for chunk in value.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let filled = place <= chunk.len();
            let index = (bits >> (18 - 6 * place) & 63) as usize;
            out.push(if filled { ALPHABET.get(index).copied().unwrap_or(b'=') } else { b'=' });
        }
    }
}

/// Pairs of digits; a byte that is no digit counts as zero and an odd last one is dropped.
pub(super) fn hex_decode(value: &[u8], out: &mut Vec<u8>) {
    out.extend(value.chunks_exact(2).map(|pair| hex_pair(pair).unwrap_or(0)));
}

pub(super) fn hex_encode(value: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    out.extend(value.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

pub(super) fn md5(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&Md5::digest(value));
}

pub(super) fn sha1(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&Sha1::digest(value));
}

/// What the eighth bit becomes.
#[derive(Clone, Copy)]
pub(super) enum Parity {
    Even,
    Odd,
    Zero,
}

pub(super) fn parity(value: &[u8], parity: Parity, out: &mut Vec<u8>) {
    let set = |byte: u8| {
        let odd = (byte & 0x7f).count_ones() % 2 == 1;
        match (parity, odd) {
            (Parity::Even, true) | (Parity::Odd, false) => byte | 0x80,
            (Parity::Even, false) | (Parity::Odd, true) | (Parity::Zero, _) => byte & 0x7f,
        }
    };
    out.extend(value.iter().map(|byte| set(*byte)));
}
