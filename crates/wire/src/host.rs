//! The grammar of `host[:port]` as an authority may stand in a request.

/// RFC 3986 §3.2.2 without percent-encoding and user information: names, IPv4, bracketed IPv6, an optional port.
pub(crate) fn is_valid(authority: &[u8]) -> bool {
    let (host, port) = match authority {
        [b'[', ..] => match memchr::memchr(b']', authority) {
            Some(end) => authority.split_at(end + 1),
            None => return false,
        },
        _ => authority.split_at(memchr::memchr(b':', authority).unwrap_or(authority.len())),
    };
    host_is_valid(host) && port_is_valid(port)
}

fn host_is_valid(host: &[u8]) -> bool {
    if let [b'[', literal @ .., b']'] = host {
        let text = std::str::from_utf8(literal).ok();
        return text.is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    (1..=255).contains(&host.len()) && host.iter().all(plain) && host.first() != Some(&b'.')
}

fn port_is_valid(port: &[u8]) -> bool {
    match port {
        [] | [b':'] => true,
        [b':', digits @ ..] if digits.len() <= 5 => {
            digits.iter().all(u8::is_ascii_digit)
                && digits.iter().fold(0_u32, |port, digit| port * 10 + u32::from(digit - b'0')) <= 65_535
        }
        _ => false,
    }
}
