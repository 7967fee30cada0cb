//! Server cookies that every node of a set understands (RFC 9018 over RFC 7873). Pure: time and addresses are arguments.

use crate::edns::CookieOption;
use siphasher::sip::SipHasher24;
use std::{fmt, hash::Hasher, net::IpAddr};

/// Secrets that cookies are made and known by.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CookieSecrets {
    /// Makes new ones.
    pub(crate) current: [u8; 16],
    /// Known as well: before and after a change of secret on all nodes.
    pub(crate) others: Vec<[u8; 16]>,
}

/// What a client's cookie says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CookieState {
    Absent,
    /// The client has none of ours yet, or an old or forged one.
    New,
    /// Whoever asks can be reached at its address.
    Valid,
}

/// RFC 9018 §4.3: refused when older than an hour, or more than five minutes ahead.
const AGE_MAX: u32 = 3_600;
const AHEAD_MAX: u32 = 300;
/// RFC 9018 §4.3: given anew when older than half an hour.
const RENEW: u32 = 1_800;

impl CookieSecrets {
    /// Judges a client's cookie and gives the option to send back.
    pub(crate) fn check(&self, cookie: &CookieOption<'_>, client: IpAddr, now: u32) -> (CookieState, [u8; 24]) {
        let fresh = || self.make(&cookie.client, client, now);
        let Ok(server) = <&[u8; 16]>::try_from(cookie.server) else { return (CookieState::New, fresh()) };
        let [1, 0, 0, 0, t0, t1, t2, t3, ..] = *server else { return (CookieState::New, fresh()) };
        let made = u32::from_be_bytes([t0, t1, t2, t3]);
        // RFC 1982: the clock of cookies may wrap.
        let age = now.wrapping_sub(made);
        let in_time = age <= AGE_MAX || made.wrapping_sub(now) <= AHEAD_MAX;
        let known = |secret: &[u8; 16]| {
            let [head @ .., _, _, _, _, _, _, _, _] = server;
            let expected = hash(secret, &cookie.client, head, client);
            // Octets are compared without a branch: a cookie must not be guessed octet by octet.
            server.iter().skip(8).zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
        };
        if !in_time || !std::iter::once(&self.current).chain(&self.others).any(known) {
            return (CookieState::New, fresh());
        }
        if age > RENEW || !known(&self.current) {
            return (CookieState::Valid, fresh());
        }
        (CookieState::Valid, joined(&cookie.client, server))
    }

    fn make(&self, client_cookie: &[u8; 8], client: IpAddr, now: u32) -> [u8; 24] {
        let [t0, t1, t2, t3] = now.to_be_bytes();
        let head = [1, 0, 0, 0, t0, t1, t2, t3];
        let mut server = [0; 16];
        server[..8].copy_from_slice(&head);
        server[8..].copy_from_slice(&hash(&self.current, client_cookie, &head, client));
        joined(client_cookie, &server)
    }
}

/// RFC 9018 §4.4.
fn hash(secret: &[u8; 16], client_cookie: &[u8; 8], head: &[u8; 8], client: IpAddr) -> [u8; 8] {
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write(client_cookie);
    hasher.write(head);
    match client {
        IpAddr::V4(v4) => hasher.write(&v4.octets()),
        IpAddr::V6(v6) => hasher.write(&v6.octets()),
    }
    hasher.finish().to_le_bytes()
}

fn joined(client_cookie: &[u8; 8], server: &[u8; 16]) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(client_cookie);
    out[8..].copy_from_slice(server);
    out
}

impl fmt::Debug for CookieSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecrets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    fn octets<const N: usize>(hex: &str) -> [u8; N] {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    fn secrets(current: &str) -> CookieSecrets {
        CookieSecrets { current: octets(current), others: Vec::new() }
    }

    fn check(secrets: &CookieSecrets, option: &str, client: &str, now: u32) -> (CookieState, String) {
        let option = HEXLOWER.decode(option.as_bytes()).unwrap();
        let (client_cookie, server) = option.split_first_chunk().unwrap();
        let option = CookieOption { client: *client_cookie, server };
        let (state, made) = secrets.check(&option, client.parse().unwrap(), now);
        (state, HEXLOWER.encode(&made))
    }

    #[test]
    fn rfc9018_a_the_vectors_of_the_standard_hold() {
        let one = secrets("e5e973e5a6b2a43f48e7dc849e37bfcf");
        // A.1: a new client.
        assert_eq!(
            check(&one, "2464c4abcf10c957", "198.51.100.100", 1_559_731_985),
            (CookieState::New, "2464c4abcf10c957010000005cf79f111f8130c3eee29480".to_owned())
        );
        // A.2: the same client later, its cookie renewed.
        assert_eq!(
            check(&one, "2464c4abcf10c957010000005cf79f111f8130c3eee29480", "198.51.100.100", 1_559_734_385),
            (CookieState::Valid, "2464c4abcf10c957010000005cf7a871d4a564a1442aca77".to_owned())
        );
        // A.4: a secret that is being replaced.
        let both = CookieSecrets {
            current: octets("445536bcd2513298075a5d379663c962"),
            others: vec![octets("dd3bdf9344b678b185a6f5cb60fca715")],
        };
        assert_eq!(
            check(
                &both,
                "22681ab97d52c298010000005cf7c57926556bd0934c72f8",
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                1_559_741_961
            ),
            (CookieState::Valid, "22681ab97d52c298010000005cf7c609a6bb79d16625507a".to_owned())
        );
    }

    #[test]
    fn rfc9018_4_3_old_early_foreign_and_forged_cookies_are_new_ones() {
        let ours = secrets("e5e973e5a6b2a43f48e7dc849e37bfcf");
        let good = "2464c4abcf10c957010000005cf79f111f8130c3eee29480";
        let made = 1_559_731_985;
        for (option, client, now, expected) in [
            (good, "198.51.100.100", made, CookieState::Valid),
            (good, "198.51.100.100", made + 3_600, CookieState::Valid),
            (good, "198.51.100.100", made + 3_601, CookieState::New),
            (good, "198.51.100.100", made - 300, CookieState::Valid),
            (good, "198.51.100.100", made - 301, CookieState::New),
            (good, "198.51.100.101", made, CookieState::New),
            (&good.replace("29480", "29481"), "198.51.100.100", made, CookieState::New),
            ("2464c4abcf10c957020000005cf79f111f8130c3eee29480", "198.51.100.100", made, CookieState::New),
            ("2464c4abcf10c9570102030405060708", "198.51.100.100", made, CookieState::New),
        ] {
            assert_eq!(check(&ours, option, client, now).0, expected, "{option} {client} {now}");
        }
    }
}
