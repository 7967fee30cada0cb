//! From a checked document to a spec: what the linter found wrong is taken away, the rest is read, and whatever a type's own
//! reader still refuses is reported, taken away as well, and the rest read again.

use crate::{
    Context, Document, Path, Report, Reserved,
    document::Target,
    lint::{self, Findings},
    node::{Node, NodeId, Span, Value},
    reader::{ReadError, Reader},
    report::{Level, Problem},
    shape,
};
use serde_json::Value as Json;
use std::{collections::HashSet, sync::Arc};

/// Rounds of reading before giving up; each finds one mistake that the schema could not tell.
const ROUNDS_MAX: usize = 100;

impl Document {
    /// Checks the whole document against the schema of `S`, then reads it. The context's report has every mistake.
    ///
    /// The spec is there even when the report has errors, without what was wrong, so that a compile step finds its own
    /// mistakes in the same run. Publish nothing when [`Report::has_errors`] after it. `None`: nothing sensible is left.
    pub fn read<S>(self: &Arc<Self>, mut report: Report, reserved: &[Reserved]) -> (Option<S>, Context)
    where
        S: serde::de::DeserializeOwned + schemars::JsonSchema,
    {
        let schema = crate::schema::<S>();
        let Findings { mut problems, mut bad, secrets } = lint::lint(self, &schema, reserved);
        report.hide(secrets);
        let spec = self.read_rest(&schema, &mut problems, &mut bad);
        let mut cx = Context::new(self.clone(), report);
        for problem in problems {
            cx.adopt(problem);
        }
        cx.set_aside(bad.into_iter().map(|(_, path)| path));
        // What stands in a file that is not TOML is a guess, and a compile step would report the guesses.
        (spec.filter(|_| !self.torn), cx)
    }

    fn read_rest<S>(&self, schema: &Json, problems: &mut Vec<Problem>, bad: &mut Vec<(NodeId, Path)>) -> Option<S>
    where
        S: serde::de::DeserializeOwned,
    {
        let mut without: HashSet<NodeId> = bad.iter().map(|(node, _)| *node).collect();
        let ours = self.root.as_table().into_iter().flatten();
        without.extend(
            ours.filter(|(key, _)| matches!(key.as_str(), "schema" | "include") && !shape::names(schema, key))
                .map(|(_, entry)| entry.node.id),
        );
        for _ in 0..ROUNDS_MAX {
            let error = match S::deserialize(Reader { node: &self.root, without: &without }) {
                Ok(spec) => return Some(spec),
                Err(error) => error,
            };
            let path = error.path();
            let (node, span) = error.at.clone().unwrap_or_else(|| (self.root.id, self.root.span.clone()));
            let follows = self.is_a_consequence(&error, node, &without);
            if !follows {
                problems.push(self.problem(error, &path, span));
            }
            // The root itself, or no progress: nothing sensible is left.
            if node == self.root.id || !without.insert(node) {
                return None;
            }
            bad.push((node, path));
        }
        None
    }

    /// Whether a table is refused because of what was taken out of it.
    fn is_a_consequence(&self, error: &ReadError, node: NodeId, without: &HashSet<NodeId>) -> bool {
        let refused = self.node_at(&error.path()).filter(|refused| refused.id == node);
        refused.is_some_and(|refused| children(refused).any(|child| without.contains(&child.id)))
    }

    fn problem(&self, error: ReadError, path: &Path, span: Span) -> Problem {
        // A table's own span is its whole body: its name says more.
        let is_body = self.node_at(path).is_some_and(|node| node.as_table().is_some() && node.span == span);
        let span = if is_body { self.span(path, Target::Key).unwrap_or(span) } else { span };
        let message = if *path == Path::root() { error.message } else { format!("`{path}`: {}", error.message) };
        Problem { span: Some(span), ..Problem::new(Level::Error, path.clone(), message) }
    }
}

fn children(node: &Node) -> Box<dyn Iterator<Item = &Node> + '_> {
    match &node.value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Table(table) => Box::new(table.values().map(|entry| &entry.node)),
        _ => Box::new(std::iter::empty()),
    }
}
