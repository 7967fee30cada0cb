//! The house rules that a machine can hold: which crate may know which, and that no file stands beside the program unused.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// What each crate may depend on inside the workspace; ARCHITECTURE.md draws the same arrows.
const ARROWS: [(&str, &[&str]); 25] = [
    ("names", &[]),
    ("config", &["names"]),
    ("wire", &[]),
    ("limit", &["names", "config"]),
    ("rollout", &["names", "config"]),
    ("auth", &["names", "config"]),
    ("waf", &[]),
    ("privacy", &["names", "config"]),
    ("api", &["names", "config"]),
    ("policy", &["names", "config", "auth", "limit"]),
    ("tls", &["names", "config"]),
    ("ops", &["names", "config"]),
    ("health", &["names", "config", "tls"]),
    ("store", &["names", "config", "limit", "tls"]),
    ("discover", &["names", "config", "auth", "tls"]),
    ("upstream", &["names", "config", "discover", "health", "tls"]),
    ("gslb", &["names", "config", "tls", "health"]),
    ("egress", &["names", "config", "wire", "tls", "auth", "limit", "policy", "health", "upstream"]),
    ("ca", &["names"]),
    ("mesh", &["names", "config", "wire", "policy"]),
    ("enrol", &["names", "config", "ca", "mesh"]),
    ("sidecar", &["names", "config", "ops", "mesh"]),
    ("proxy", PROXY),
    ("gateway", GATEWAY),
    ("", BINARY),
];

const PROXY: &[&str] = &[
    "names", "config", "wire", "waf", "privacy", "api", "policy", "auth", "limit", "store", "rollout", "tls", "ops",
    "health", "upstream", "egress", "mesh",
];
const GATEWAY: &[&str] = &[
    "gslb", "names", "config", "wire", "waf", "privacy", "api", "policy", "auth", "limit", "store", "rollout", "tls",
    "ops", "discover", "health", "upstream", "egress", "enrol", "sidecar", "mesh", "proxy",
];
const BINARY: &[&str] = &[
    "ca", "gslb", "names", "config", "wire", "waf", "privacy", "api", "policy", "auth", "limit", "store", "rollout",
    "tls", "ops", "discover", "health", "upstream", "egress", "mesh", "enrol", "sidecar", "proxy", "gateway",
];

/// Foreign crates that only some of ours may touch.
const RESERVED: [(&str, &[&str]); 2] = [
    ("pingora", &["proxy"]),
    (
        "tokio",
        &[
            "gslb", "egress", "auth", "discover", "config", "tls", "store", "ops", "health", "upstream", "proxy",
            "gateway", "enrol", "sidecar", "",
        ],
    ),
];

#[test]
fn dependencies_point_only_where_the_architecture_says() {
    let mut wrong = Vec::new();
    for (package, dependencies) in packages() {
        let own = |name: &str| name.strip_prefix("portcullis-").map(str::to_owned);
        let name = own(&package).unwrap_or_default();
        let (_, allowed) =
            ARROWS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{package} has no row"));
        for dependency in dependencies {
            if let Some(inner) = own(&dependency)
                && !allowed.contains(&inner.as_str())
            {
                wrong.push(format!("{package} must not know {dependency}"));
            }
            for (foreign, holders) in RESERVED {
                let touches = dependency == foreign || dependency.starts_with(&format!("{foreign}-"));
                if touches && !holders.contains(&name.as_str()) {
                    wrong.push(format!("{package} must not know {dependency}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The compiler does not see a file that nobody declares: what a merge brings back lies there unread.
#[test]
fn every_source_file_is_declared_by_another() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = std::fs::read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let mut files = Vec::new();
    for package in crates.chain(["gateway", "gslb", ""].map(|name| root.join(name))) {
        sources(&package.join("src"), &mut files);
        sources(&package.join("tests/it"), &mut files);
    }
    assert!(files.len() > 500, "{} files", files.len());
    let is_root = |file: &PathBuf| ["lib.rs", "main.rs", "mod.rs"].iter().any(|name| file.ends_with(name));
    let unread: Vec<_> = files.iter().filter(|file| !is_root(file) && !is_declared(file)).collect();
    assert!(unread.is_empty(), "no `mod` declares these: {unread:#?}");
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn is_declared(file: &Path) -> bool {
    let (folder, name) = (file.parent().unwrap(), file.file_stem().unwrap().to_str().unwrap());
    let above = ["lib.rs", "main.rs", "mod.rs"].map(|name| folder.join(name));
    above.into_iter().chain([folder.with_extension("rs")]).any(|parent| {
        let text = std::fs::read_to_string(parent).unwrap_or_default();
        text.lines().any(|line| line.trim_end().ends_with(&format!("mod {name};")))
    })
}

fn packages() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let normal =
                package["dependencies"].as_array().unwrap().iter().filter(|dependency| dependency["kind"].is_null());
            let names = normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect();
            (package["name"].as_str().unwrap().to_owned(), names)
        })
        .collect()
}
