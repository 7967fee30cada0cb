//! W3C Trace Context, `traceparent` (https://www.w3.org/TR/trace-context/ §3.2); where there is none, B3
//! (https://github.com/openzipkin/b3-propagation) is read. What goes on is `traceparent`.

use std::fmt;

/// One hop's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: u128,
    pub span: u64,
    /// The caller's span, where it sent one.
    pub parent: Option<u64>,
    pub sampled: bool,
}

/// What a caller may have sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceHeaders<'h> {
    pub traceparent: Option<&'h [u8]>,
    pub b3: Option<&'h [u8]>,
    /// `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`.
    pub x_b3: [Option<&'h [u8]>; 3],
}

/// Whether a trace that begins here is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    Sampled,
    NotSampled,
}

impl TraceContext {
    /// Goes on with the caller's trace when it sent a valid one, else begins one; the span is ours. Anybody may start a
    /// trace: an id that is only written down gives no power.
    pub fn continue_from(headers: &TraceHeaders<'_>, draw: u128, span_draw: u64, own: Sampling) -> Self {
        let span = span_draw.max(1);
        let own = own == Sampling::Sampled;
        let parent = headers.traceparent.and_then(Self::parse).or_else(|| headers.parse_b3(own));
        match parent {
            Some(parent) => Self { span, parent: Some(parent.span), ..parent },
            None => Self { trace: draw.max(1), span, parent: None, sampled: own },
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
        Some(Self { trace, span, parent: None, sampled: flags & 1 == 1 })
    }
}

impl TraceHeaders<'_> {
    /// The single field, else the several. Where the caller left the decision open, it is ours.
    fn parse_b3(&self, own: bool) -> Option<TraceContext> {
        let text = |value: Option<&[u8]>| value.and_then(|value| std::str::from_utf8(value).ok()).map(str::to_owned);
        let (trace, span, sampled) = match text(self.b3) {
            Some(single) => {
                let mut parts = single.split('-').map(str::to_owned);
                (parts.next()?, parts.next()?, parts.next())
            }
            None => {
                let [trace, span, sampled] = self.x_b3;
                (text(trace)?, text(span)?, text(sampled))
            }
        };
        let is_hex = |text: &str, lengths: &[usize]| {
            lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
        };
        if !is_hex(&trace, &[16, 32]) || !is_hex(&span, &[16]) {
            return None;
        }
        let trace = u128::from_str_radix(&trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(&span, 16).ok().filter(|span| *span != 0)?;
        let sampled = match sampled.as_deref() {
            Some("1" | "d" | "true") => true,
            Some("0" | "false") => false,
            Some(_) | None => own,
        };
        Some(TraceContext { trace, span, parent: None, sampled })
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

    fn w3c(header: &[u8]) -> TraceHeaders<'_> {
        TraceHeaders { traceparent: Some(header), ..TraceHeaders::default() }
    }

    #[test]
    fn b3_is_read_where_there_is_no_traceparent_and_an_open_decision_is_ours() {
        let trace = "80f198ee56343ba864fe8b2a57d3eff7";
        let single = |text: &str| {
            let headers = TraceHeaders { b3: Some(text.as_bytes()), ..TraceHeaders::default() };
            let found = TraceContext::continue_from(&headers, 5, 7, Sampling::Sampled);
            (found.trace != 5, found.parent, found.sampled)
        };
        for (text, expected) in [
            (format!("{trace}-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"), (true, Some(0xe457_b5a2_e4d8_6bd1), true)),
            (format!("{trace}-e457b5a2e4d86bd1-0"), (true, Some(0xe457_b5a2_e4d8_6bd1), false)),
            (format!("{trace}-e457b5a2e4d86bd1"), (true, Some(0xe457_b5a2_e4d8_6bd1), true)),
            ("a3ce929d0e0e4736-00f067aa0ba902b7-d".to_owned(), (true, Some(0x00f0_67aa_0ba9_02b7), true)),
            ("0".to_owned(), (false, None, true)),
            (format!("{trace}-0000000000000000-1"), (false, None, true)),
            (format!("{trace}x-e457b5a2e4d86bd1-1"), (false, None, true)),
        ] {
            assert_eq!(single(&text), expected, "{text}");
        }
        let several = TraceHeaders {
            traceparent: None,
            b3: None,
            x_b3: [Some(trace.as_bytes()), Some(b"e457b5a2e4d86bd1"), Some(b"0")],
        };
        let found = TraceContext::continue_from(&several, 5, 7, Sampling::Sampled);
        assert_eq!((found.sampled, found.parent), (false, Some(0xe457_b5a2_e4d8_6bd1)));
        let w3c = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let both = TraceHeaders { traceparent: Some(w3c), ..several };
        assert_eq!(TraceContext::continue_from(&both, 5, 7, Sampling::NotSampled).parent, Some(0x00f0_67aa_0ba9_02b7));
    }

    #[test]
    fn a_valid_parent_is_continued_and_anything_else_is_not() {
        let good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::continue_from(&w3c(good), 5, 7, Sampling::NotSampled);
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
            assert_eq!(TraceContext::continue_from(&w3c(bad), 5, 7, Sampling::NotSampled).trace, 5, "{bad:?}");
        }
    }
}
