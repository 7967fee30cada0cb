//! What a rule looks at: `ARGS|!ARGS:id|&REQUEST_HEADERS:Host|TX:/^x_/`.

use super::name_pattern::NamePattern;
use super::variable::{Shape, Variable};

/// Which members of a collection are meant.
#[derive(Debug, Clone)]
pub(crate) enum Selector {
    /// All of them, or the one value of a scalar.
    All,
    /// Those of this name, in any case.
    Name(Box<[u8]>),
    /// Those whose name matches, in any case.
    Pattern(Box<NamePattern>),
    /// The member of TX in this slot; what names of TX become once all rules are known.
    Slot(Slot),
}

/// Where a member of TX that rules name is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(pub(crate) u16);

impl Selector {
    pub(crate) fn admits(&self, name: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Name(wanted) => wanted.eq_ignore_ascii_case(name),
            Self::Pattern(pattern) => pattern.is_match(name),
            Self::Slot(_) => false,
        }
    }
}

/// A variable and the members of it that are meant.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) variable: Variable,
    pub(crate) selector: Selector,
}

/// How a rule uses a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Value,
    Count,
    Exclude,
}

/// One part of a target list.
#[derive(Debug, Clone)]
pub(crate) struct TargetPart {
    pub(crate) purpose: Use,
    pub(crate) target: Target,
}

/// Reads a whole list. `,` separates as well as `|`, as it does in `SecRuleUpdateTargetById`.
pub(crate) fn parse_list(text: &str) -> Result<Vec<TargetPart>, String> {
    split(text).into_iter().map(str::trim).filter(|part| !part.is_empty()).map(parse_part).collect()
}

fn parse_part(text: &str) -> Result<TargetPart, String> {
    let (purpose, text) = match text.split_at_checked(1) {
        Some(("!", rest)) => (Use::Exclude, rest),
        Some(("&", rest)) => (Use::Count, rest),
        _ => (Use::Value, text),
    };
    Ok(TargetPart { purpose, target: parse_target(text)? })
}

/// Reads one target without `!` and `&`.
pub(crate) fn parse_target(text: &str) -> Result<Target, String> {
    let (name, member) = match text.split_once(':') {
        Some((name, member)) => (name, Some(member)),
        None => (text, None),
    };
    let variable = Variable::parse(name).ok_or_else(|| format!("variable \"{name}\" is not known"))?;
    let Some(member) = member else { return Ok(Target { variable, selector: Selector::All }) };
    if variable.shape() == Shape::Scalar {
        return Err(format!("variable \"{name}\" holds one value and has no member \"{member}\""));
    }
    if variable == Variable::Xml && !matches!(member, "/*" | "//@*") {
        return Err(format!("XPath \"{member}\" is not supported; use XML:/* (all text) or XML://@* (all attributes)"));
    }
    let member = member.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(member);
    let selector = match member.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        Some(pattern) if variable != Variable::Xml => Selector::Pattern(Box::new(NamePattern::parse(pattern)?)),
        _ => Selector::Name(member.as_bytes().into()),
    };
    Ok(Target { variable, selector })
}

/// Splits at `|` and `,` outside quotes and `/patterns/`.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut closing, mut escaped) = (0, None, false);
    let mut previous = '\0';
    for (at, char) in text.char_indices() {
        match (closing, char) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(end), _) if char == end => closing = None,
            // `XML:/*` and `XML://@*` are paths, not patterns.
            (None, '/') if previous == ':' && !is_xml(text.get(start..at).unwrap_or_default()) => closing = Some('/'),
            (None, '\'') => closing = Some('\''),
            (None, '|' | ',') => {
                parts.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
        previous = char;
    }
    parts.extend(text.get(start..));
    parts
}

fn is_xml(part: &str) -> bool {
    part.trim_start_matches(['!', '&', ' ']).eq_ignore_ascii_case("XML:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> Result<String, String> {
        let show_one = |part: TargetPart| {
            let selector = match part.target.selector {
                Selector::All => String::new(),
                Selector::Name(name) => format!(":{}", String::from_utf8_lossy(&name)),
                Selector::Pattern(pattern) => format!(":~{}", pattern.as_str()),
                Selector::Slot(slot) => format!(":#{}", slot.0),
            };
            format!("{:?} {}{selector}", part.purpose, part.target.variable.name())
        };
        parse_list(text).map(|parts| parts.into_iter().map(show_one).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn lists_are_read() {
        let cases = [
            ("ARGS", "Value ARGS"),
            ("ARGS|!ARGS:id|&TX:x", "Value ARGS; Exclude ARGS:id; Count TX:x"),
            ("XML:/*|XML://@*|ARGS", "Value XML:/*; Value XML://@*; Value ARGS"),
            ("!REQUEST_COOKIES:/^_ga(?:_|,)$/", "Exclude REQUEST_COOKIES:~^_ga(?:_|,)$"),
            ("ARGS:'a|b'|FILES", "Value ARGS:a|b; Value FILES"),
            ("!ARGS:a,!ARGS:b", "Exclude ARGS:a; Exclude ARGS:b"),
        ];
        for (text, expected) in cases {
            assert_eq!(show(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for (text, expected) in [
            ("ARGZ", "variable \"ARGZ\" is not known"),
            ("REQUEST_URI:x", "variable \"REQUEST_URI\" holds one value and has no member \"x\""),
        ] {
            assert_eq!(show(text), Err(expected.to_owned()));
        }
    }
}
