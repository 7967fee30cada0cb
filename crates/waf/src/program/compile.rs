//! Reads sources and directives in order and builds the [`Program`].
//!
//! Goes on after every error, so that one run reports them all.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::accelerate::Accelerator;

use super::draft::{self, Draft, DraftTest};
use super::operator;
use super::rule::Rule;
use super::settings::{Applied, Settings};
use super::tx_names::TxNames;
use super::{Entry, Program};
use crate::body::FileContents;
use crate::error::{Origin, Problems, SecLangError};
use crate::seclang::action::{self, Action, Disruptive, Phase, RuleSelector};
use crate::seclang::source::{Files, Source};
use crate::seclang::statement::{Statement, statements};
use crate::seclang::target;
use crate::seclang::variable::Variable;
use crate::transform::UnicodeMap;

/// How deep `Include` may nest; a file that includes itself must end.
const INCLUDE_DEPTH: usize = 16;

/// Compiles all sources, in order.
pub(crate) fn compile(sources: &[Source], files: &dyn Files) -> Result<Program, Vec<SecLangError>> {
    let mut compiler = Compiler::new(files);
    for source in sources {
        match source {
            Source::File(path) => {
                let origin = Origin { file: Arc::from(path.to_string_lossy()), line: 1 };
                compiler.include(path, &origin, 0);
            }
            Source::Text { name, text } => compiler.text(&Arc::from(name.as_str()), text, Path::new(""), 0),
        }
    }
    compiler.finish()
}

struct Compiler<'f> {
    files: &'f dyn Files,
    problems: Problems,
    settings: Settings,
    defaults: Vec<(Phase, Vec<Action>)>,
    drafts: Vec<Draft>,
    /// Markers, each with the number of drafts before it.
    markers: Vec<(usize, String)>,
    removed: Vec<usize>,
    /// The head whose chain is still open.
    open_chain: Option<usize>,
}

impl<'f> Compiler<'f> {
    fn new(files: &'f dyn Files) -> Self {
        Self {
            files,
            problems: Problems::default(),
            settings: Settings::default(),
            defaults: Vec::new(),
            drafts: Vec::new(),
            markers: Vec::new(),
            removed: Vec::new(),
            open_chain: None,
        }
    }

    fn include(&mut self, pattern: &Path, origin: &Origin, depth: usize) {
        if depth > INCLUDE_DEPTH {
            self.problems.error(origin, format!("files include each other more than {INCLUDE_DEPTH} deep"));
            return;
        }
        let globbed = pattern.to_string_lossy().contains(['*', '?']);
        let paths = match globbed {
            true => self.files.list(pattern),
            false => Ok(vec![pattern.to_path_buf()]),
        };
        match paths {
            Ok(paths) => paths.iter().for_each(|path| self.file(path, origin, depth)),
            Err(error) => self.problems.error(origin, format!("{}: {error}", pattern.display())),
        }
    }

    fn file(&mut self, path: &Path, origin: &Origin, depth: usize) {
        let read = self.files.read(path).map_err(|error| format!("{}: {error}", path.display()));
        let text =
            read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| format!("{}: is not UTF-8", path.display())));
        if let Some(text) = self.problems.keep(origin, text) {
            self.text(&Arc::from(path.to_string_lossy()), &text, path.parent().unwrap_or(Path::new("")), depth);
        }
    }

    fn text(&mut self, file: &Arc<str>, text: &str, folder: &Path, depth: usize) {
        for statement in statements(file, text, &mut self.problems) {
            if let Err(error) = self.statement(&statement, folder, depth) {
                self.problems.error(&statement.origin, format!("{}: {error}", statement.name));
            }
        }
    }

    fn statement(&mut self, statement: &Statement, folder: &Path, depth: usize) -> Result<(), String> {
        let Statement { origin, name, words } = statement;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let lower = name.to_ascii_lowercase();
        match (lower.as_str(), words.as_slice()) {
            ("secrule", [targets, operator]) => self.rule(origin, targets, operator, "", folder),
            ("secrule", [targets, operator, actions]) => self.rule(origin, targets, operator, actions, folder),
            ("secaction", [actions]) => self.action(origin, actions),
            ("secmarker", [marker]) => {
                self.markers.push((self.drafts.len(), marker.trim_matches('\'').to_owned()));
                Ok(())
            }
            ("secdefaultaction", [actions]) => self.default_action(origin, actions),
            ("secruleremovebyid", ids) => self.remove(statement, &action::ids(&ids.join(" "))?),
            ("secruleremovebytag", [tag]) => self.remove(statement, &action::by_tag(tag)?),
            ("secruleremovebymsg", [message]) => self.remove(statement, &action::by_message(message)?),
            ("secruleupdatetargetbyid", [rule, targets, rest @ ..]) => {
                self.update_target_by_id(statement, rule, targets, rest)
            }
            ("secruleupdatetargetbytag", [tag, targets, rest @ ..]) => {
                self.update_targets(statement, &action::by_tag(tag)?, targets, rest.first().copied())
            }
            ("secruleupdatetargetbymsg", [message, targets, rest @ ..]) => {
                self.update_targets(statement, &action::by_message(message)?, targets, rest.first().copied())
            }
            ("secruleupdateactionbyid", [rule, actions]) => self.update_actions(origin, rule, actions),
            ("include" | "includeoptional", [pattern]) => {
                let path: PathBuf = folder.join(pattern);
                if lower == "include" || self.files.list(&path).is_ok_and(|found| !found.is_empty()) {
                    self.include(&path, origin, depth + 1);
                }
                Ok(())
            }
            ("secunicodemapfile", [file, page]) => self.unicode_map(file, page, folder),
            _ => self.setting(statement, &lower),
        }
    }

    fn setting(&mut self, statement: &Statement, lower: &str) -> Result<(), String> {
        match self.settings.apply(lower, &statement.words)? {
            Applied::Done => Ok(()),
            Applied::Inert(why) => {
                self.problems.note(&statement.origin, format!("{} changes nothing: {why}", statement.name));
                Ok(())
            }
            Applied::Unknown if KNOWN.contains(&lower) => {
                Err(format!("wrong number of arguments ({})", statement.words.len()))
            }
            Applied::Unknown => Err("the directive is not known or not supported".to_owned()),
        }
    }

    fn unicode_map(&mut self, file: &str, page: &str, folder: &Path) -> Result<(), String> {
        let page = page.parse().map_err(|_| format!("\"{page}\" is not a code page"))?;
        let bytes = self.files.read(&folder.join(file)).map_err(|error| format!("{file}: {error}"))?;
        self.settings.unicode_map = UnicodeMap::parse(&String::from_utf8_lossy(&bytes), page)?;
        Ok(())
    }

    /// Reads an action list; its errors are recorded one by one.
    fn actions(&mut self, origin: &Origin, text: &str) -> Vec<Action> {
        let (actions, errors) = action::parse_list(text);
        errors.into_iter().for_each(|error| self.problems.error(origin, error));
        actions
    }

    fn rule(
        &mut self,
        origin: &Origin,
        targets: &str,
        operator: &str,
        actions: &str,
        folder: &Path,
    ) -> Result<(), String> {
        let actions = self.actions(origin, actions);
        let parts = target::parse_list(targets).map_err(|error| self.problems.error(origin, error));
        let operator = operator::read(operator, folder, self.files).map_err(|error| self.problems.error(origin, error));
        let test = parts.ok().zip(operator.ok()).map(|(parts, operator)| DraftTest { parts, operator });
        if let Some(note) = test.as_ref().and_then(|test| test.operator.note.clone()) {
            self.problems.note(origin, note);
        }
        self.draft(origin, test, actions)
    }

    fn action(&mut self, origin: &Origin, text: &str) -> Result<(), String> {
        let actions = self.actions(origin, text);
        self.draft(origin, None, actions)
    }

    fn draft(&mut self, origin: &Origin, test: Option<DraftTest>, actions: Vec<Action>) -> Result<(), String> {
        let id = actions.iter().find_map(|action| match action {
            Action::Id(id) => Some(*id),
            _ => None,
        });
        let own_phase = actions.iter().find_map(|action| match action {
            Action::Phase(phase) => Some(*phase),
            _ => None,
        });
        let head = self.open_chain;
        let phase = match head.and_then(|head| self.drafts.get(head)) {
            Some(head) => head.phase,
            None => own_phase.unwrap_or(Phase::RequestBody),
        };
        let defaults = match head {
            Some(_) => self.default_transforms(phase),
            None => self.default_actions(phase),
        };
        let draft = Draft { origin: origin.clone(), id: id.unwrap_or(0), phase, test, defaults, actions, head };
        self.open_chain = draft.chains_on().then_some(head.unwrap_or(self.drafts.len()));
        let checked = match (head, id) {
            (Some(_), None) => Ok(()),
            (Some(_), Some(id)) => Err(format!("rule {id} is a link of a chain; only the head of a chain has an id")),
            (None, None) => Err("a rule needs an id".to_owned()),
            (None, Some(id)) => match self.drafts.iter().find(|other| other.head.is_none() && other.id == id) {
                Some(other) => Err(format!("id {id} is already used at {}", other.origin)),
                None => Ok(()),
            },
        };
        self.drafts.push(draft);
        checked
    }

    fn default_actions(&self, phase: Phase) -> Vec<Action> {
        let found = self.defaults.iter().rev().find(|(of, _)| *of == phase);
        found.map(|(_, actions)| actions.clone()).unwrap_or_default()
    }

    fn default_transforms(&self, phase: Phase) -> Vec<Action> {
        let mut actions = self.default_actions(phase);
        actions.retain(|action| matches!(action, Action::Transform(_) | Action::ForgetTransforms));
        actions
    }

    fn default_action(&mut self, origin: &Origin, text: &str) -> Result<(), String> {
        let actions = self.actions(origin, text);
        let phase = actions.iter().find_map(|action| match action {
            Action::Phase(phase) => Some(*phase),
            _ => None,
        });
        if actions.iter().any(|action| matches!(action, Action::Disruptive(Disruptive::Block))) {
            return Err("block cannot be its own default; name what it means (deny, drop, pass, redirect)".to_owned());
        }
        self.defaults.push((phase.unwrap_or(Phase::RequestBody), actions));
        Ok(())
    }

    /// Says so when a line that changes earlier rules is of none: often it stands before them.
    fn note_idle(&mut self, statement: &Statement, is_chosen: impl Fn(&usize) -> bool) {
        if !(0..self.drafts.len()).any(|at| is_chosen(&at)) {
            let name = &statement.name;
            self.problems.note(&statement.origin, format!("{name} changes nothing: no rule before this line is of it"));
        }
    }

    fn remove(&mut self, statement: &Statement, selector: &RuleSelector) -> Result<(), String> {
        let chosen = draft::select(selector, &self.drafts)?;
        self.note_idle(statement, |at| chosen.contains(*at));
        self.removed.extend((0..self.drafts.len()).filter(|at| chosen.contains(*at)));
        Ok(())
    }

    /// `ID` or `ID:link`.
    fn update_target_by_id(
        &mut self,
        statement: &Statement,
        rule: &str,
        targets: &str,
        rest: &[&str],
    ) -> Result<(), String> {
        match rule.split_once(':') {
            None => self.update_targets(statement, &action::ids(rule)?, targets, rest.first().copied()),
            Some((id, link)) => {
                let head = self.head(id)?;
                let link: usize = link.parse().map_err(|_| format!("\"{link}\" is not the number of a link"))?;
                self.update_target(head + link, targets, rest.first().copied())
            }
        }
    }

    fn head(&self, id: &str) -> Result<usize, String> {
        let wanted: u32 = id.parse().map_err(|_| format!("\"{id}\" is not a rule id"))?;
        let found = self.drafts.iter().position(|draft| draft.head.is_none() && draft.id == wanted);
        found.ok_or_else(|| format!("rule {id} is not defined before this line"))
    }

    fn update_targets(
        &mut self,
        statement: &Statement,
        selector: &RuleSelector,
        targets: &str,
        replaced: Option<&str>,
    ) -> Result<(), String> {
        let chosen = draft::select(selector, &self.drafts)?;
        self.note_idle(statement, |at| chosen.contains(*at));
        (0..self.drafts.len())
            .filter(|at| chosen.contains(*at))
            .try_for_each(|at| self.update_target(at, targets, replaced))
    }

    /// Appends targets, or puts them in the place of one named.
    fn update_target(&mut self, at: usize, targets: &str, replaced: Option<&str>) -> Result<(), String> {
        let parts = target::parse_list(targets)?;
        let replaced = replaced.map(target::parse_target).transpose()?;
        let Some(test) = self.drafts.get_mut(at).and_then(|draft| draft.test.as_mut()) else { return Ok(()) };
        if let Some(replaced) = replaced {
            test.parts.retain(|part| part.target.variable != replaced.variable);
        }
        test.parts.extend(parts);
        Ok(())
    }

    fn update_actions(&mut self, origin: &Origin, rule: &str, text: &str) -> Result<(), String> {
        let (id, link) = rule.split_once(':').unwrap_or((rule, "0"));
        let link: usize = link.parse().map_err(|_| format!("\"{link}\" is not the number of a link"))?;
        let at = self.head(id)? + link;
        let actions = self.actions(origin, text);
        if actions.iter().any(|action| matches!(action, Action::Id(_) | Action::Phase(_) | Action::Chain)) {
            return Err("id, phase and chain cannot be changed".to_owned());
        }
        if let Some(draft) = self.drafts.get_mut(at) {
            draft.actions.extend(actions);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Program, Vec<SecLangError>> {
        if let Some(head) = self.open_chain.and_then(|head| self.drafts.get(head)) {
            self.problems.error(&head.origin, "the chain has no last link: every link says \"chain\"");
        }
        let removed = self.removed;
        let live = |at: &usize| !removed.contains(at);
        let heads: Vec<usize> = (0..self.drafts.len())
            .filter(|at| self.drafts.get(*at).is_some_and(|draft| draft.head.is_none()))
            .filter(live)
            .collect();
        let problems = &mut self.problems;
        let mut rules = draft::finish(self.drafts, |origin, error| problems.error(origin, error));
        if !self.problems.errors.is_empty() {
            return Err(self.problems.errors);
        }
        let tx_names = TxNames::assign(&mut rules);
        for (at, rule) in heads.iter().filter_map(|at| Some((*at, rules.get(*at)?))) {
            if let Some(marker) =
                rule.actions.skip_after.as_deref().filter(|name| !follows(at, name, &rules, &self.markers))
            {
                let note = format!("skipAfter:{marker} skips the rest of the phase: no such marker or rule follows");
                self.problems.note(&rule.origin, note);
            }
        }
        let mut phases = Phase::ALL.map(|phase| entries(&rules, &heads, &self.markers, phase));
        let accelerator = Accelerator::new(&rules, &mut phases);
        let looks = |rule: &Rule| {
            let targets = rule.test.iter().flat_map(|test| &test.targets);
            targets.into_iter().any(|target| target.target.variable == Variable::FilesTmpContent)
        };
        let file_contents = if rules.iter().any(looks) { FileContents::Kept } else { FileContents::Measured };
        let (settings, notes) = (self.settings, self.problems.notes);
        Ok(Program { settings, rules, phases, notes, tx_names, accelerator, file_contents })
    }
}

/// Whether a marker, or a rule of that id, stands behind the rule at `at`.
fn follows(at: usize, marker: &str, rules: &[Rule], markers: &[(usize, String)]) -> bool {
    let id: Option<u32> = marker.parse().ok();
    markers.iter().any(|(place, name)| *place > at && name == marker)
        || id.is_some_and(|id| rules.iter().skip(at + 1).any(|rule| rule.id == id))
}

/// The heads of one phase, with the places that skips lead to.
fn entries(rules: &[Rule], heads: &[usize], markers: &[(usize, String)], phase: Phase) -> Vec<Entry> {
    let of_phase = |at: &&usize| rules.get(**at).is_some_and(|rule| rule.phase == phase);
    let heads: Vec<usize> = heads.iter().filter(of_phase).copied().collect();
    // The first entry that stands at or after a place in the files.
    let entry_at = |place: usize| heads.partition_point(|head| *head < place);
    let leads_to = |(position, head): (usize, &usize)| {
        let actions = &rules.get(*head)?.actions;
        if let Some(marker) = &actions.skip_after {
            let marked =
                markers.iter().find(|(place, name)| *place > *head && **name == **marker).map(|(place, _)| *place);
            let numbered = || {
                let id: u32 = marker.parse().ok()?;
                heads
                    .iter()
                    .find(|other| *other > head && rules.get(**other).is_some_and(|rule| rule.id == id))
                    .map(|at| at + 1)
            };
            // A marker that does not follow skips the rest of the phase.
            return Some(marked.or_else(numbered).map_or(heads.len(), entry_at));
        }
        let skip = usize::try_from(actions.skip).ok().filter(|skip| *skip > 0)?;
        Some(position + 1 + skip)
    };
    let entry = |entry: (usize, &usize)| Entry {
        rule: *entry.1,
        skip_to: leads_to(entry),
        gate: rules.get(*entry.1).and_then(Rule::gate),
        content: None,
    };
    heads.iter().enumerate().map(entry).collect()
}

/// Directives with arguments of their own, for the message about a wrong number of them.
const KNOWN: [&str; 15] = [
    "include",
    "includeoptional",
    "secaction",
    "secdefaultaction",
    "secmarker",
    "secrule",
    "secruleremovebyid",
    "secruleremovebymsg",
    "secruleremovebytag",
    "secruleupdateactionbyid",
    "secruleupdatetargetbyid",
    "secruleupdatetargetbymsg",
    "secruleupdatetargetbytag",
    "secunicodemapfile",
    "secresponsebodymimetype",
];
