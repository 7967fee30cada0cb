//! The first head on an explicit proxy: CONNECT, or a request with its target in absolute form.
//!
//! CONNECT is read here and not by [`crate::parse_head`], because what real clients send for it breaks rules that hold for
//! everything else: Python says HTTP/1.0 and no Host, undici and aiohttp send a Host without the port, axios says
//! `Connection: close` and wants a tunnel all the same. The authority alone says where to; Host is not looked at.

use crate::{Cursor, Head, HeadLimits, Parse, Refusal, fields, host, parse_head};

/// What an explicit proxy is asked for.
#[derive(Debug, Clone)]
pub enum ProxyRequest {
    Connect(ConnectHead),
    /// Any method with an absolute `http` target. `https` in the clear would have us open TLS for whoever asks.
    Absolute(Head),
}

/// A CONNECT whose only meaning is its authority. What follows the head is the tunnel's, from the first octet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectHead {
    authority: String,
    proxy_authorization: Option<Vec<u8>>,
    minor: u8,
}

impl ConnectHead {
    /// `host:port` as it came.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub fn minor_version(&self) -> u8 {
        self.minor
    }

    /// The one Proxy-Authorization there may be (RFC 9110 §11.7.2). A secret.
    pub fn proxy_authorization(&self) -> Option<&[u8]> {
        self.proxy_authorization.as_deref()
    }
}

/// Reads a head from the front of `buf`, with at most one empty line before it.
pub fn parse(buf: &[u8], limits: &HeadLimits, cursor: &mut Cursor) -> Result<Parse<ProxyRequest>, Refusal> {
    let skipped = if buf.starts_with(b"\r\n") { 2 } else { 0 };
    let begun = buf.get(skipped..).unwrap_or_default();
    if begun.starts_with(CONNECT) {
        return parse_connect(buf, skipped, limits, cursor);
    }
    if CONNECT.starts_with(begun) {
        return Ok(Parse::Incomplete);
    }
    match parse_head(buf, limits, cursor)? {
        Parse::Incomplete => Ok(Parse::Incomplete),
        Parse::Complete { head, len } => {
            let is_http = head.target(buf).get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
            if is_http {
                Ok(Parse::Complete { head: ProxyRequest::Absolute(head), len })
            } else {
                Err(Refusal::BadTarget)
            }
        }
    }
}

const CONNECT: &[u8] = b"CONNECT ";

fn parse_connect(
    buf: &[u8],
    skipped: usize,
    limits: &HeadLimits,
    cursor: &mut Cursor,
) -> Result<Parse<ProxyRequest>, Refusal> {
    let Some(end) = fields::find_end(buf, skipped, cursor, limits.bytes)? else { return Ok(Parse::Incomplete) };
    let line_end = skipped + fields::line_len(buf.get(skipped..end).unwrap_or_default());
    let line = buf.get(skipped + CONNECT.len()..line_end).unwrap_or_default();
    let (authority, minor) = connect_line(line, limits)?;
    let mut proxy_authorization = None;
    let mut hosts = 0;
    fields::each(buf, line_end + 2, end, limits.headers, |field| {
        let name = buf.get(field.name.0..field.name.1).unwrap_or_default();
        let value = buf.get(field.value.0..field.value.1).unwrap_or_default();
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("host") {
            hosts += 1;
            if hosts > 1 {
                return Err(Refusal::DuplicateHost);
            }
        } else if is("content-length") {
            // RFC 9110 §9.3.6: a CONNECT has no content. With a length, another reader would take tunnel for body.
            if fields::content_length(value)? != 0 {
                return Err(Refusal::BadContentLength);
            }
        } else if is("transfer-encoding") || is("transfer_encoding") || is("content_length") {
            return Err(Refusal::BadTransferEncoding);
        } else if is("proxy-authorization") && proxy_authorization.replace(value.to_vec()).is_some() {
            // Which of two would be believed?
            return Err(Refusal::BadFieldValue);
        }
        Ok(())
    })?;
    let head = ProxyRequest::Connect(ConnectHead { authority, proxy_authorization, minor });
    Ok(Parse::Complete { head, len: end })
}

/// `authority SP HTTP/1.x`.
fn connect_line(line: &[u8], limits: &HeadLimits) -> Result<(String, u8), Refusal> {
    let space = memchr::memchr(b' ', line).ok_or(Refusal::BadRequestLine)?;
    let (authority, version) = line.split_at(space);
    let minor = match version {
        b" HTTP/1.1" => 1,
        b" HTTP/1.0" => 0,
        _ if version.starts_with(b" HTTP/") && !version.get(1..).unwrap_or_default().contains(&b' ') => {
            return Err(Refusal::BadVersion);
        }
        _ => return Err(Refusal::BadRequestLine),
    };
    if authority.len() > limits.target {
        return Err(Refusal::TargetTooLong);
    }
    let has_port = memchr::memrchr(b':', authority).is_some_and(|at| at + 1 < authority.len());
    if !has_port || !host::is_valid(authority) {
        return Err(Refusal::BadTarget);
    }
    let authority = std::str::from_utf8(authority).map_err(|_| Refusal::BadTarget)?;
    Ok((authority.to_owned(), minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<String>, Refusal> {
        let whole = parse(text.as_bytes(), &HeadLimits::default(), &mut Cursor::default())?;
        Ok(match whole {
            Parse::Incomplete => None,
            Parse::Complete { head: ProxyRequest::Connect(head), len } => {
                let secret = head.proxy_authorization().map(|secret| String::from_utf8_lossy(secret).into_owned());
                Some(format!(
                    "{} 1.{} {} +{}",
                    head.authority(),
                    head.minor_version(),
                    secret.unwrap_or_default(),
                    text.len() - len
                ))
            }
            Parse::Complete { head: ProxyRequest::Absolute(head), .. } => {
                Some(format!("{} {}", head.method(text.as_bytes()), head.target(text.as_bytes())))
            }
        })
    }

    #[test]
    fn what_real_clients_send_is_taken() {
        for (text, expected) in [
            // curl
            (
                "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nProxy-Authorization: Basic eA==\r\nUser-Agent: curl/7.88.1\r\nProxy-Connection: Keep-Alive\r\n\r\n",
                "a.test:443 1.1 Basic eA== +0",
            ),
            // Python's http.client
            ("CONNECT a.test:443 HTTP/1.0\r\n\r\n", "a.test:443 1.0  +0"),
            // undici, axios, aiohttp
            ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", "a.test:443 1.1  +0"),
            ("CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\nconnection: close\r\n\r\n", "a.test:443 1.1  +0"),
            ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", "a.test:443 1.1  +0"),
            ("CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n", "[::1]:443 1.1  +0"),
            // What follows belongs to the tunnel.
            ("CONNECT a.test:443 HTTP/1.1\r\n\r\n\u{16}\u{3}", "a.test:443 1.1  +2"),
            ("\r\nCONNECT a.test:443 HTTP/1.1\r\n\r\n", "a.test:443 1.1  +0"),
            // apt
            ("GET http://deb.test/./x HTTP/1.1\r\nHost: deb.test\r\n\r\n", "GET http://deb.test/./x"),
            ("GET http://a.test/ HTTP/1.0\r\n\r\n", "GET http://a.test/"),
        ] {
            assert_eq!(read(text).unwrap().as_deref(), Some(expected), "{text}");
            for cut in 0..text.find("\r\n\r\n").unwrap() {
                assert_eq!(read(&text[..cut]), Ok(None), "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (text, refusal) in [
            ("CONNECT a.test HTTP/1.1\r\n\r\n", Refusal::BadTarget),
            ("CONNECT a.test: HTTP/1.1\r\n\r\n", Refusal::BadTarget),
            ("CONNECT http://a.test:443 HTTP/1.1\r\n\r\n", Refusal::BadTarget),
            ("CONNECT u@a.test:443 HTTP/1.1\r\n\r\n", Refusal::BadTarget),
            ("CONNECT /x:1 HTTP/1.1\r\n\r\n", Refusal::BadTarget),
            ("CONNECT a.test:99999 HTTP/1.1\r\n\r\n", Refusal::BadTarget),
            ("CONNECT a.test:443 HTTP/2.0\r\n\r\n", Refusal::BadVersion),
            ("CONNECT a.test:443\r\n\r\n", Refusal::BadRequestLine),
            ("CONNECT  a.test:443 HTTP/1.1\r\n\r\n", Refusal::BadRequestLine),
            ("CONNECT a.test:443  HTTP/1.1\r\n\r\n", Refusal::BadRequestLine),
            ("CONNECT a.test:443 HTTP/1.1\nHost: x\n\n", Refusal::BareLf),
            ("CONNECT a.test:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", Refusal::BadContentLength),
            ("CONNECT a.test:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::BadTransferEncoding),
            (
                "CONNECT a.test:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
                Refusal::BadTransferEncoding,
            ),
            ("CONNECT a.test:443 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refusal::DuplicateHost),
            (
                "CONNECT a.test:443 HTTP/1.1\r\nProxy-Authorization: a\r\nProxy-Authorization: b\r\n\r\n",
                Refusal::BadFieldValue,
            ),
            ("CONNECT a.test:443 HTTP/1.1\r\nX : y\r\n\r\n", Refusal::SpaceBeforeColon),
            ("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", Refusal::BadTarget),
            ("GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", Refusal::BadTarget),
            ("GET http://u:p@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", Refusal::BadTarget),
            ("GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n", Refusal::HostMismatch),
        ] {
            assert_eq!(read(text).unwrap_err(), refusal, "{text}");
        }
        let long = format!("CONNECT {}.test:443 HTTP/1.1\r\n\r\n", "a".repeat(20_000));
        assert_eq!(read(&long).unwrap_err(), Refusal::HeadTooLarge);
    }

    #[test]
    fn mutated_heads_are_read_or_refused() {
        let seed = b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nProxy-Authorization: Basic eA==\r\n\r\n";
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..50_000 {
            let mut octets = seed.to_vec();
            for _ in 0..random.usize(1..5) {
                let at = random.usize(..octets.len());
                match random.u8(..3) {
                    0 => octets[at] = random.u8(..),
                    1 => octets.insert(at, b"\r\n: \0"[random.usize(..5)]),
                    _ => drop(octets.remove(at)),
                }
            }
            if let Ok(Parse::Complete { head: ProxyRequest::Connect(head), len }) =
                parse(&octets, &HeadLimits::default(), &mut Cursor::default())
            {
                assert!(len <= octets.len() && head.authority().contains(':'));
                assert!(head.authority().bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
