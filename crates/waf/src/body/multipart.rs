//! `multipart/form-data`, read as it streams in: fields are kept, files are only measured.
//!
//! Strict: everything odd that another reader might take differently raises a flag, for rules to judge. Reading goes on
//! after most oddities, so that the rest is inspected too.

use super::{Contents, disposition};

/// What was odd, as the `MULTIPART_*` variables tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a variable of its own")]
pub(crate) struct Flags {
    pub(crate) boundary_quoted: bool,
    pub(crate) boundary_whitespace: bool,
    pub(crate) crlf_line: bool,
    pub(crate) data_after: bool,
    pub(crate) data_before: bool,
    pub(crate) file_limit_exceeded: bool,
    pub(crate) header_folding: bool,
    pub(crate) invalid_header_folding: bool,
    pub(crate) invalid_part: bool,
    pub(crate) invalid_quoting: bool,
    pub(crate) lf_line: bool,
    pub(crate) missing_semicolon: bool,
    pub(crate) unmatched_boundary: bool,
    pub(crate) unreadable: bool,
}

impl Flags {
    /// `MULTIPART_STRICT_ERROR`.
    pub(crate) fn strict_error(self) -> bool {
        self.unreadable
            || self.boundary_quoted
            || self.boundary_whitespace
            || self.data_before
            || self.data_after
            || self.header_folding
            || self.lf_line
            || self.missing_semicolon
            || self.invalid_quoting
            || self.invalid_part
            || self.invalid_header_folding
            || self.file_limit_exceeded
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) fields: usize,
    pub(crate) files: usize,
    /// Bytes of all fields together.
    pub(crate) field_bytes: usize,
    pub(crate) file_contents: FileContents,
}

/// Whether rules want to see what is in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileContents {
    Measured,
    Kept,
}

/// Kept of a file: its beginning, where programs and what hides in images begin, and its end, where things are appended.
const FILE_START_BYTES: usize = 16 << 10;
const FILE_END_BYTES: usize = 4 << 10;

/// Kept of all files together.
const FILES_BYTES: usize = 256 << 10;

/// A header line beyond this is an error; a data line is handed on in pieces.
const LINE_BYTES: usize = 4096;

/// Headers of one part.
const PART_HEADERS: usize = 32;

/// A reader in the middle of a body.
#[derive(Debug)]
pub(crate) struct Multipart {
    boundary: Vec<u8>,
    limits: Limits,
    place: Place,
    line: Vec<u8>,
    /// Whether `line` goes on where an earlier piece of the same line ended.
    mid_line: bool,
    /// Whether the line before began with two dashes and was not the boundary.
    decoy: bool,
    /// The end of the last data line: it belongs to the boundary when one follows.
    held_end: Vec<u8>,
    part: Part,
    kept_bytes: usize,
    contents: Contents,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Headers,
    Data,
    After,
}

#[derive(Debug, Default)]
struct Part {
    headers: Vec<Vec<u8>>,
    name: Option<Vec<u8>>,
    file_name: Option<Vec<u8>>,
    value: Vec<u8>,
    bytes: usize,
    /// Of a file, what may be its last bytes.
    end: Vec<u8>,
}

impl Part {
    /// Keeps the beginning and the end of a file.
    fn keep(&mut self, bytes: &[u8]) {
        let room = FILE_START_BYTES.saturating_sub(self.value.len()).min(bytes.len());
        let (start, rest) = bytes.split_at(room);
        self.value.extend_from_slice(start);
        self.end.extend_from_slice(rest);
        // Not at each line: what is moved is paid for by what came.
        if self.end.len() > 2 * FILE_END_BYTES {
            self.end.drain(..self.end.len() - FILE_END_BYTES);
        }
    }
}

impl Multipart {
    /// Begins with the `Content-Type` header.
    ///
    /// # Errors
    /// Why there is no usable boundary in it; the flags still tell what was odd.
    pub(crate) fn new(content_type: &[u8], limits: Limits) -> Result<Self, (Flags, String)> {
        let mut flags = Flags::default();
        match boundary(content_type, &mut flags) {
            Ok(boundary) => Ok(Self {
                boundary,
                limits,
                place: Place::Before,
                line: Vec::new(),
                mid_line: false,
                decoy: false,
                held_end: Vec::new(),
                part: Part::default(),
                kept_bytes: 0,
                contents: Contents { multipart: flags, ..Contents::default() },
            }),
            Err(error) => {
                flags.unreadable = true;
                Err((flags, format!("multipart: {error}")))
            }
        }
    }

    /// Reads a piece of the body.
    pub(crate) fn feed(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            let end = memchr::memchr(b'\n', chunk).map_or(chunk.len(), |at| at + 1);
            let room = LINE_BYTES.saturating_sub(self.line.len()).max(1);
            let (piece, rest) = chunk.split_at(end.min(room));
            self.line.extend_from_slice(piece);
            chunk = rest;
            if self.line.ends_with(b"\n") || self.line.len() >= LINE_BYTES {
                self.take_line();
            }
        }
    }

    /// The body is over.
    pub(crate) fn finish(mut self) -> Contents {
        if !self.line.is_empty() {
            self.take_line();
        }
        if self.place != Place::After {
            self.fail(match self.place {
                Place::Before => "no boundary was found",
                Place::Headers | Place::Data | Place::After => "the final boundary is missing",
            });
            self.end_part();
        }
        self.contents
    }

    fn flags(&mut self) -> &mut Flags {
        &mut self.contents.multipart
    }

    fn fail(&mut self, error: &str) {
        self.flags().unreadable = true;
        self.contents.error.get_or_insert_with(|| format!("multipart: {error}"));
    }

    fn take_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let continued = std::mem::replace(&mut self.mid_line, !line.ends_with(b"\n"));
        // Text is full of lines that begin with dashes: signatures, diffs, SQL, Markdown. A boundary that is not ours has a part's
        // headers behind it.
        if self.decoy {
            self.flags().unmatched_boundary |= starts_header(&line);
            self.decoy = line.contains(&b':');
        }
        let boundary = if continued { None } else { self.boundary_line(&line) };
        match boundary {
            Some(kind) => self.at_boundary(kind),
            None => match self.place {
                Place::Before => self.flags().data_before |= !line.trim_ascii().is_empty(),
                Place::Headers => self.header_line(&line),
                Place::Data => self.data_line(&line),
                Place::After => self.flags().data_after |= !line.trim_ascii().is_empty(),
            },
        }
        self.line = line;
        self.line.clear();
    }

    /// Whether a line is a boundary, and if so whether the last.
    fn boundary_line(&mut self, line: &[u8]) -> Option<Last> {
        let after = line.strip_prefix(b"--")?;
        let Some(tail) = after.strip_prefix(self.boundary.as_slice()) else {
            self.flags().unmatched_boundary |= self.resembles_boundary(after);
            self.decoy |= self.place == Place::Data;
            return None;
        };
        let (last, tail) = tail.strip_prefix(b"--").map_or((Last::No, tail), |tail| (Last::Yes, tail));
        match tail {
            b"\r\n" => self.flags().crlf_line = true,
            b"\n" => self.flags().lf_line = true,
            b"" if last == Last::Yes => {}
            _ => {
                self.flags().unmatched_boundary = true;
                return None;
            }
        }
        Some(last)
    }

    /// Whether a lenient reader could take a line for the boundary: it stands in it, in another case, behind a blank or in quotes.
    fn resembles_boundary(&self, after: &[u8]) -> bool {
        let start =
            after.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'"' | b'\'' | b'-')).unwrap_or(after.len());
        let rest = after.get(start..).unwrap_or_default();
        let own = self.boundary.iter().position(|byte| *byte != b'-').unwrap_or(0);
        let own = self.boundary.get(own..).unwrap_or_default();
        !own.is_empty() && rest.get(..own.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(own))
    }

    fn at_boundary(&mut self, last: Last) {
        self.held_end.clear();
        if self.place == Place::After {
            self.flags().data_after = true;
            return;
        }
        if self.place != Place::Before {
            self.end_part();
        }
        self.part = Part::default();
        self.place = if last == Last::Yes { Place::After } else { Place::Headers };
    }

    fn note_line_end(&mut self, line: &[u8]) {
        if line.ends_with(b"\r\n") {
            self.flags().crlf_line = true;
        } else if line.ends_with(b"\n") {
            self.flags().lf_line = true;
        }
    }

    fn header_line(&mut self, line: &[u8]) {
        self.note_line_end(line);
        let text = line.strip_suffix(b"\n").map_or(line, |text| text.strip_suffix(b"\r").unwrap_or(text));
        if text.is_empty() {
            self.end_headers();
            return;
        }
        if line.len() >= LINE_BYTES || self.part.headers.len() >= PART_HEADERS {
            self.flags().invalid_part = true;
            self.fail("the headers of a part are too long or too many");
            return;
        }
        let folded = text.first().is_some_and(|byte| crate::transform::is_space(*byte));
        match self.part.headers.last_mut().filter(|_| folded) {
            Some(previous) => {
                previous.extend_from_slice(text);
                let odd = !matches!(text.first(), Some(b' ' | b'\t'));
                self.flags().header_folding = true;
                self.flags().invalid_header_folding |= odd;
            }
            None => {
                if folded || !text.contains(&b':') {
                    self.flags().invalid_part = true;
                    self.fail("a line in the headers of a part is no header");
                }
                self.part.headers.push(text.to_vec());
            }
        }
    }

    fn end_headers(&mut self) {
        self.place = Place::Data;
        let mut dispositions = Vec::new();
        for header in &self.part.headers {
            let Some((name, value)) = split_header(header) else { continue };
            if name.eq_ignore_ascii_case(b"content-disposition") {
                dispositions.push(value.to_vec());
            }
        }
        let [disposition] = dispositions.as_slice() else {
            self.flags().invalid_part = true;
            self.fail("a part has no Content-Disposition, or several");
            return;
        };
        match disposition::read(disposition, &mut self.contents.multipart) {
            Ok((name, file_name)) => {
                self.part.name = name;
                self.part.file_name = file_name;
            }
            Err(error) => {
                self.flags().invalid_part = true;
                self.fail(error);
            }
        }
        if self.part.name.is_none() {
            self.flags().invalid_part = true;
            self.fail("a part has no name");
        }
    }

    fn data_line(&mut self, line: &[u8]) {
        self.note_line_end(line);
        let text = line.strip_suffix(b"\n").map_or(line, |text| text.strip_suffix(b"\r").unwrap_or(text));
        let held = std::mem::take(&mut self.held_end);
        self.part.bytes = self.part.bytes.saturating_add(held.len()).saturating_add(text.len());
        if self.part.file_name.is_none() {
            if self.kept_bytes.saturating_add(held.len() + text.len()) > self.limits.field_bytes {
                self.contents.truncated = true;
                self.fail("the fields are larger than the limit for bodies without files");
            } else {
                self.kept_bytes += held.len() + text.len();
                self.part.value.extend_from_slice(&held);
                self.part.value.extend_from_slice(text);
            }
        }
        if self.part.file_name.is_some() && self.limits.file_contents == FileContents::Kept {
            self.part.keep(&held);
            self.part.keep(text);
        }
        self.held_end.extend_from_slice(line.get(text.len()..).unwrap_or_default());
    }

    fn keep_file(&mut self, name: &[u8], part: &Part) {
        let (start, end) = (part.value.as_slice(), part.end.as_slice());
        let left_out = part.bytes > start.len() + end.len();
        // With something between them that is in no file, lest a word be made of the two.
        let gap: &[u8] = if left_out { b"\0\n" } else { b"" };
        let room = FILES_BYTES.saturating_sub(self.contents.file_contents.kept_bytes());
        self.contents.files_cut |= left_out || start.len() + end.len() > room;
        if start.len() + end.len() <= room {
            let value = |bytes: &mut Vec<u8>| [start, gap, end].iter().for_each(|piece| bytes.extend_from_slice(piece));
            self.contents.file_contents.push_with(|bytes| bytes.extend_from_slice(name), value);
        }
    }

    fn end_part(&mut self) {
        if self.place == Place::Headers {
            self.flags().invalid_part = true;
            self.fail("a part ends within its headers");
            self.end_headers();
        }
        let mut part = std::mem::take(&mut self.part);
        let name = part.name.take().unwrap_or_default();
        for header in &part.headers {
            self.contents.part_headers.push(&name, header);
        }
        match part.file_name.take() {
            Some(_) if self.contents.files.len() >= self.limits.files => {
                self.flags().file_limit_exceeded = true;
                self.contents.truncated = true;
            }
            Some(file) => {
                self.contents.files.push(&name, &file);
                if self.limits.file_contents == FileContents::Kept {
                    self.keep_file(&name, &part);
                }
                self.contents.file_sizes.push((name, part.bytes));
            }
            None if self.contents.args.len() >= self.limits.fields => {
                self.contents.truncated = true;
                self.fail("too many fields");
            }
            None => self.contents.args.push(&name, &part.value),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

fn split_header(header: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', header)?;
    let (name, value) = header.split_at(colon);
    Some((name.trim_ascii(), value.get(1..)?.trim_ascii()))
}

/// The boundary parameter, strictly: one, however it is spelled.
fn boundary(content_type: &[u8], flags: &mut Flags) -> Result<Vec<u8>, &'static str> {
    let mut found = parameters(content_type).filter_map(|parameter| {
        let equals = memchr::memchr(b'=', parameter)?;
        let (name, value) = parameter.split_at(equals);
        let named = name.trim_ascii().eq_ignore_ascii_case(b"boundary");
        named.then(|| (name, value.get(1..).unwrap_or_default()))
    });
    let (name, value) = found.next().ok_or("there is no boundary")?;
    if found.next().is_some() {
        return Err("there are several boundaries");
    }
    flags.boundary_whitespace |=
        name.last().is_some_and(u8::is_ascii_whitespace) || value.first().is_some_and(u8::is_ascii_whitespace);
    let value = value.trim_ascii();
    let boundary = match value.strip_prefix(b"\"") {
        Some(quoted) => {
            flags.boundary_quoted = true;
            quoted.strip_suffix(b"\"").ok_or("the quotes of the boundary are not closed")?
        }
        None => value,
    };
    flags.boundary_whitespace |= boundary.iter().any(u8::is_ascii_whitespace);
    // RFC 2046 §5.1.1: one to seventy characters; longer ones are in use, so only the absurd is refused.
    match boundary.len() {
        0 => Err("the boundary is empty"),
        1..=200 => Ok(boundary.to_vec()),
        _ => Err("the boundary is too long"),
    }
}

/// What stands between semicolons, those in quotes left alone.
fn parameters(content_type: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    content_type.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b';' && !quoted
    })
}

/// Whether a line is the header of a part.
fn starts_header(line: &[u8]) -> bool {
    let name = line.get(..8).unwrap_or_default();
    name.eq_ignore_ascii_case(b"content-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { fields: 3, files: 2, field_bytes: 100, file_contents: FileContents::Measured };

    fn read(content_type: &str, body: &str, piece: usize) -> Contents {
        let mut reader = Multipart::new(content_type.as_bytes(), LIMITS).unwrap();
        body.as_bytes().chunks(piece).for_each(|chunk| reader.feed(chunk));
        reader.finish()
    }

    /// Reads a body with boundary `B` in pieces of every size.
    #[track_caller]
    fn check(body: &str, expected: &str, flags: Flags, error: Option<&str>) {
        for piece in [1, 2, 3, 7, 10_000] {
            let contents = read("multipart/form-data; boundary=B", body, piece);
            let one = |(name, value): (&[u8], &[u8])| format!("{}={}", name.escape_ascii(), value.escape_ascii());
            let args = contents.args.iter().map(one);
            let files = contents.files.iter().map(one).map(|file| format!("file {file}"));
            assert_eq!(args.chain(files).collect::<Vec<_>>().join("|"), expected);
            assert_eq!(contents.error.as_deref(), error);
            assert_eq!(contents.multipart, flags);
        }
    }

    fn field(name: &str, value: &str) -> String {
        format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    const CLEAN: Flags = Flags {
        boundary_quoted: false,
        boundary_whitespace: false,
        crlf_line: true,
        data_after: false,
        data_before: false,
        file_limit_exceeded: false,
        header_folding: false,
        invalid_header_folding: false,
        invalid_part: false,
        invalid_quoting: false,
        lf_line: false,
        missing_semicolon: false,
        unmatched_boundary: false,
        unreadable: false,
    };

    #[test]
    fn fields_and_files_are_told_apart() {
        check(&(field("a", "1") + &field("b", "x\r\ny") + "--B--\r\n"), "a=1|b=x\\r\\ny", CLEAN, None);
        check(&(field("a", "") + "--B--"), "a=", CLEAN, None);
        let file = "--B\r\nContent-Disposition: form-data; name=f; filename=\"a\\\"b.php\"\r\nContent-Type: x/y\r\n\r\nlong\r\n";
        check(&(field("a", "1") + file + "--B--\r\n"), "a=1|file f=a\\\"b.php", CLEAN, None);
        let contents = read("multipart/form-data; boundary=B", &(file.to_owned() + "--B--\r\n"), 5);
        assert_eq!(contents.file_sizes, [(b"f".to_vec(), 4)]);
        assert_eq!(
            contents.part_headers.get(b"f"),
            Some(&b"Content-Disposition: form-data; name=f; filename=\"a\\\"b.php\""[..])
        );
    }

    #[test]
    fn long_data_lines_pass_in_pieces() {
        let mut reader = Multipart::new(b"multipart/form-data; boundary=B", LIMITS).unwrap();
        reader.feed(b"--B\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n");
        let long = vec![b'-'; 1_000_000];
        reader.feed(&long);
        assert!(reader.line.capacity() <= 2 * LINE_BYTES);
        reader.feed(b"\r\n--B--\r\n");
        assert_eq!(reader.finish().file_sizes, [(b"f".to_vec(), 1_000_000)]);
    }

    #[test]
    fn files_are_kept_by_their_beginning_and_end_when_a_rule_looks() {
        let read = |file: &[u8], limits: Limits, piece: usize| {
            let mut reader = Multipart::new(b"multipart/form-data; boundary=B", limits).unwrap();
            let head = b"--B\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n".as_slice();
            [head, file, b"\r\n--B--\r\n"].concat().chunks(piece).for_each(|chunk| reader.feed(chunk));
            reader.finish()
        };
        let kept = Limits { file_contents: FileContents::Kept, ..LIMITS };
        for file in [&b""[..], b"one\r\ntwo\n\nthree", b"\r\n", b"--not\r\n"] {
            for piece in [1, 3, 1000] {
                let contents = read(file, kept, piece);
                assert_eq!((contents.file_contents.at(0), contents.files_cut), (Some((&b"f"[..], file)), false));
                assert_eq!(read(file, LIMITS, piece).file_contents.len(), 0);
            }
        }
        let large = [b"begin".to_vec(), b"middle\n".repeat(100_000), b"end".to_vec()].concat();
        let contents = read(&large, kept, 10_000);
        let (_, seen) = contents.file_contents.at(0).unwrap();
        assert!(contents.files_cut && seen.starts_with(b"begin") && seen.ends_with(b"end"));
        assert!(seen.len() <= FILE_START_BYTES + 2 * FILE_END_BYTES + 2, "{}", seen.len());
    }

    #[test]
    fn oddities_raise_their_flags() {
        let end = "--B--\r\n";
        let fields = field("a", "1") + end;
        check(&format!("x\r\n{fields}"), "a=1", Flags { data_before: true, ..CLEAN }, None);
        check(&format!("{fields}x"), "a=1", Flags { data_after: true, ..CLEAN }, None);
        let unmatched = Flags { unmatched_boundary: true, ..CLEAN };
        for text in [
            "--C\r\nContent-Disposition: form-data; name=x\r\n\r\ny",
            "--C\r\nX: y\r\ncontent-disposition: form-data; name=x\r\n\r\ny",
            "--b",
            "-- B",
            "--\"B\"",
            "--Bx",
            "----B",
        ] {
            check(&(field("a", text) + end), &format!("a={}", text.escape_default()), unmatched, None);
        }
        for text in [
            "--",
            "-- \r\nAda",
            "--C",
            "-----",
            "--- a/x\r\n+++ b/x",
            "-- SELECT 1",
            "--\r\ncontents",
            "--abc\r\n--def",
        ] {
            check(&(field("a", text) + end), &format!("a={}", text.escape_default()), CLEAN, None);
        }
        check(&fields.replace("\r\n", "\n"), "a=1", Flags { lf_line: true, crlf_line: false, ..CLEAN }, None);
        check(&fields.replace("data; ", "data "), "a=1", Flags { missing_semicolon: true, ..CLEAN }, None);
        check(&fields.replace('"', "'"), "\\'a\\'=1", Flags { invalid_quoting: true, ..CLEAN }, None);
        check(&fields.replace("; name", ";\r\n name"), "a=1", Flags { header_folding: true, ..CLEAN }, None);
        let files = "--B\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n\r\n".repeat(3) + end;
        check(&files, "file f=x|file f=x", Flags { file_limit_exceeded: true, ..CLEAN }, None);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let broken = Flags { unreadable: true, ..CLEAN };
        let invalid = Flags { invalid_part: true, ..broken };
        check(&field("a", "1"), "a=1", broken, Some("multipart: the final boundary is missing"));
        check(
            "--B\r\nX: y\r\n\r\nz\r\n--B--",
            "=z",
            invalid,
            Some("multipart: a part has no Content-Disposition, or several"),
        );
        let body = field("a", &"x".repeat(200)) + "--B--";
        check(&body, "a=", broken, Some("multipart: the fields are larger than the limit for bodies without files"));
        check(&(field("a", "1").repeat(4) + "--B--"), "a=1|a=1|a=1", broken, Some("multipart: too many fields"));
    }

    #[test]
    fn the_boundary_is_read_strictly() {
        let odd = |content_type: &str| {
            let mut flags = Flags::default();
            let found = boundary(content_type.as_bytes(), &mut flags);
            (found.map(|found| String::from_utf8(found).unwrap()), flags.boundary_quoted, flags.boundary_whitespace)
        };
        assert_eq!(odd("multipart/form-data; boundary=B"), (Ok("B".to_owned()), false, false));
        assert_eq!(odd("multipart/form-data; BOUNDARY=\"B\""), (Ok("B".to_owned()), true, false));
        assert_eq!(odd("multipart/form-data; boundary= B"), (Ok("B".to_owned()), false, true));
        assert_eq!(odd("multipart/form-data; boundary=xBoundary"), (Ok("xBoundary".to_owned()), false, false));
        assert_eq!(odd("multipart/form-data; boundary=\"a;b\""), (Ok("a;b".to_owned()), true, false));
        assert_eq!(odd("multipart/form-data; boundary=B; charset=x"), (Ok("B".to_owned()), false, false));
        for wrong in ["multipart/form-data", "multipart/form-data; boundary=", "x; boundary=a; boundary=b"] {
            assert!(odd(wrong).0.is_err(), "{wrong}");
        }
    }
}
