//! `[waf.NAME]`: rule sets, compiled once and shared by all routes and cores; and what each rule of a route wants of them.

use crate::Compiled;
use portcullis_config::{Context, Path};
use portcullis_names::{ByteSize, ObjectName, Percent};
use portcullis_policy::{RouteTable, WafExclusionSpec, WafMode, WafWish};
use portcullis_proxy::WafGuard;
use portcullis_waf::{
    EngineMode, ExcludedRules, ExclusionSpec, Files, Origin, ProfileError, ProfileSpec, SecLangError, Source, Waf,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A rule set.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WafSetSpec {
    /// SecLang files in this order, `*` and `?` allowed in names; "builtin" stands for our own rules (default: only those), and
    /// "crs:FOLDER" for an unpacked release of the Core Rule Set with its setup and plugins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub rules: Option<Vec<String>>,
    /// Files after them: exclusions, rules of one's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Request bodies are held and looked at up to this size (default 128KiB, at most 16MiB).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<ByteSize>,
    /// What becomes of larger ones (default inspect_prefix).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beyond: Option<Beyond>,
}

/// What becomes of a request whose body is larger than what is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Beyond {
    /// Its beginning is judged, and the rest passes unseen: uploads work without anybody's saying how large they are.
    InspectPrefix,
    /// Where rules may block, it is answered 413 (RFC 9110 §15.5.14): nothing unseen reaches the upstream. A stream of gRPC
    /// ends there too.
    Refuse,
}

impl Beyond {
    /// As `SecRequestBodyLimitAction` has it.
    fn action(self) -> &'static str {
        match self {
            Self::InspectPrefix => "ProcessPartial",
            Self::Refuse => "Reject",
        }
    }
}

/// Every compiled set, with what it was compiled from.
#[derive(Debug, Clone, Default)]
pub(crate) struct WafSets(BTreeMap<String, WafSet>);

#[derive(Debug, Clone)]
struct WafSet {
    waf: Arc<Waf>,
    body_limit: usize,
    /// Of every file's name and content: an equal one needs no new compilation, and its counters go on.
    digest: u64,
}

const BUILTIN: &str = "builtin";

macro_rules! builtin_rules {
    ($($name:literal),* $(,)?) => {
        /// Our own rules, in the program itself.
        const BUILTIN_RULES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../waf-rules/", $name)))),*];
    };
}

builtin_rules!(
    "00-engine.conf",
    "01-setup.conf",
    "10-protocol.conf",
    "11-scanners.conf",
    "12-traversal.conf",
    "20-sqli.conf",
    "21-xss.conf",
    "22-rce-unix.conf",
    "23-rce-windows.conf",
    "24-php.conf",
    "25-java.conf",
    "26-node.conf",
    "27-ssti.conf",
    "30-ssrf.conf",
    "31-xxe.conf",
    "32-nosql-ldap.conf",
    "33-jndi.conf",
    "40-session.conf",
    "41-crlf.conf",
    "42-upload.conf",
    "50-leaks.conf",
    "90-decision.conf",
);

impl WafSets {
    /// Compiles the sets that are written and those that routes want, or takes them over from `previous`.
    pub(crate) fn compile(
        specs: &BTreeMap<ObjectName, WafSetSpec>,
        routes: &RouteTable,
        previous: Option<&Compiled>,
        cx: &mut Context,
    ) -> Self {
        let mut sets = Self::default();
        let before = previous.map(|previous| &previous.waf_sets.0);
        for (name, spec) in specs {
            let at = Path::root().key("waf").key(name);
            let kept = before.and_then(|before| before.get(name.as_str()));
            if let Some(set) = compile_set(spec, kept, &at, cx) {
                sets.0.insert(name.to_string(), set);
            }
        }
        let mut wishes =
            routes.plans().filter_map(|plan| plan.waf.as_ref()).filter(|wish| wish.mode != Some(WafMode::Off));
        // A set takes ten megabytes: not where nobody looks by it.
        let wants_builtin = wishes.any(|wish| {
            let as_shadow = wish.shadow.as_ref().is_some_and(|(shadow, _)| shadow.profile == BUILTIN);
            as_shadow || wish.profile.as_ref().map_or(specs.is_empty(), |(name, _)| name == BUILTIN)
        });
        if wants_builtin && !sets.0.contains_key(BUILTIN) {
            let spec = WafSetSpec { rules: None, include: Vec::new(), body: None, beyond: None };
            let kept = before.and_then(|before| before.get(BUILTIN));
            sets.0.extend(compile_set(&spec, kept, &Path::root().key("waf"), cx).map(|set| (BUILTIN.to_owned(), set)));
        }
        sets
    }

    /// What looks at the requests of each plan, in their order.
    pub(crate) fn guards(
        &self,
        specs: &BTreeMap<ObjectName, WafSetSpec>,
        routes: &RouteTable,
        cx: &mut Context,
    ) -> Vec<Option<Arc<WafGuard>>> {
        let mut made: Vec<(WafWish, Option<Arc<WafGuard>>)> = Vec::new();
        let mut guards = Vec::new();
        for plan in routes.plans() {
            // Where a rule set is configured and nothing is said, it looks and refuses nothing.
            let wish = match (&plan.waf, specs.len()) {
                (Some(wish), _) => wish.clone(),
                (None, 1) => WafWish::default(),
                (None, _) => {
                    guards.push(None);
                    continue;
                }
            };
            // Rules that want the same share it.
            if let Some((_, guard)) = made.iter().find(|(known, _)| *known == wish) {
                guards.push(guard.clone());
                continue;
            }
            let guard = self.guard(specs, &wish, cx).map(Arc::new);
            made.push((wish, guard.clone()));
            guards.push(guard);
        }
        guards
    }

    fn guard(&self, specs: &BTreeMap<ObjectName, WafSetSpec>, wish: &WafWish, cx: &mut Context) -> Option<WafGuard> {
        let mode = match wish.mode.unwrap_or(WafMode::Detect) {
            WafMode::Off => return None,
            WafMode::Detect => EngineMode::DetectionOnly,
            WafMode::Block => EngineMode::On,
        };
        let name = match (&wish.profile, specs.len()) {
            (Some((name, at)), _) => defined(specs, name, at, cx)?,
            (None, 1) => specs.keys().next().map_or_else(|| BUILTIN.to_owned(), ToString::to_string),
            (None, 0) => BUILTIN.to_owned(),
            (None, _) => {
                cx.error(
                    &Path::root().key("waf"),
                    "there are several rule sets, and a route does not say which it wants",
                )
                .help("give `waf.profile` in [defaults] or on the route");
                return None;
            }
        };
        let set = self.0.get(&name)?;
        let spec = ProfileSpec {
            mode: Some(mode),
            paranoia: wish.paranoia,
            detection_paranoia: wish.detection_paranoia,
            inbound_threshold: wish.inbound,
            outbound_threshold: wish.outbound,
            exclusions: wish.exclude.iter().filter_map(|(one, at)| exclusion(one, at, cx)).collect(),
        };
        let shadow = wish.shadow.as_ref().and_then(|(shadow, at)| {
            let guard = self.shadow(defined(specs, &shadow.profile, &at.key("profile"), cx)?, &spec, wish, at, cx)?;
            Some((Arc::new(guard), shadow.sample.unwrap_or(Percent::ALL)))
        });
        match WafGuard::new(name, set.waf.clone(), spec, set.body_limit) {
            Ok(guard) => {
                warm(&guard);
                Some(WafGuard { sample: wish.sample.unwrap_or(Percent::ALL), shadow, ..guard })
            }
            Err(errors) => {
                for error in errors {
                    let at = match &error {
                        ProfileError::Exclusion { number, .. } => wish.exclude.get(*number).map(|(_, at)| at.clone()),
                        ProfileError::Paranoia(_) | ProfileError::Detection { .. } => None,
                    };
                    cx.error(&at.unwrap_or_else(|| Path::root().key("waf")), error.to_string());
                }
                None
            }
        }
    }

    /// The other rule set, as strict as the one that decides. Exclusions that mean none of its rules would have to be written anew
    /// when it takes over: that is worth a warning.
    fn shadow(
        &self,
        name: String,
        spec: &ProfileSpec,
        wish: &WafWish,
        at: &Path,
        cx: &mut Context,
    ) -> Option<WafGuard> {
        let set = self.0.get(&name)?;
        let mut spec = spec.clone();
        let numbered: Vec<_> = std::mem::take(&mut spec.exclusions).into_iter().zip(&wish.exclude).collect();
        for (exclusion, (_, place)) in numbered {
            let alone = ProfileSpec { exclusions: vec![exclusion.clone()], ..ProfileSpec::default() };
            match set.waf.profile(&alone) {
                Ok(_) => spec.exclusions.push(exclusion),
                Err(_) => {
                    cx.warning(place, format!("this excludes nothing of shadow rule set \"{name}\""));
                }
            }
        }
        match WafGuard::new(name, set.waf.clone(), spec, set.body_limit) {
            Ok(guard) => {
                warm(&guard);
                Some(guard)
            }
            // The paranoia, which the rule set that decides reports as well.
            Err(errors) => {
                for error in errors {
                    cx.error(at, error.to_string());
                }
                None
            }
        }
    }
}

/// The name of a rule set that there is.
fn defined(specs: &BTreeMap<ObjectName, WafSetSpec>, name: &str, at: &Path, cx: &mut Context) -> Option<String> {
    if name != BUILTIN && !specs.keys().any(|known| known.as_str() == name) {
        let known = specs.keys().map(ObjectName::as_str).chain([BUILTIN]);
        cx.undefined(at, "waf", name, known);
        return None;
    }
    Some(name.to_owned())
}

/// So that the first request does not wait for a prefilter.
fn warm(guard: &WafGuard) {
    let blocking = guard.wanted.paranoia.unwrap_or(1);
    let detection = guard.wanted.detection_paranoia.unwrap_or(blocking).to_string();
    guard.waf.warm(&[("blocking_paranoia_level", &blocking.to_string()), ("detection_paranoia_level", &detection)]);
}

fn compile_set(spec: &WafSetSpec, kept: Option<&WafSet>, at: &Path, cx: &mut Context) -> Option<WafSet> {
    let builtin = vec![BUILTIN.to_owned()];
    let rules = spec.rules.as_ref().unwrap_or(&builtin).iter().enumerate();
    let mut sources: Vec<Source> = Vec::new();
    let has_engine = rules.clone().any(|(_, name)| name == BUILTIN);
    for (index, name) in rules {
        let at = at.key("rules").index(index);
        match sources_of(name, has_engine, |file| cx.resolve(&at, file)) {
            Ok(found) => sources.extend(found),
            Err(message) => {
                cx.error(&at, message).help("list its files one by one: crs-setup.conf first, then rules/*.conf");
                return None;
            }
        }
    }
    for (index, name) in spec.include.iter().enumerate() {
        sources.push(Source::File(cx.resolve(&at.key("include").index(index), FilePath::new(name))));
    }
    let limit = body_limit(spec, at, cx);
    let action = spec.beyond.unwrap_or(Beyond::InspectPrefix).action();
    let mut text = format!("SecRequestBodyLimit {limit}\nSecRequestBodyLimitAction {action}\n");
    // Whoever says how much is to be looked at means forms and documents as well as uploads.
    if spec.body.is_some() {
        text.push_str(&format!("SecRequestBodyNoFilesLimit {limit}\n"));
    }
    sources.push(Source::Text { name: "waf.body".to_owned(), text });
    let files = WatchedFiles { read: RefCell::default(), digest: RefCell::default() };
    // Read once for the digest: compiling a large set costs half a second, which most reloads need not spend.
    let digest = files.digest_of(&sources);
    if let Some(kept) = kept.filter(|kept| kept.digest == digest) {
        files.watch(cx);
        return Some(kept.clone());
    }
    let compiled = Waf::compile(&sources, &files);
    files.watch(cx);
    match compiled {
        Ok(waf) => {
            for note in waf.notes() {
                tracing::info!(?note, "waf");
            }
            Some(WafSet { waf: Arc::new(waf), body_limit: usize::try_from(limit).unwrap_or(usize::MAX), digest })
        }
        Err(errors) => {
            const SHOWN: usize = 20;
            for error in errors.iter().take(SHOWN) {
                cx.error(at, error.to_string());
            }
            if errors.len() > SHOWN {
                cx.error(at, format!("and {} more mistakes in the rules", errors.len() - SHOWN));
            }
            None
        }
    }
}

/// What one entry of `rules` stands for; `resolve` says where a file is. `has_engine` when our own rules, which say how bodies are
/// read, are in the list.
fn sources_of(name: &str, has_engine: bool, resolve: impl Fn(&FilePath) -> PathBuf) -> Result<Vec<Source>, String> {
    if name == BUILTIN {
        let own = BUILTIN_RULES
            .iter()
            .map(|(name, text)| Source::Text { name: format!("builtin/{name}"), text: (*text).to_owned() });
        return Ok(own.collect());
    }
    match name.strip_prefix("crs:") {
        Some(folder) => core_rule_set(&resolve(FilePath::new(folder)), has_engine),
        None => Ok(vec![Source::File(resolve(FilePath::new(name)))]),
    }
}

/// How bodies are read, which the Core Rule Set leaves to the server's own configuration.
const CORE_ENGINE: &str = "SecRequestBodyAccess On\n\
    SecRequestBodyNoFilesLimit 262144\n\
    SecRequestBodyJsonDepthLimit 64\n\
    SecArgumentsLimit 1000\n\
    SecResponseBodyAccess On\n\
    SecResponseBodyMimeType text/plain text/html text/xml application/json\n\
    SecResponseBodyLimit 524288\n\
    SecResponseBodyLimitAction ProcessPartial\n\
    SecRule REQUEST_HEADERS:Content-Type \"@rx ^(?:application|text)/(?:[a-z0-9.-]+\\+)?json\\b\" \
    \"id:100901,phase:1,pass,nolog,t:none,t:lowercase,ctl:requestBodyProcessor=JSON\"\n\
    SecRule REQUEST_HEADERS:Content-Type \"@rx ^(?:application|text)/(?:[a-z0-9.-]+\\+)?xml\\b\" \
    \"id:100902,phase:1,pass,nolog,t:none,t:lowercase,ctl:requestBodyProcessor=XML\"\n";

/// A release of the Core Rule Set, unpacked, in the order that it asks for.
fn core_rule_set(folder: &FilePath, has_engine: bool) -> Result<Vec<Source>, String> {
    let files = portcullis_waf::Disk;
    let has = |pattern: &PathBuf| files.list(pattern).is_ok_and(|found| !found.is_empty());
    let setups = [folder.join("crs-setup.conf"), folder.join("crs-setup.conf.example")];
    let setup = setups.into_iter().find(|file| file.is_file());
    let rules = folder.join("rules/*.conf");
    let (Some(setup), true) = (setup, has(&rules)) else {
        return Err(format!("{} is no Core Rule Set: it has no crs-setup.conf or no rules/*.conf", folder.display()));
    };
    let plugins = |pattern: &str| Some(folder.join("plugins").join(pattern)).filter(&has);
    let mut sources = Vec::new();
    if !has_engine {
        sources.push(Source::Text { name: "crs.engine".to_owned(), text: CORE_ENGINE.to_owned() });
    }
    let in_order =
        [Some(setup), plugins("*-config.conf"), plugins("*-before.conf"), Some(rules), plugins("*-after.conf")];
    sources.extend(in_order.into_iter().flatten().map(Source::File));
    Ok(sources)
}

/// Every mistake in rule files, each with file and line.
pub type RuleProblems = Vec<SecLangError>;

/// Compiles what `rules = [...]` would, outside of any configuration; files are sought from the working directory.
pub fn compile_rules(rules: &[String]) -> Result<Waf, RuleProblems> {
    let has_engine = rules.iter().any(|name| name == BUILTIN);
    let mut sources = Vec::new();
    for name in rules {
        let origin = Origin { file: name.as_str().into(), line: 0 };
        let found = sources_of(name, has_engine, FilePath::to_owned);
        sources.extend(found.map_err(|message| vec![SecLangError { origin, message }])?);
    }
    Waf::compile(&sources, &portcullis_waf::Disk)
}

impl Compiled {
    /// A rule set by its name, or the only one there is; as a route would have it that asks for nothing but to block.
    pub fn waf(&self, name: Option<&str>) -> Result<WafGuard, String> {
        let sets = &self.waf_sets.0;
        let known = || sets.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let (name, set) = match (name, sets.len()) {
            (Some(name), _) => {
                sets.get_key_value(name).ok_or_else(|| format!("there is no rule set \"{name}\" ({})", known()))?
            }
            (None, 1) => sets.iter().next().ok_or("there is no rule set")?,
            (None, 0) => return Err("the configuration has no rule set".to_owned()),
            (None, _) => return Err(format!("there are several rule sets: say --waf and one of {}", known())),
        };
        let wanted = ProfileSpec { mode: Some(EngineMode::On), ..ProfileSpec::default() };
        WafGuard::new(name.clone(), set.waf.clone(), wanted, set.body_limit)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }
}

const BODY_DEFAULT: u64 = 128 << 10;
const BODY_MAX: u64 = 16 << 20;

fn body_limit(spec: &WafSetSpec, at: &Path, cx: &mut Context) -> u64 {
    let limit = spec.body.map_or(BODY_DEFAULT, ByteSize::bytes);
    if limit == 0 || limit > BODY_MAX {
        cx.error(&at.key("body"), "what is held of one request's body is at least 1B and at most 16MiB");
    }
    limit.min(BODY_MAX)
}

/// The file system, noting what was read so that a change of it is a reload.
struct WatchedFiles {
    read: RefCell<Vec<PathBuf>>,
    digest: RefCell<DefaultHasher>,
}

/// Data files of rule sets are some hundred kilobytes; more is a mistake.
const FILE_MAX: u64 = 16 << 20;

impl WatchedFiles {
    fn digest_of(&self, sources: &[Source]) -> u64 {
        for source in sources {
            match source {
                Source::Text { name, text } => (name, text).hash(&mut *self.digest.borrow_mut()),
                Source::File(pattern) => {
                    for file in self.list(pattern).unwrap_or_default() {
                        let _ = self.read(&file);
                        // What rules include and the data that they name stand beside them.
                        self.hash_beside(&file);
                    }
                }
            }
        }
        self.digest.borrow().finish()
    }

    /// The sizes and times of everything in the folder of a rule file: cheaper than reading, and enough to see a change.
    fn hash_beside(&self, file: &FilePath) {
        let Some(entries) = file.parent().and_then(|folder| std::fs::read_dir(folder).ok()) else { return };
        let mut beside: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let data = entry.metadata().ok()?;
                Some((entry.file_name(), data.len(), data.modified().ok()))
            })
            .collect();
        beside.sort();
        beside.hash(&mut *self.digest.borrow_mut());
    }

    fn watch(&self, cx: &mut Context) {
        let mut files = self.read.borrow().clone();
        files.sort();
        files.dedup();
        files.into_iter().for_each(|file| cx.watch(file));
    }
}

impl Files for WatchedFiles {
    fn read(&self, path: &FilePath) -> io::Result<Vec<u8>> {
        self.read.borrow_mut().push(path.to_owned());
        if std::fs::metadata(path)?.len() > FILE_MAX {
            return Err(io::Error::other("larger than 16MiB"));
        }
        let octets = std::fs::read(path)?;
        (path, &octets).hash(&mut *self.digest.borrow_mut());
        Ok(octets)
    }

    fn list(&self, pattern: &FilePath) -> io::Result<Vec<PathBuf>> {
        portcullis_waf::Disk.list(pattern)
    }
}

fn exclusion(spec: &WafExclusionSpec, at: &Path, cx: &mut Context) -> Option<ExclusionSpec> {
    let rules = match (&spec.rule, &spec.tag) {
        (Some(ids), None) => ExcludedRules::Ids(ids.clone()),
        (None, Some(tag)) => ExcludedRules::Tag(tag.clone()),
        _ => {
            cx.error(at, "an exclusion names rules by `rule` or by `tag`, and not by both");
            return None;
        }
    };
    let expires = match &spec.expires {
        None => None,
        Some(text) => Some(day(text).or_else(|| {
            cx.error(&at.key("expires"), format!("`{text}` is not a day like \"2027-01-31\""));
            None
        })?),
    };
    Some(ExclusionSpec {
        rules,
        target: spec.target.clone(),
        path: spec.path.clone(),
        methods: spec.methods.iter().map(ToString::to_string).collect(),
        expires,
        reason: spec.reason.clone().unwrap_or_else(|| "none was written down".to_owned()),
    })
}

/// The beginning of a day (UTC) since 1970.
fn day(text: &str) -> Option<Duration> {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    let day = time::Date::parse(text, format).ok()?;
    u64::try_from(day.midnight().assume_utc().unix_timestamp()).ok().map(Duration::from_secs)
}
