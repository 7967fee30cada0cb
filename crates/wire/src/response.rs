//! A strict reader of HTTP/1 response heads: an origin that garbles its answer must not garble ours.

use crate::{Cursor, Framing, Parse, Refusal, fields};

/// What the framing of a response depends on in its request (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    Head,
    /// Asks for another protocol (RFC 9110 §7.8): the only one that a 101 may answer.
    Upgrade,
    Other,
}

impl RequestKind {
    /// From the head of the request as it was sent.
    pub fn of(request: &[u8]) -> Self {
        if request.starts_with(b"HEAD ") {
            return Self::Head;
        }
        // The head was written by ourselves: one spelling or the other, and the value follows one space.
        match memchr::memmem::find_iter(request, b"pgrade: ").any(|at| {
            let name = at.checked_sub(3).and_then(|start| request.get(start..=at));
            matches!(name, Some(b"\r\nUp" | b"\r\nup"))
        }) {
            true => Self::Upgrade,
            false => Self::Other,
        }
    }
}

/// How much an origin's head may hold.
#[derive(Debug, Clone, Copy)]
pub struct ResponseLimits {
    pub bytes: usize,
    pub headers: usize,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        Self { bytes: 64 << 10, headers: 200 }
    }
}

/// What is known of a response from its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: u16,
    pub framing: ResponseFraming,
}

/// How the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFraming {
    Message(Framing),
    /// With the connection (RFC 9112 §6.3 item 8).
    UntilClose,
}

impl ResponseHead {
    /// A 1xx answer, after which another one follows (RFC 9110 §15.2).
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status)
    }
}

/// Reads a response head from the front of `buf`.
pub fn parse_response_head(
    buf: &[u8],
    request: RequestKind,
    limits: &ResponseLimits,
    cursor: &mut Cursor,
) -> Result<Parse<ResponseHead>, Refusal> {
    let early = buf.get(..buf.len().min(7)).unwrap_or_default();
    if !b"HTTP/1.".starts_with(early) {
        // Garbage is refused at once; waiting for its end could take for ever.
        return Err(Refusal::UpstreamStatusLine);
    }
    let as_upstream = |refusal| match refusal {
        Refusal::HeadTooLarge | Refusal::TooManyFields => Refusal::UpstreamHeadTooLarge,
        _ => Refusal::UpstreamHead,
    };
    let Some(end) = fields::find_end(buf, 0, cursor, limits.bytes).map_err(as_upstream)? else {
        return Ok(Parse::Incomplete);
    };
    let line_end = fields::line_len(buf);
    let (minor, status) = status_line(buf.get(..line_end).unwrap_or_default())?;
    let mut length = None;
    let mut chunked = false;
    let mut framing_error = false;
    fields::each(buf, line_end + 2, end, limits.headers, |field| {
        let name = buf.get(field.name.0..field.name.1).unwrap_or_default();
        let value = buf.get(field.value.0..field.value.1).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"content-length") {
            framing_error |= length.replace(fields::content_length(value)?).is_some();
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            framing_error |=
                std::mem::replace(&mut chunked, true) || minor == 0 || !value.eq_ignore_ascii_case(b"chunked");
        }
        Ok(())
    })
    .map_err(|refusal| {
        if refusal == Refusal::BadContentLength { Refusal::UpstreamFraming } else { as_upstream(refusal) }
    })?;
    if framing_error || (chunked && length.is_some()) {
        return Err(Refusal::UpstreamFraming);
    }
    let framing = match (status, chunked, length) {
        (100..200 | 204 | 304, ..) => ResponseFraming::Message(Framing::None),
        _ if request == RequestKind::Head => ResponseFraming::Message(Framing::None),
        (_, true, _) => ResponseFraming::Message(Framing::Chunked),
        (_, false, Some(length)) => ResponseFraming::Message(Framing::Length(length)),
        (_, false, None) => ResponseFraming::UntilClose,
    };
    Ok(Parse::Complete { head: ResponseHead { status, framing }, len: end })
}

/// `HTTP/1.x SP 3DIGIT SP [reason]`; the last space may be missing, as it is in the wild (RFC 9112 §4).
fn status_line(line: &[u8]) -> Result<(u8, u16), Refusal> {
    let (version, rest) = line.split_at_checked(9).ok_or(Refusal::UpstreamStatusLine)?;
    let minor = match version {
        b"HTTP/1.1 " => 1,
        b"HTTP/1.0 " => 0,
        _ => return Err(Refusal::UpstreamStatusLine),
    };
    let (digits, reason) = rest.split_at_checked(3).ok_or(Refusal::UpstreamStatusLine)?;
    if !matches!(reason.first(), None | Some(b' ')) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::UpstreamStatusLine);
    }
    if reason.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err(Refusal::UpstreamStatusLine);
    }
    let status = digits.iter().fold(0_u16, |status, digit| status * 10 + u16::from(digit - b'0'));
    if (100..600).contains(&status) { Ok((minor, status)) } else { Err(Refusal::UpstreamStatus) }
}
