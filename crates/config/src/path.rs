//! The address of a value inside a document: `route.shop.rule.api.upstream`.

use std::fmt;

/// Keys and array indices from the root. Cheap enough for compile time; never on a request's way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Segment {
    Key(String),
    Index(usize),
}

impl Path {
    pub fn root() -> Self {
        Self::default()
    }

    /// This path with one more key.
    pub fn key(&self, key: impl ToString) -> Self {
        self.with(Segment::Key(key.to_string()))
    }

    /// This path with one more array index.
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The path without its last segment; `None` at the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, front) = self.0.split_last()?;
        Some(Self(front.to_vec()))
    }

    /// Whether `self` stands above `other` or is the same.
    pub fn leads_to(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.0
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = Vec::with_capacity(self.0.len() + 1);
        segments.extend_from_slice(&self.0);
        segments.push(segment);
        Self(segments)
    }
}

impl FromIterator<Segment> for Path {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        Self(segments.into_iter().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if at == 0 => write!(f, "{}", Quoted(key))?,
                Segment::Key(key) => write!(f, ".{}", Quoted(key))?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A key as TOML writes it: in quotes unless it is a bare one.
pub(crate) struct Quoted<'k>(pub(crate) &'k str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = !self.0.is_empty() && self.0.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if bare { f.write_str(self.0) } else { f.write_str(&quote(self.0)) }
    }
}

/// A basic string of TOML: one line whatever is in it. JSON's escapes are all TOML's; TOML also wants DEL escaped.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_toml_writes_it() {
        let path = Path::root().key("route").key("shop").key("headers").key("x.y").key("a b").index(3);
        assert_eq!(path.to_string(), "route.shop.headers.\"x.y\".\"a b\"[3]");
        assert!(path.parent().unwrap().leads_to(&path) && !path.leads_to(&path.parent().unwrap()));
    }
}
