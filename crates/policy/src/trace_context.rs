//! W3C Trace Context, `traceparent` (https://www.w3.org/TR/trace-context/ §3.2).

use std::fmt;

/// One hop's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: u128,
    pub span: u64,
    pub sampled: bool,
}

impl TraceContext {
    /// Goes on with the caller's trace when it sent a valid one, else begins one; the span is ours. Anybody may start a
    /// trace: an id that is only written down gives no power.
    pub fn continue_from(header: Option<&[u8]>, draw: u128, span_draw: u64) -> Self {
        let span = span_draw.max(1);
        match header.and_then(Self::parse) {
            Some(parent) => Self { span, ..parent },
            None => Self { trace: draw.max(1), span, sampled: false },
        }
    }

    /// §3.2.2: `00-32 hex-16 hex-2 hex`, no zero ids; higher versions are read by their first fields.
    fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let lower_hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let exact = version != "00" || parts.next().is_none();
        if !exact
            || version == "ff"
            || !lower_hex(version, 2)
            || !lower_hex(trace, 32)
            || !lower_hex(span, 16)
            || !lower_hex(flags, 2)
        {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_parent_is_continued_and_anything_else_is_not() {
        let good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::continue_from(Some(good), 5, 7);
        assert_eq!(context.to_string(), "00-0af7651916cd43dd8448eb211c80319c-0000000000000007-01");
        for bad in [
            &b"00-00000000000000000000000000000000-b7ad6b7169203331-01"[..],
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            b"00-0af7-b7ad-01",
            b"",
        ] {
            assert_eq!(TraceContext::continue_from(Some(bad), 5, 7).trace, 5, "{bad:?}");
        }
    }
}
