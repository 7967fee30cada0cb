//! Which path of the document a request's is: whole segments first, templates after them.

use crate::operation::Operation;
use percent_encoding::percent_decode_str;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// By the number of segments.
#[derive(Debug, Default)]
pub(crate) struct Paths(HashMap<usize, Vec<Entry>>);

#[derive(Debug)]
pub(crate) struct Entry {
    segments: Vec<Segment>,
    pub(crate) methods: BTreeMap<String, Arc<Operation>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    /// Sorts before the other, which is how the concrete wins.
    Literal(String),
    /// Texts and names in turn: `{id}.json`.
    Template(Vec<Piece>),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Text(String),
    Name(String),
}

/// A template's names and what they stand for in a request.
pub(crate) type Captures = Vec<(String, String)>;

impl Paths {
    /// `Err`: the template cannot be read.
    pub(crate) fn add(
        &mut self,
        template: &str,
        methods: BTreeMap<String, Arc<Operation>>,
    ) -> Result<(), &'static str> {
        let rest = template.strip_prefix('/').ok_or("a path begins with `/`")?;
        let segments: Vec<Segment> = rest.split('/').map(Segment::parse).collect::<Result<_, _>>()?;
        let entries = self.0.entry(segments.len()).or_default();
        entries.push(Entry { segments, methods });
        Ok(())
    }

    pub(crate) fn sort(&mut self) {
        for entries in self.0.values_mut() {
            entries.sort_by(|a, b| a.segments.cmp(&b.segments));
        }
    }

    /// Those that fit, the most concrete first.
    pub(crate) fn find(&self, path: &str) -> impl Iterator<Item = (&Entry, Captures)> {
        let rest = path.strip_prefix('/').unwrap_or(path);
        let segments: Vec<String> =
            rest.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned()).collect();
        let entries = self.0.get(&segments.len()).map(Vec::as_slice).unwrap_or_default();
        entries.iter().filter_map(move |entry| {
            let mut captures = Captures::new();
            let fits = entry.segments.iter().zip(&segments).all(|(own, given)| own.fits(given, &mut captures));
            fits.then_some((entry, captures))
        })
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("a `{` without its `}`")?;
            if name.is_empty() || name.contains('{') {
                return Err("`{}` without a name");
            }
            if before.is_empty() && matches!(pieces.last(), Some(Piece::Name(_))) {
                return Err("two names side by side: nothing tells where the first one ends");
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Name(name.to_owned()));
            rest = after;
        }
        if pieces.is_empty() {
            return Ok(Self::Literal(percent_decode_str(text).decode_utf8_lossy().into_owned()));
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self::Template(pieces))
    }

    fn fits(&self, given: &str, captures: &mut Captures) -> bool {
        let pieces = match self {
            Self::Literal(text) => return text == given,
            Self::Template(pieces) => pieces,
        };
        let mut rest = given;
        let mut pieces = pieces.iter().peekable();
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Text(text) => match rest.strip_prefix(text.as_str()) {
                    Some(after) => rest = after,
                    None => return false,
                },
                Piece::Name(name) => {
                    let length = match pieces.peek() {
                        Some(Piece::Text(text)) => rest.find(text.as_str()),
                        _ => Some(rest.len()),
                    };
                    let Some((value, after)) = length.filter(|length| *length > 0).map(|length| rest.split_at(length))
                    else {
                        return false;
                    };
                    captures.push((name.clone(), value.to_owned()));
                    rest = after;
                }
            }
        }
        rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_concrete_wins_and_names_are_captured() {
        let mut paths = Paths::default();
        for template in ["/", "/pets", "/pets/{id}", "/pets/mine", "/files/{name}.json", "/a/{x}/b/{y}", "/caf%C3%A9"] {
            paths.add(template, BTreeMap::new()).unwrap();
        }
        paths.sort();
        for (path, expected) in [
            ("/", Some("")),
            ("/pets", Some("")),
            ("/pets/7", Some("id=7")),
            ("/pets/a%20b", Some("id=a b")),
            ("/pets/mine", Some("")),
            ("/pets/", None),
            ("/files/x.json", Some("name=x")),
            ("/files/x.xml", None),
            ("/files/.json", None),
            ("/a/1/b/2", Some("x=1,y=2")),
            ("/a/1/c/2", None),
            ("/caf%C3%A9", Some("")),
            ("/other", None),
        ] {
            let found = paths.find(path).next().map(|(_, captures)| {
                captures.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
            });
            assert_eq!(found.as_deref(), expected, "{path}");
        }
        for wrong in ["pets", "/{", "/{}", "/{a}{b}"] {
            assert!(paths.add(wrong, BTreeMap::new()).is_err(), "{wrong}");
        }
    }
}
