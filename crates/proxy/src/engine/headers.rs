//! Header edits on pingora's maps.

use http::{HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use portcullis_policy::HeaderSink;

/// Edits are compiled from valid names and sanitised values; what http's types still refuse is dropped.
macro_rules! sink {
    ($name:ident, $header:ty) => {
        pub(super) struct $name<'h>(pub(super) &'h mut $header);

        impl HeaderSink for $name<'_> {
            fn set(&mut self, name: &str, value: &[u8]) {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
                    let _ = self.0.insert_header(name, value);
                }
            }
            fn add(&mut self, name: &str, value: &[u8]) {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
                    let _ = self.0.append_header(name, value);
                }
            }
            fn remove(&mut self, name: &str) {
                self.0.remove_header(name);
            }
        }
    };
}

sink!(RequestSink, RequestHeader);
sink!(ResponseSink, ResponseHeader);
