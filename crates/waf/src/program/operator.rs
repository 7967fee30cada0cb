//! Reads the operator word of a rule: `@rx ...`, `!@within ...`, or a bare pattern.

use std::path::Path;

use super::rule::Sense;
use crate::operator::{AddressSet, ByteSet, Identity, Operator, Pattern, Phrases, TextTest};
use crate::seclang::source::Files;
use crate::seclang::template::Template;

/// An operator and whatever should be said about it.
pub(super) struct Read {
    pub(super) operator: Operator,
    pub(super) sense: Sense,
    pub(super) note: Option<String>,
}

/// Reads one; data files stand beside the rule file, `folder`.
pub(super) fn read(text: &str, folder: &Path, files: &dyn Files) -> Result<Read, String> {
    let text = text.trim_start();
    let (sense, text) = match text.strip_prefix('!') {
        Some(rest) => (Sense::Negated, rest.trim_start()),
        None => (Sense::Plain, text),
    };
    let (name, argument) = match text.strip_prefix('@') {
        Some(named) => match named.split_once(char::is_whitespace) {
            Some((name, argument)) => (name, argument),
            None => (named, ""),
        },
        None => ("rx", text),
    };
    let wrong = |error: String| format!("operator @{name}: {error}");
    let mut note = None;
    let operator = match name.to_ascii_lowercase().as_str() {
        "rx" | "rxglobal" => {
            let operator = pattern(argument).map_err(wrong)?;
            if matches!(&operator, Operator::Pattern(pattern) if pattern.linear().is_none()) {
                note = Some(
                    "the pattern looks around, refers back or is atomic: it is matched by backtracking, within a budget; \
                     a value that exhausts it counts as a match"
                        .to_owned(),
                );
            }
            operator
        }
        "pm" => Operator::Phrases(Phrases::parse(argument.trim()).map_err(wrong)?),
        "pmf" | "pmfromfile" => Operator::Phrases(phrases_from(argument, folder, files).map_err(wrong)?),
        "ipmatch" => Operator::Address(AddressSet::parse(argument).map_err(wrong)?),
        "ipmatchf" | "ipmatchfromfile" => {
            let text = text_of(argument.trim(), folder, files).map_err(wrong)?;
            Operator::Address(AddressSet::parse_lines(&text).map_err(wrong)?)
        }
        "validatebyterange" => Operator::ByteRange(ByteSet::parse(argument).map_err(wrong)?),
        "validateurlencoding" => Operator::ValidateUrlEncoding,
        "validateutf8encoding" => Operator::ValidateUtf8,
        "unconditionalmatch" => Operator::UnconditionalMatch,
        "nomatch" => Operator::Never,
        "detectsqli" => Operator::DetectSqli,
        "detectxss" => Operator::DetectXss,
        "verifycc" => Operator::Identity(Identity::Card, Pattern::compile_linear(argument).map_err(wrong)?),
        "verifycpf" => Operator::Identity(Identity::Cpf, Pattern::compile_linear(argument).map_err(wrong)?),
        "verifyssn" => Operator::Identity(Identity::SocialSecurity, Pattern::compile_linear(argument).map_err(wrong)?),
        "geolookup" | "rbl" => {
            note = Some(format!(
                "operator @{name} asks for GeoIP data or DNS, which this engine has not: it never matches"
            ));
            Operator::Never
        }
        other => match TextTest::parse(other) {
            Some(test) => Operator::Text(test, Template::parse(argument.trim()).map_err(wrong)?),
            None => return Err(format!("operator @{name} is not known or not supported")),
        },
    };
    Ok(Read { operator, sense, note })
}

fn pattern(argument: &str) -> Result<Operator, String> {
    let template = Template::parse(argument).ok().filter(|template| template.fixed().is_none());
    Ok(match template {
        Some(template) => Operator::PatternTemplate(template),
        None => Operator::Pattern(fixed(argument)?),
    })
}

fn fixed(argument: &str) -> Result<Pattern, String> {
    Pattern::compile(argument)
}

fn phrases_from(names: &str, folder: &Path, files: &dyn Files) -> Result<Phrases, String> {
    let contents = names
        .split_ascii_whitespace()
        .map(|name| files.read(&folder.join(name)).map_err(|error| format!("data file {name}: {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    if contents.is_empty() {
        return Err("expects the name of a data file".to_owned());
    }
    Phrases::parse_lines(contents.iter().map(Vec::as_slice))
}

fn text_of(name: &str, folder: &Path, files: &dyn Files) -> Result<String, String> {
    let bytes = files.read(&folder.join(name)).map_err(|error| format!("data file {name}: {error}"))?;
    String::from_utf8(bytes).map_err(|_| format!("data file {name} is not UTF-8"))
}
