//! Readers of bodies: bytes in, named values out, within limits.

pub(crate) mod content_encoding;
mod disposition;
pub(crate) mod form;
pub(crate) mod graphql;
pub(crate) mod grpc;
mod json;
mod multipart;
mod xml;

pub(crate) use json::read as read_json;
pub(crate) use multipart::{FileContents, Flags as MultipartFlags, Limits as MultipartLimits, Multipart};
pub(crate) use xml::read as read_xml;

use crate::pairs::Pairs;

/// What a body held.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    pub(crate) args: Pairs,
    /// Form field to file name.
    pub(crate) files: Pairs,
    /// Form field to size in bytes, in the order of `files`.
    pub(crate) file_sizes: Vec<(Vec<u8>, usize)>,
    /// Form field to what is kept of a file, in the order of `files`; empty when no rule looks.
    pub(crate) file_contents: Pairs,
    /// Whether files were larger than what is kept of them.
    pub(crate) files_cut: bool,
    /// Form field to header line.
    pub(crate) part_headers: Pairs,
    pub(crate) multipart: MultipartFlags,
    /// The text of the whole document, and the value of each attribute by its name.
    pub(crate) xml: Option<(Vec<u8>, Pairs)>,
    /// Why the body could not be read to its end.
    pub(crate) error: Option<String>,
    /// Whether fields, values or parts were left out for their number or size.
    pub(crate) truncated: bool,
    /// Whether a form held an invalid percent escape.
    pub(crate) invalid_escapes: bool,
}
