//! Tests only: compiling a piece of configuration.

use portcullis_config::{Context, Path};
use serde::de::DeserializeOwned;

/// What `compile` makes of `text`, and the problems it reports.
pub(crate) fn problems<S: DeserializeOwned, T>(
    text: &str,
    compile: impl FnOnce(&S, &Path, &mut Context) -> T,
) -> (T, Vec<String>) {
    let spec: S = toml::from_str(text).unwrap();
    let mut cx = Context::default();
    let made = compile(&spec, &Path::root(), &mut cx);
    let (report, _) = cx.finish();
    (made, report.problems().iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect())
}
