//! What one authority took back: a text file of `SERIAL SECONDS` lines, and the list made from it.

use crate::CaError;
use rcgen::{RevokedCertParams, SerialNumber};
use time::OffsetDateTime;

#[derive(Debug, Default)]
pub(crate) struct Revoked(Vec<(String, i64)>);

/// A list is read by every peer at every change; long before this, a new intermediate is the answer.
const MOST: usize = 100_000;

impl Revoked {
    pub(crate) fn read(text: &str, what: &str) -> Result<Self, CaError> {
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let parsed = line.split_once(' ').and_then(|(serial, at)| {
                octets(serial)?;
                Some((
                    serial.to_owned(),
                    at.parse().ok().filter(|at| OffsetDateTime::from_unix_timestamp(*at).is_ok())?,
                ))
            });
            let wrong = || CaError::Unreadable {
                what: what.to_owned(),
                why: format!("line {} is not `SERIAL SECONDS`", index + 1),
            };
            lines.push(parsed.ok_or_else(wrong)?);
        }
        Ok(Self(lines))
    }

    pub(crate) fn add(&mut self, serial: String, now: OffsetDateTime) -> Result<(), CaError> {
        if self.0.iter().any(|(known, _)| *known == serial) {
            return Ok(());
        }
        if self.0.len() >= MOST {
            let why = format!("it is full with {MOST} entries; make a new intermediate");
            return Err(CaError::Unreadable { what: "the revocation list".to_owned(), why });
        }
        self.0.push((serial, now.unix_timestamp()));
        Ok(())
    }

    pub(crate) fn text(&self) -> String {
        self.0.iter().map(|(serial, at)| format!("{serial} {at}\n")).collect()
    }

    /// RFC 5280 §5.2.3: it only grows. Lists of one second differ by their length.
    pub(crate) fn number(&self, now: OffsetDateTime) -> u64 {
        u64::try_from(now.unix_timestamp())
            .unwrap_or_default()
            .saturating_mul(MOST as u64)
            .saturating_add(self.0.len() as u64)
    }

    pub(crate) fn entries(&self) -> Vec<RevokedCertParams> {
        let entry = |(serial, at): &(String, i64)| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&octets(serial)?),
                revocation_time: OffsetDateTime::from_unix_timestamp(*at).ok()?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        self.0.iter().filter_map(entry).collect()
    }
}

fn octets(hex: &str) -> Option<Vec<u8>> {
    if hex.is_empty() || !hex.len().is_multiple_of(2) || hex.len() > 40 {
        return None;
    }
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_revoked_reads_back_once_each() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let mut revoked = Revoked::default();
        for serial in ["0a0b", "ff", "0a0b"] {
            revoked.add(serial.to_owned(), now).unwrap();
        }
        assert_eq!(revoked.text(), "0a0b 1800000000\nff 1800000000\n");
        let again = Revoked::read(&revoked.text(), "x").unwrap();
        assert_eq!((again.entries().len(), again.number(now)), (2, revoked.number(now)));
        for bad in ["zz 1", "0a", "0a x", "0 1", " 1"] {
            assert!(Revoked::read(bad, "x").is_err(), "{bad}");
        }
    }
}
