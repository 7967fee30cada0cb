//! Problems as people read them: rustc's form, through rustc's own renderer.

use crate::{
    document::{Source, Sources},
    node::Span,
    report::{Level, Problem},
};
use annotate_snippets::{AnnotationKind, Group, Level as Shown, Renderer, Snippet};
use std::borrow::Cow;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Ansi,
}

pub(crate) fn problem(problem: &Problem, sources: &Sources, colour: Colour) -> String {
    let level = match problem.level {
        Level::Error => Shown::ERROR,
        Level::Warning => Shown::WARNING,
    };
    let files: Vec<_> = problem
        .span
        .iter()
        .chain(problem.related.iter().filter_map(|related| related.span.as_ref()))
        .filter_map(|span| sources.files.get(span.file))
        .map(|source| (source.path.display().to_string(), masked(source)))
        .collect();
    let mut texts = files.iter();
    let mut main = level
        .primary_title(problem.message.as_str())
        .elements(Vec::<Snippet<'_, annotate_snippets::Annotation<'_>>>::new());
    if let (Some(span), Some((path, text))) = (&problem.span, texts.next()) {
        main = main.element(
            Snippet::source(text.as_ref())
                .path(path.as_str())
                .annotation(AnnotationKind::Primary.span(clamp(span, text))),
        );
    }
    for related in &problem.related {
        let Some(span) = &related.span else { continue };
        let Some((path, text)) = texts.next() else { continue };
        main = main.element(
            Snippet::source(text.as_ref())
                .path(path.as_str())
                .annotation(AnnotationKind::Context.span(clamp(span, text)).label(related.note.as_str())),
        );
    }
    let mut groups = vec![main];
    if let Some(help) = &problem.help {
        groups.push(Group::with_title(Shown::HELP.secondary_title(help.as_str())));
    }
    let renderer = match colour {
        Colour::Plain => Renderer::plain(),
        Colour::Ansi => Renderer::styled(),
    };
    renderer.render(&groups)
}

/// A span of a whole table would underline pages: its first line says enough.
fn clamp(span: &Span, text: &str) -> std::ops::Range<usize> {
    let start = span.range.start.min(text.len());
    let end = span.range.end.clamp(start, text.len());
    let first_line = text.get(start..end).and_then(|part| part.find('\n')).map_or(end, |at| start + at);
    start..first_line
}

/// A secret that was written in plain text by mistake must not be repeated: values of keys that name secrets are blotted
/// out, octet by octet, so that every span still fits.
fn masked(source: &Source) -> Cow<'_, str> {
    let names_secret = |line: &str| SECRET_KEYS.iter().any(|key| line.contains(key));
    if !source.text.lines().any(names_secret) {
        return Cow::Borrowed(&source.text);
    }
    let blot = |line: &str| {
        if !names_secret(line) || line.contains("file") || line.contains("env") {
            return line.to_owned();
        }
        let Some(equals) = line.find('=') else { return line.to_owned() };
        let (front, value) = line.split_at(equals + 1);
        let hidden: String = value
            .chars()
            .map(|c| {
                if c.is_whitespace() || matches!(c, '"' | '\'' | '{' | '}' | ',') {
                    c.to_string()
                } else {
                    "*".repeat(c.len_utf8())
                }
            })
            .collect();
        format!("{front}{hidden}")
    };
    Cow::Owned(source.text.split('\n').map(blot).collect::<Vec<_>>().join("\n"))
}

const SECRET_KEYS: [&str; 5] = ["key", "secret", "password", "token", "credential"];
