//! A head in the one spelling that every reader behind us takes: some know fewer characters, or compare hosts by their octets.

use crate::{Head, head::authority_range};

impl Head {
    /// The head in `head` (all of its octets) with `"`, `<`, `>` and the grave accent of its target encoded, as RFC 3986 §2.1 and every
    /// browser has it, and in an absolute target (RFC 9112 §3.2.2) the host in lower case there and in Host. `None`: it is so
    /// already.
    pub fn respelt(&self, head: &[u8]) -> Option<Vec<u8>> {
        let target = self.target(head);
        let host = authority_range(target.as_bytes()).filter(|_| self.names_host_twice(head)).unwrap_or((0, 0));
        let is_odd = |byte: u8| matches!(byte, b'"' | b'<' | b'>' | b'`');
        if host.0 == host.1 && !target.bytes().any(is_odd) {
            return None;
        }
        let (from, end) = self.target_range();
        let mut spelt = head.get(..from)?.to_vec();
        for (at, byte) in target.bytes().enumerate() {
            match byte {
                _ if is_odd(byte) => spelt.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                _ if (host.0..host.1).contains(&at) => spelt.push(byte.to_ascii_lowercase()),
                _ => spelt.push(byte),
            }
        }
        let rest = spelt.len();
        spelt.extend_from_slice(head.get(end..)?);
        if let (true, Some((from, to))) = (host.0 < host.1, self.host_range(head)) {
            // As far behind the target as it was.
            let place = |at: usize| Some(rest + at.checked_sub(end)?);
            spelt.get_mut(place(from)?..place(to)?)?.make_ascii_lowercase();
        }
        Some(spelt)
    }

    /// Whether the target's host and Host are the same in different letters.
    fn names_host_twice(&self, head: &[u8]) -> bool {
        let host = self.host_range(head).and_then(|(from, to)| head.get(from..to));
        let target = self.target(head).as_bytes();
        let authority = authority_range(target).and_then(|(from, to)| target.get(from..to));
        host.is_some() && host != authority
    }
}

#[cfg(test)]
mod tests {
    use crate::{Cursor, HeadLimits, Parse, parse_head};

    fn respelt(line: &str, host: &str) -> Option<String> {
        let raw = format!("{line} HTTP/1.1\r\nx: y\r\nHost: {host}\r\n\r\n");
        let parsed = parse_head(raw.as_bytes(), &HeadLimits::default(), &mut Cursor::default()).unwrap();
        let Parse::Complete { head, len } = parsed else { panic!("{raw}") };
        let spelt = head.respelt(&raw.as_bytes()[..len])?;
        let again = parse_head(&spelt, &HeadLimits::default(), &mut Cursor::default()).unwrap();
        assert!(matches!(again, Parse::Complete { head, len } if len == spelt.len() && head.respelt(&spelt).is_none()));
        Some(String::from_utf8(spelt).unwrap().replace(" HTTP/1.1\r\nx: y\r\nHost: ", " | ").replace("\r\n", ""))
    }

    #[test]
    fn what_others_would_read_otherwise_is_spelt_for_them() {
        for (line, host, expected) in [
            ("GET /a?b=%22^{|}[]'", "A.b", None),
            ("GET http://a.b:80/C?D", "a.b:80", None),
            ("GET /`a\"?b=<c>", "A", Some("GET /%60a%22?b=%3Cc%3E | A")),
            ("GET http://A.b/C?D", "a.B", Some("GET http://a.b/C?D | a.b")),
            ("GET HTTP://a/C", "A", Some("GET HTTP://a/C | a")),
            ("GET http://A?\"", "a", Some("GET http://a?%22 | a")),
            ("OPTIONS *", "A", None),
        ] {
            assert_eq!(respelt(line, host).as_deref(), expected, "{line} {host}");
        }
    }
}
