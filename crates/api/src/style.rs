//! The ways in which an array or an object is put into the text of one parameter (OpenAPI 3.1 §4.8.12.6): `.blue.black`,
//! `;color=blue,black`, `R,100,G,200`, `R=100,G=200`.

use serde_json::Value;

/// One parameter's way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) lead: Lead,
    pub(crate) explode: Explode,
    pub(crate) form: Form,
}

/// What stands before the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lead {
    Nothing,
    /// `label`: a dot.
    Dot,
    /// `matrix`: a semicolon and the name.
    Semicolon,
}

/// Whether each item stands by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Explode {
    Each,
    Together,
}

impl Explode {
    pub(crate) fn of(parameter: &Value, default: Self) -> Self {
        match parameter.get("explode").and_then(Value::as_bool) {
            Some(true) => Self::Each,
            Some(false) => Self::Together,
            None => default,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Scalar,
    List,
    Object,
}

/// A text taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parts<'t> {
    One(&'t str),
    List(Vec<&'t str>),
    Pairs(Vec<(&'t str, &'t str)>),
}

impl Style {
    /// `None`: the text is not written so.
    pub(crate) fn parts<'t>(self, name: &str, text: &'t str) -> Option<Parts<'t>> {
        let text = match self.lead {
            Lead::Nothing => text,
            Lead::Dot => text.strip_prefix('.')?,
            Lead::Semicolon => text.strip_prefix(';')?,
        };
        // `;color=blue,black`: the name once, then as without.
        let named = |text: &'t str| match text.split_once('=') {
            Some((own, value)) if own == name => Some(value),
            None if text == name => Some(""),
            _ => None,
        };
        let once = match (self.lead, self.explode, self.form) {
            (Lead::Semicolon, Explode::Together, _) | (Lead::Semicolon, _, Form::Scalar) => named(text)?,
            _ => text,
        };
        let apart = match (self.lead, self.explode) {
            (Lead::Semicolon, Explode::Each) => ';',
            (Lead::Dot, Explode::Each) => '.',
            _ => ',',
        };
        Some(match (self.form, self.explode) {
            (Form::Scalar, _) => Parts::One(once),
            (Form::List, Explode::Each) if self.lead == Lead::Semicolon => {
                Parts::List(text.split(apart).map(named).collect::<Option<_>>()?)
            }
            (Form::List, _) => Parts::List(once.split(apart).collect()),
            (Form::Object, Explode::Each) => {
                Parts::Pairs(once.split(apart).map(|pair| pair.split_once('=')).collect::<Option<_>>()?)
            }
            (Form::Object, Explode::Together) => {
                let items: Vec<&str> = once.split(apart).collect();
                let pairs = items.chunks(2).map(|pair| match pair {
                    [key, value] => Some((*key, *value)),
                    _ => None,
                });
                Parts::Pairs(pairs.collect::<Option<_>>()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of OpenAPI 3.1, §4.8.12.6.
    #[test]
    fn every_style_of_the_specification_is_read() {
        let colors = || Some(Parts::List(vec!["blue", "black"]));
        let parts = || Some(Parts::Pairs(vec![("R", "100"), ("G", "200")]));
        use {Explode::*, Form::*, Lead::*};
        for (lead, explode, form, text, expected) in [
            (Semicolon, Together, Scalar, ";color=blue", Some(Parts::One("blue"))),
            (Semicolon, Together, Scalar, ";color", Some(Parts::One(""))),
            (Semicolon, Together, List, ";color=blue,black", colors()),
            (Semicolon, Each, List, ";color=blue;color=black", colors()),
            (Semicolon, Together, Object, ";color=R,100,G,200", parts()),
            (Semicolon, Each, Object, ";R=100;G=200", parts()),
            (Dot, Together, Scalar, ".blue", Some(Parts::One("blue"))),
            (Dot, Together, List, ".blue,black", colors()),
            (Dot, Each, List, ".blue.black", colors()),
            (Dot, Together, Object, ".R,100,G,200", parts()),
            (Dot, Each, Object, ".R=100.G=200", parts()),
            (Nothing, Together, List, "blue,black", colors()),
            (Nothing, Together, Object, "R,100,G,200", parts()),
            (Nothing, Each, Object, "R=100,G=200", parts()),
            (Semicolon, Together, Scalar, ";shade=blue", None),
            (Semicolon, Each, List, ";color=blue;shade=black", None),
            (Dot, Together, Scalar, "blue", None),
            (Nothing, Together, Object, "R,100,G", None),
            (Nothing, Each, Object, "R", None),
        ] {
            assert_eq!(Style { lead, explode, form }.parts("color", text), expected, "{text}");
        }
    }
}
