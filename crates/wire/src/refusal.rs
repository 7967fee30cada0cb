//! Every reason for which a message is refused before any engine sees it: one enum, one table.

use std::fmt;

macro_rules! refusals {
    ($($variant:ident = $label:literal, $status:literal, $clause:literal, $doc:literal;)*) => {
        /// Why the byte stream of a message was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Refusal { $(#[doc = $doc] $variant,)* }

        impl Refusal {
            /// Every variant, for metrics and documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Metric label, log field and documentation key.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// The status that answers it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The rule it breaks.
            pub const fn clause(self) -> &'static str {
                match self { $(Self::$variant => $clause,)* }
            }

            /// One line for people.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

refusals! {
    BareLf = "bare_lf", 400, "RFC 9112 §2.2", "a line ended by LF without CR";
    BareCr = "bare_cr", 400, "RFC 9112 §2.2", "a CR that does not end a line";
    EmptyLines = "empty_lines", 400, "RFC 9112 §2.2", "more than one empty line in front of the request line";
    HeadTooLarge = "head_too_large", 431, "RFC 6585 §5", "the head is larger than the limit";
    TooManyFields = "too_many_fields", 431, "RFC 6585 §5", "more header fields than the limit";
    TargetTooLong = "target_too_long", 414, "RFC 9110 §15.5.15", "the request target is longer than the limit";
    BadRequestLine = "bad_request_line", 400, "RFC 9112 §3", "the request line is not `method target version`";
    BadMethod = "bad_method", 400, "RFC 9110 §9.1", "the method is not a token in capitals";
    BadTarget = "bad_target", 400, "RFC 9112 §3.2", "the request target has characters or a form that are not allowed";
    BadVersion = "bad_version", 505, "RFC 9112 §2.3", "the version is not HTTP/1.1 or HTTP/1.0";
    BadFieldName = "bad_field_name", 400, "RFC 9112 §5", "a field name is empty or not a token";
    SpaceBeforeColon = "space_before_colon", 400, "RFC 9112 §5.1", "white space between a field name and its colon";
    ObsFold = "obs_fold", 400, "RFC 9112 §5.2", "a folded header line";
    NoColon = "no_colon", 400, "RFC 9112 §5", "a header line without a colon";
    BadFieldValue = "bad_field_value", 400, "RFC 9110 §5.5", "a control octet in a field value";
    MissingHost = "missing_host", 400, "RFC 9112 §3.2", "an HTTP/1.1 request without Host";
    DuplicateHost = "duplicate_host", 400, "RFC 9112 §3.2", "more than one Host field";
    BadHost = "bad_host", 400, "RFC 9112 §3.2", "the Host field is not `host[:port]`";
    HostMismatch = "host_mismatch", 400, "RFC 9112 §3.2.2", "Host differs from the authority of the target";
    DuplicateContentLength = "duplicate_content_length", 400, "RFC 9112 §6.3", "more than one Content-Length field";
    BadContentLength = "bad_content_length", 400, "RFC 9110 §8.6", "Content-Length is not a number of digits";
    LengthAndChunked = "length_and_chunked", 400, "RFC 9112 §6.1", "Content-Length beside Transfer-Encoding";
    BadTransferEncoding = "bad_transfer_encoding", 400, "RFC 9112 §6.1", "Transfer-Encoding is not exactly `chunked`";
    OldTransferEncoding = "http10_transfer_encoding", 400, "RFC 9112 §6.1", "Transfer-Encoding in an HTTP/1.0 message";
    BadExpect = "bad_expect", 417, "RFC 9110 §10.1.1", "an expectation other than 100-continue";
    BadChunkSize = "bad_chunk_size", 400, "RFC 9112 §7.1", "a chunk size that is not plain hexadecimal digits, or too large";
    BadChunkExtension = "bad_chunk_extension", 400, "RFC 9112 §7.1.1", "a chunk extension that is malformed or too long";
    BadChunkEnd = "bad_chunk_end", 400, "RFC 9112 §7.1", "chunk data that is not followed by CRLF";
    BadTrailer = "bad_trailer", 400, "RFC 9110 §6.5.1", "a trailer line that is malformed, forbidden or too long";
    UpstreamStatusLine = "upstream_status_line", 502, "RFC 9112 §4", "the origin's status line is malformed";
    UpstreamStatus = "upstream_status", 502, "RFC 9110 §15", "the origin's status is not between 100 and 599";
    UpstreamHead = "upstream_head", 502, "RFC 9112 §5", "the origin's header section is malformed";
    UpstreamHeadTooLarge = "upstream_head_too_large", 502, "RFC 9112 §5", "the origin's head is larger than the limit";
    UpstreamFraming = "upstream_framing", 502, "RFC 9112 §6.3", "the origin's response has no single framing";
    UpstreamUnasked = "upstream_unasked", 502, "RFC 9112 §9.2", "the origin said more than one response to one request";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.doc(), self.clause())
    }
}

impl std::error::Error for Refusal {}
