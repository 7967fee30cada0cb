//! Problems as people read them: rustc's form, through rustc's own renderer.

use crate::{
    Report,
    node::Span,
    report::{Level, Problem},
    source::Sources,
};
use annotate_snippets::{Annotation, AnnotationKind, Group, Level as Shown, Renderer, Snippet};
use std::ops::Range;

/// Whether the text goes to a terminal that shows colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Ansi,
}

/// Two places of one file that are nearer than this share a snippet; what lies between is folded.
const SNIPPET_MAX: usize = 64 << 10;

pub(crate) fn problem(problem: &Problem, sources: &Sources, secrets: &[Span], colour: Colour) -> String {
    let level = match problem.level {
        Level::Error => Shown::ERROR,
        Level::Warning => Shown::WARNING,
    };
    let mut marks: Vec<Mark<'_>> = Vec::new();
    marks.extend(problem.span.as_ref().map(|span| Mark { span, kind: AnnotationKind::Primary, note: None }));
    for related in &problem.related {
        let Some(span) = &related.span else { continue };
        marks.push(Mark { span, kind: AnnotationKind::Context, note: Some(related.note.as_str()) });
    }
    let mut main = level.primary_title(problem.message.as_str()).elements(Vec::<Snippet<'_, Annotation<'_>>>::new());
    for together in group(marks) {
        if let Some(snippet) = snippet(&together, sources, secrets) {
            main = main.element(snippet);
        }
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

/// One underlined stretch.
struct Mark<'p> {
    span: &'p Span,
    kind: AnnotationKind,
    note: Option<&'p str>,
}

fn group(marks: Vec<Mark<'_>>) -> Vec<Vec<Mark<'_>>> {
    let mut groups: Vec<Vec<Mark<'_>>> = Vec::new();
    for mark in marks {
        let near = |other: &Mark<'_>| {
            other.span.file == mark.span.file && other.span.range.start.abs_diff(mark.span.range.start) < SNIPPET_MAX
        };
        match groups.iter_mut().find(|group| group.first().is_some_and(near)) {
            Some(group) => group.push(mark),
            None => groups.push(vec![mark]),
        }
    }
    groups
}

/// The lines that the marks stand on. The renderer gets these alone: handing it whole files costs as much as they are long,
/// once for every problem.
fn snippet<'p>(marks: &[Mark<'p>], sources: &Sources, secrets: &[Span]) -> Option<Snippet<'p, Annotation<'p>>> {
    let first = marks.first()?;
    let source = sources.get(first.span)?;
    let start = marks.iter().map(|mark| mark.span.range.start).min()?;
    let end = marks.iter().map(|mark| mark.span.range.start).max()?;
    let excerpt = source.excerpt(start..end, &Report::secrets_in(secrets, first.span.file));
    let path = source.path.display().to_string();
    let mut spans = Vec::new();
    for mark in marks {
        let span = within(&mark.span.range, excerpt.start, &excerpt.text);
        spans.push(mark.kind.span(span).label(mark.note));
    }
    Some(Snippet::source(excerpt.text).path(path).line_start(excerpt.line).annotations(spans))
}

/// A span inside the excerpt, cut at the end of its first line: the span of a whole table would underline pages.
fn within(range: &Range<usize>, offset: usize, text: &str) -> Range<usize> {
    let start = range.start.saturating_sub(offset).min(text.len());
    let end = range.end.saturating_sub(offset).clamp(start, text.len());
    let line = text.get(start..end).and_then(|part| part.find(['\r', '\n']));
    start..line.map_or(end, |at| start + at)
}
