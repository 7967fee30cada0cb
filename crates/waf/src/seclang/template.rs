//! Text with macros: `score %{tx.score} of %{MATCHED_VAR_NAME}`.

use super::target::Selector;
use super::target::Target;
use super::variable::{Shape, Variable};

/// Text to be filled in per transaction.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) pieces: Vec<Piece>,
}

/// A part of a template.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Text(Box<[u8]>),
    Macro(Target),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("%{") {
            let (before, tail) = rest.split_at(start);
            let inside = tail.get(2..).unwrap_or_default();
            let Some((name, after)) = inside.split_once('}') else { break };
            push_text(&mut pieces, before);
            pieces.push(Piece::Macro(parse_macro(name)?));
            rest = after;
        }
        push_text(&mut pieces, rest);
        Ok(Self { pieces })
    }

    /// The text with `…` for its macros.
    pub(crate) fn outline(&self) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Piece::Macro(_) => "…".to_owned(),
        };
        self.pieces.iter().map(piece).collect()
    }

    /// The text, when it holds no macro.
    pub(crate) fn fixed(&self) -> Option<&[u8]> {
        match self.pieces.as_slice() {
            [] => Some(b""),
            [Piece::Text(text)] => Some(text),
            [Piece::Macro(_)] | [_, _, ..] => None,
        }
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.as_bytes().into()));
    }
}

fn parse_macro(name: &str) -> Result<Target, String> {
    let (variable_name, member) = match name.split_once(['.', ':']) {
        Some((variable, member)) => (variable, Some(member)),
        None => (name, None),
    };
    let variable = Variable::parse(variable_name)
        .ok_or_else(|| format!("macro %{{{name}}}: variable \"{variable_name}\" is not known"))?;
    match (variable.shape(), member) {
        (Shape::Collection, Some(member)) => {
            Ok(Target { variable, selector: Selector::Name(member.as_bytes().into()) })
        }
        (Shape::Scalar, None) | (Shape::Collection, None) => Ok(Target { variable, selector: Selector::All }),
        (Shape::Scalar, Some(member)) => {
            Err(format!("macro %{{{name}}}: \"{variable_name}\" holds one value and has no member \"{member}\""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> Result<String, String> {
        let show_one = |piece: &Piece| match piece {
            Piece::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Piece::Macro(Target { variable, selector: Selector::Name(name) }) => {
                format!("<{}.{}>", variable.name(), String::from_utf8_lossy(name))
            }
            Piece::Macro(Target { variable, .. }) => format!("<{}>", variable.name()),
        };
        Template::parse(text).map(|template| template.pieces.iter().map(show_one).collect::<Vec<_>>().join("|"))
    }

    #[test]
    fn macros_are_found() {
        let cases = [
            ("", ""),
            ("plain 100%", "plain 100%"),
            ("a%{tx.0}b", "a|<TX.0>|b"),
            ("%{MATCHED_VAR}", "<MATCHED_VAR>"),
            ("%{ARGS._charset_}", "<ARGS._charset_>"),
            ("%{open", "%{open"),
        ];
        for (text, expected) in cases {
            assert_eq!(show(text).as_deref(), Ok(expected), "{text}");
        }
        assert!(show("%{nosuch.x}").is_err());
    }
}
