//! A watched file of endpoints.

use portcullis_discover::{Discovery, FileSource, Source};
use std::{path::Path, time::Duration};

const LONG: Duration = Duration::from_secs(20);

fn known(discovery: &Discovery, source: &Source) -> Vec<String> {
    let endpoints = discovery.snapshot(source);
    endpoints.iter().map(|found| format!("{} {}/{}", found.address, found.weight, found.priority)).collect()
}

async fn becomes(discovery: &Discovery, source: &Source, expected: &[&str]) {
    let mut changes = discovery.changes();
    let wait = async {
        while known(discovery, source) != expected {
            changes.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(LONG, wait).await.is_err() {
        panic!("{:?} in place of {expected:?}", known(discovery, source));
    }
}

async fn has_trouble(discovery: &Discovery, expected: &str) {
    let wait = async {
        while !discovery.status()[0].trouble.as_ref().is_some_and(|trouble| trouble.contains(expected)) {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(LONG, wait).await.is_err() {
        panic!("{:?} in place of {expected}", discovery.status()[0].trouble);
    }
}

/// As careful writers do it.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

#[tokio::test]
async fn a_file_is_followed_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.toml");
    replace(&path, "endpoints = [\"10.0.0.1:80\", { address = \"10.0.0.2:80\", weight = 3, priority = 1 }]");
    let source = Source::File(FileSource { path: path.clone() });
    let discovery = Discovery::start([source.clone()], None);
    discovery.settled(LONG).await;
    assert_eq!(known(&discovery, &source), ["10.0.0.1:80 1/0", "10.0.0.2:80 3/1"]);
    assert!(discovery.snapshot(&source).iter().all(|found| found.host.is_none()));

    replace(&path, "endpoints = [\"10.0.0.3:80\"]");
    becomes(&discovery, &source, &["10.0.0.3:80 1/0"]).await;

    let changes = discovery.changes();
    replace(&path, "endpoints = [\"10.0.0.4:80\", \"nonsense\"]");
    has_trouble(&discovery, "nonsense").await;
    std::fs::remove_file(&path).unwrap();
    has_trouble(&discovery, "cannot read it").await;
    assert_eq!(known(&discovery, &source), ["10.0.0.3:80 1/0"]);
    assert!(!changes.has_changed().unwrap());

    replace(&path, "endpoints = []");
    becomes(&discovery, &source, &[]).await;
    assert_eq!(discovery.status()[0].trouble, None);
}

#[tokio::test]
async fn a_file_that_is_written_later_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.json");
    let source = Source::File(FileSource { path: path.clone() });
    let discovery = Discovery::start([source.clone()], None);
    discovery.settled(LONG).await;
    assert!(known(&discovery, &source).is_empty());
    replace(&path, r#"{"endpoints":["10.0.0.1:80"]}"#);
    becomes(&discovery, &source, &["10.0.0.1:80 1/0"]).await;
}
