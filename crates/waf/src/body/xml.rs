//! XML: the text of the document and the values of its attributes.
//!
//! No entity is ever expanded but the five that XML itself defines and character references: declared ones are how
//! small documents become large, or read files.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::Contents;
use crate::pairs::Pairs;

/// Elements inside each other.
const DEPTH: usize = 512;

/// Reads a whole document. What was read before an error is kept.
pub(crate) fn read(text: &[u8], most: usize, contents: &mut Contents) {
    let mut document = Document { text: Vec::new(), attributes: Pairs::default(), depth: 0, most, truncated: false };
    if let Err(error) = document.read(text) {
        contents.error = Some(format!("XML: {error}"));
    }
    contents.truncated |= document.truncated;
    contents.xml = Some((document.text, document.attributes));
}

struct Document {
    text: Vec<u8>,
    attributes: Pairs,
    depth: usize,
    most: usize,
    truncated: bool,
}

impl Document {
    fn read(&mut self, text: &[u8]) -> Result<(), String> {
        let decoded = decode(text);
        let mut reader = Reader::from_str(decoded.strip_prefix('\u{feff}').unwrap_or(&decoded));
        let mut elements = 0usize;
        loop {
            match reader.read_event().map_err(|error| error.to_string())? {
                Event::Start(start) => {
                    self.depth += 1;
                    elements += 1;
                    if self.depth > DEPTH {
                        self.truncated = true;
                        return Err(format!("nested more than {DEPTH} deep"));
                    }
                    self.attributes(&start)?;
                }
                Event::Empty(start) => {
                    elements += 1;
                    self.attributes(&start)?;
                }
                Event::End(_) => self.depth = self.depth.saturating_sub(1),
                Event::Text(text) => self.content(text.as_bytes())?,
                Event::CData(data) => self.text.extend(data.bytes()),
                Event::GeneralRef(reference) => {
                    let char = resolve(&reference)?;
                    self.text.extend(char.encode_utf8(&mut [0; 4]).bytes());
                }
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
                Event::Eof => break,
            }
        }
        match (self.depth, elements) {
            (0, 1..) => Ok(()),
            (0, 0) => Err("no element".to_owned()),
            (_, _) => Err("an element is never closed".to_owned()),
        }
    }

    fn content(&mut self, text: &[u8]) -> Result<(), String> {
        if self.depth > 0 {
            self.text.extend_from_slice(text);
            return Ok(());
        }
        let blank = text.trim_ascii().is_empty();
        if blank { Ok(()) } else { Err("text outside the document".to_owned()) }
    }

    fn attributes(&mut self, start: &BytesStart<'_>) -> Result<(), String> {
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            if self.attributes.len() >= self.most {
                self.truncated = true;
                return Err(format!("more than {} attributes", self.most));
            }
            let value = unescape(attribute.value.as_bytes())?;
            self.attributes.push(attribute.key.as_ref().as_bytes(), &value);
        }
        Ok(())
    }
}

/// Old encodings are read byte by byte: markup is ASCII in all of them, and rules look at bytes.
fn decode(text: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(text) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(text.iter().copied().map(char::from).collect()),
    }
}

fn unescape(value: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = memchr::memchr(b'&', rest) {
        plain.extend(rest.get(..at).unwrap_or_default());
        let after = rest.get(at + 1..).unwrap_or_default();
        let end = memchr::memchr(b';', after).ok_or("a reference is never closed")?;
        let name = std::str::from_utf8(after.get(..end).unwrap_or_default()).map_err(|_| "a reference is not UTF-8")?;
        plain.extend(resolve(&BytesRef::new(name))?.encode_utf8(&mut [0; 4]).bytes());
        rest = after.get(end + 1..).unwrap_or_default();
    }
    plain.extend(rest);
    Ok(plain)
}

fn resolve(reference: &BytesRef<'_>) -> Result<char, String> {
    if let Some(char) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(char);
    }
    match &**reference {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => Err(format!("entity \"{}\" is not expanded", other.escape_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, content: &str, attributes: &str, error: Option<&str>) {
        let mut contents = Contents::default();
        read(text.as_bytes(), 3, &mut contents);
        let (found, pairs) = contents.xml.unwrap();
        let values: Vec<_> = pairs.iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect();
        assert_eq!(
            (String::from_utf8_lossy(&found).as_ref(), values.join("|").as_str()),
            (content, attributes),
            "{text}"
        );
        assert_eq!(contents.error.as_deref(), error, "{text}");
    }

    #[test]
    fn text_and_attributes_are_read() {
        check("<?xml version=\"1.0\"?><a x='1'>b<c y=\"&lt;&#65;\">d</c><![CDATA[<e>]]></a>", "bd<e>", "1|<A", None);
        check("<a>&amp;&#x41;<!-- no --></a>\n", "&A", "", None);
        check("<a/>", "", "", None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\">]><a>x&b;</a>";
        check(bomb, "x", "", Some("XML: entity \"b\" is not expanded"));
        check("<a>", "", "", Some("XML: an element is never closed"));
        check("plain", "", "", Some("XML: text outside the document"));
        check("", "", "", Some("XML: no element"));
        check("<a b='1' c='2' d='3' e='4'/>", "", "1|2|3", Some("XML: more than 3 attributes"));
        let deep = "<a>".repeat(600);
        check(&deep, "", "", Some("XML: nested more than 512 deep"));
    }
}
