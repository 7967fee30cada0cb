//! A compiled `[api.NAME]`: finds the operation of a request and holds its head against it.

use crate::{
    ApiMode, ApiSpec, Operation, Violation, ViolationGroup, ViolationKind,
    content::{pairs, table},
    document::{Document, Fault, escape},
    parameter::Place,
    paths::{Captures, Paths},
    schemas::Schemas,
};
use portcullis_config::{Context, Path};
use portcullis_names::ByteSize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

pub struct Api {
    request: ApiMode,
    response: ApiMode,
    unknown: ApiMode,
    unsupported: ApiMode,
    body_max: usize,
    /// Path prefixes of the servers.
    bases: BTreeSet<String>,
    paths: Paths,
}

/// What is to be known of a request.
pub struct RequestHead<'r> {
    pub method: &'r str,
    /// Normalised.
    pub path: &'r str,
    pub query: Option<&'r str>,
    /// All values of a field.
    pub header: &'r dyn Fn(&str) -> Vec<String>,
}

const BODY_DEFAULT: u64 = 1 << 20;
const BODY_MAX: u64 = 16 << 20;
/// Mistakes of one document that are shown.
const FAULTS_SHOWN: usize = 20;
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

impl Api {
    pub fn compile(spec: &ApiSpec, at: &Path, cx: &mut Context) -> Option<Self> {
        let body_max = spec.body.map_or(BODY_DEFAULT, ByteSize::bytes);
        if body_max == 0 || body_max > BODY_MAX {
            cx.error(&at.key("body"), "what is held of one body is at least 1B and at most 16MiB");
        }
        let modes = spec.validate.unwrap_or_default();
        let (request, response, unknown) = (
            modes.request.unwrap_or(ApiMode::Log),
            modes.response.unwrap_or(ApiMode::Off),
            modes.unknown.unwrap_or(ApiMode::Log),
        );
        let unsupported = modes.unsupported.unwrap_or(ApiMode::Log);
        if [request, response, unknown].iter().all(|mode| *mode == ApiMode::Off) {
            cx.error(&at.key("validate"), "nothing is looked at: everything is off").help("leave the API out instead");
        }
        let here = at.key("openapi");
        let octets = cx.read(&here, &spec.openapi)?;
        let compiled =
            Document::parse(&octets).map_err(|fault| vec![fault]).and_then(|document| compile_paths(&document));
        match compiled {
            Ok((paths, bases)) => {
                let body_max = usize::try_from(body_max).unwrap_or(usize::MAX);
                Some(Self { request, response, unknown, unsupported, body_max, bases, paths })
            }
            Err(faults) => {
                let file = cx.resolve(&here, &spec.openapi);
                for fault in faults.iter().take(FAULTS_SHOWN) {
                    cx.error(&here, format!("{}:{}: {}", file.display(), fault.line, fault.what));
                }
                if faults.len() > FAULTS_SHOWN {
                    cx.error(&here, format!("and {} more mistakes in the document", faults.len() - FAULTS_SHOWN));
                }
                None
            }
        }
    }

    pub fn mode(&self, group: ViolationGroup) -> ApiMode {
        match group {
            ViolationGroup::Request => self.request,
            ViolationGroup::Response => self.response,
            ViolationGroup::Unknown => self.unknown,
            ViolationGroup::Unsupported if self.request == ApiMode::Off => ApiMode::Off,
            ViolationGroup::ResponseUnsupported if self.response == ApiMode::Off => ApiMode::Off,
            ViolationGroup::Unsupported | ViolationGroup::ResponseUnsupported => self.unsupported,
        }
    }

    /// Octets of a body that are held and looked at.
    pub fn body_max(&self) -> usize {
        self.body_max
    }

    /// The operation that a request is for, if there is one, and how its head differs from it.
    pub fn check_head(&self, head: &RequestHead<'_>) -> (Option<Arc<Operation>>, Vec<Violation>) {
        let mut is_known = false;
        for base in &self.bases {
            let Some(rest) = head.path.strip_prefix(base.as_str()).filter(|rest| rest.starts_with('/')) else {
                continue;
            };
            for (entry, captures) in self.paths.find(rest) {
                is_known = true;
                let operation = entry.methods.get(head.method).or_else(|| {
                    // Whoever answers GET answers HEAD (RFC 9110 §9.3.2).
                    entry.methods.get("GET").filter(|_| head.method == "HEAD")
                });
                if let Some(operation) = operation {
                    return (Some(operation.clone()), check_parameters(operation, head, &captures));
                }
            }
        }
        let violation = if is_known {
            Violation::new(ViolationKind::UnknownMethod, "method", "the document does not have it for this path")
        } else {
            Violation::new(ViolationKind::UnknownPath, "path", "the document does not have it")
        };
        (None, vec![violation])
    }

    /// The methods of a path, for `Allow` (RFC 9110 §10.2.1).
    pub fn allowed(&self, path: &str) -> String {
        let mut methods = BTreeSet::new();
        for rest in self.bases.iter().filter_map(|base| path.strip_prefix(base.as_str())) {
            methods.extend(self.paths.find(rest).flat_map(|(entry, _)| entry.methods.keys().cloned()));
        }
        methods.into_iter().collect::<Vec<_>>().join(", ")
    }
}

fn check_parameters(operation: &Operation, head: &RequestHead<'_>, captures: &Captures) -> Vec<Violation> {
    let mut violations = Vec::new();
    for parameter in operation.of(Place::Path) {
        let given: Vec<_> = captures.iter().filter(|(name, _)| *name == parameter.name).collect();
        violations.extend(parameter.check(&borrowed(given.into_iter())));
    }
    let query = pairs(head.query.unwrap_or_default());
    for parameter in operation.of(Place::Query) {
        let given = query.iter().filter(|(name, _)| parameter.takes(name));
        violations.extend(parameter.check(&borrowed(given)));
    }
    let is_open = operation.of(Place::Query).any(|parameter| parameter.takes_any());
    let known = |name: &str| is_open || operation.of(Place::Query).any(|parameter| parameter.takes(name));
    if query.iter().any(|(name, _)| !known(name)) {
        // Its name is the client's to choose, and stays out of our lines.
        let what = "the operation does not have one of the names that are given";
        violations.push(Violation::new(ViolationKind::UnknownParameter, "query", what));
    }
    for parameter in operation.of(Place::Header) {
        // A field that is given twice is a list (RFC 9110 §5.2).
        let values = (head.header)(&parameter.name);
        let joined = values.join(",");
        let given: Vec<_> = values.first().map(|_| (parameter.name.as_str(), joined.as_str())).into_iter().collect();
        violations.extend(parameter.check(&given));
    }
    if operation.of(Place::Cookie).next().is_some() {
        let cookies: Vec<(String, String)> = (head.header)("cookie")
            .iter()
            .flat_map(|field| field.split(';'))
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect();
        for parameter in operation.of(Place::Cookie) {
            let given = cookies.iter().filter(|(name, _)| *name == parameter.name);
            violations.extend(parameter.check(&borrowed(given)));
        }
    }
    violations
}

fn borrowed<'p>(pairs: impl Iterator<Item = &'p (String, String)>) -> Vec<(&'p str, &'p str)> {
    pairs.map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn compile_paths(document: &Document) -> Result<(Paths, BTreeSet<String>), Vec<Fault>> {
    let version = document.value.get("openapi").and_then(Value::as_str);
    if !version.is_some_and(|version| version.starts_with("3.0") || version.starts_with("3.1")) {
        let what = match (version, document.value.get("swagger")) {
            (Some(version), _) => format!("`openapi: {version}` is not a version that is read: 3.0 and 3.1 are"),
            (None, Some(_)) => "a document of Swagger 2: convert it to OpenAPI 3".to_owned(),
            (None, None) => "not an OpenAPI document: it does not say `openapi: 3.1.0`".to_owned(),
        };
        return Err(vec![document.fault("/openapi", what)]);
    }
    let mut faults = document.check_references();
    if !faults.is_empty() {
        return Err(faults);
    }
    let schemas = Schemas::new(document).map_err(|fault| vec![fault])?;
    let mut paths = Paths::default();
    for (template, _) in table(&document.value, "paths").filter(|(key, _)| !key.starts_with("x-")) {
        let at = format!("/paths/{}", escape(template));
        compile_path(document, &schemas, template, &at, &mut paths, &mut faults);
    }
    if table(&document.value, "paths").next().is_none() {
        faults.push(document.fault("/paths", "the document has no `paths`: everything would be unknown"));
    }
    paths.sort();
    if faults.is_empty() { Ok((paths, bases(document))) } else { Err(faults) }
}

fn compile_path(
    document: &Document,
    schemas: &Schemas,
    template: &str,
    at: &str,
    paths: &mut Paths,
    faults: &mut Vec<Fault>,
) {
    let (item_at, item) = match document.follow(at) {
        Ok(found) => found,
        Err(fault) => return faults.push(fault),
    };
    let mut methods = BTreeMap::new();
    for method in METHODS.iter().filter(|method| item.get(**method).is_some()) {
        let upper = method.to_ascii_uppercase();
        let pointer = format!("{item_at}/{method}");
        let name = format!("{upper} {template}");
        let operation = Operation::compile(document, schemas, name, &pointer, &item_at, faults);
        let named = |name: &str| template.contains(&format!("{{{name}}}"));
        for parameter in operation.of(Place::Path).filter(|parameter| !named(&parameter.name)) {
            let what = format!("path parameter `{}` is not in `{template}`", parameter.name);
            faults.push(document.fault(&pointer, what));
        }
        methods.insert(upper, Arc::new(operation));
    }
    if let Err(what) = paths.add(template, methods) {
        faults.push(document.fault(at, format!("`{template}`: {what}")));
    }
}

/// The paths of `servers`; without any, the root.
fn bases(document: &Document) -> BTreeSet<String> {
    let servers = document.value.get("servers").and_then(Value::as_array);
    let urls = servers.into_iter().flatten().filter_map(|server| server.get("url").and_then(Value::as_str));
    let mut bases: BTreeSet<String> = urls
        .map(|url| {
            let rest = url
                .split_once("://")
                .map_or(url, |(_, rest)| rest.find('/').map_or("", |at| rest.get(at..).unwrap_or("")));
            rest.trim_end_matches('/').to_owned()
        })
        .filter(|base| !base.contains('{'))
        .collect();
    if bases.is_empty() {
        bases.insert(String::new());
    }
    bases
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("bases", &self.bases).finish_non_exhaustive()
    }
}
