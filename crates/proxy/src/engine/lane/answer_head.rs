//! An answer's head as the stages see it, from octets that `wire` has judged.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version};
use pingora::{ErrorType, OkOrErr, OrErr, Result, http::ResponseHeader};
use std::{ops::Range, time::Duration};

/// Room for the fields of most answers.
const FIELDS: usize = 12;

/// `head`: a whole one, with the empty line at its end.
pub(super) fn read(head: &Bytes) -> Result<ResponseHeader> {
    let mut rest = 0..head.len();
    let status_line = next_line(head, &mut rest).or_err(ErrorType::InvalidHTTPHeader, "no status line")?;
    let status = status_line.get(9..12).unwrap_or_default();
    let status = StatusCode::from_bytes(status).or_err(ErrorType::InvalidHTTPHeader, "status")?;
    let mut response = ResponseHeader::build(status, Some(FIELDS))?;
    response.set_version(if status_line.starts_with(b"HTTP/1.0") { Version::HTTP_10 } else { Version::HTTP_11 });
    let reason = status_line.get(13..).and_then(|reason| std::str::from_utf8(reason).ok());
    if reason != status.canonical_reason() {
        response.set_reason_phrase(reason)?;
    }
    while let Some(line) = next_line(head, &mut rest).filter(|line| !line.is_empty()) {
        let colon = memchr::memchr(b':', line).or_err(ErrorType::InvalidHTTPHeader, "a field without a name")?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let (name, value) = (head.slice_ref(name), head.slice_ref(value));
        let value = HeaderValue::from_maybe_shared(value).or_err(ErrorType::InvalidHTTPHeader, "field value")?;
        response.append_header(name, value)?;
    }
    Ok(response)
}

fn next_line<'h>(head: &'h [u8], rest: &mut Range<usize>) -> Option<&'h [u8]> {
    let left = head.get(rest.clone())?;
    let end = memchr::memchr(b'\n', left)?;
    rest.start += end + 1;
    left.get(..end.checked_sub(1)?)
}

/// Whether another request may follow on the connection (RFC 9112 §9.3).
pub(super) fn keeps_alive(response: &ResponseHeader) -> bool {
    let says = |wanted: &[u8]| {
        let options = response.headers.get_all(http::header::CONNECTION).iter();
        options
            .flat_map(|value| value.as_bytes().split(|octet| *octet == b','))
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    match response.version {
        Version::HTTP_10 => says(b"keep-alive") && !says(b"close"),
        _ => !says(b"close"),
    }
}

/// How long the origin keeps it, if it says so: `Keep-Alive: timeout=5`, of no RFC but widely sent.
pub(super) fn kept_for(response: &ResponseHeader) -> Option<Duration> {
    let value = response.headers.get("keep-alive")?.to_str().ok()?;
    let parameters = value.split(',').filter_map(|parameter| parameter.split_once('='));
    let (_, seconds) = parameters.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &'static str) -> ResponseHeader {
        read(&Bytes::from_static(head.as_bytes())).unwrap()
    }

    #[test]
    fn a_head_is_read_as_it_came() {
        let head = of("HTTP/1.1 404 Gone Fishing\r\nX-Two:  a b \r\nServer:\r\nx-two: c\r\n\r\n");
        assert_eq!((head.status.as_u16(), head.get_reason_phrase()), (404, Some("Gone Fishing")));
        let two: Vec<_> = head.headers.get_all("x-two").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!((two, head.headers["server"].as_bytes()), (vec![&b"a b"[..], b"c"], &b""[..]));
        let mut wire = bytes::BytesMut::new();
        head.header_to_h1_wire(&mut wire);
        assert!(wire.starts_with(b"X-Two: a b\r\n"), "{wire:?}");
        assert_eq!(of("HTTP/1.0 200\r\n\r\n").version, Version::HTTP_10);
    }

    #[test]
    fn connections_are_kept_when_the_origin_keeps_them() {
        for (head, keeps, long) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true, None),
            ("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", false, None),
            ("HTTP/1.1 200 OK\r\nConnection: x, close\r\n\r\n", false, None),
            ("HTTP/1.0 200 OK\r\n\r\n", false, None),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", true, None),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n\r\n", false, None),
            ("HTTP/1.1 200 OK\r\nKeep-Alive: max=9, timeout=7\r\n\r\n", true, Some(7)),
            ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=soon\r\n\r\n", true, None),
        ] {
            let head = of(head);
            assert_eq!((keeps_alive(&head), kept_for(&head).map(|kept| kept.as_secs())), (keeps, long), "{head:?}");
        }
    }
}
