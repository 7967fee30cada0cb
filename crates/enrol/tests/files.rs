//! Files that something else writes.

#![allow(clippy::unwrap_used)]

use portcullis_ca::{AuthorityLife, Folder, LeafLife, Overwrite};
use portcullis_enrol::{Clock, Follower, Pace, Progress};
use portcullis_mesh::{IdentitySource, OwnIdentity, SvidFiles};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;

#[tokio::test]
async fn files_are_followed_and_broken_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, now) = (Folder::new(folder.path().join("ca")), OffsetDateTime::now_utc());
    let namespace = "acme".parse().unwrap();
    ca.init(&"corp".parse().unwrap(), AuthorityLife::ROOT, Overwrite::Never, now).unwrap();
    ca.intermediate(&namespace, AuthorityLife::INTERMEDIATE, Overwrite::Never, now).unwrap();
    let issue = || {
        let into = folder.path().join("svid");
        ca.issue(&namespace, "cart", LeafLife::default(), Some(&into), Overwrite::Replace, now).unwrap()
    };
    let issued = issue();
    let files = SvidFiles { chain: issued.chain.clone(), key: issued.key, bundle: issued.bundle, revoked: None };
    let own = Arc::new(OwnIdentity::new(issued.id));
    let source = IdentitySource::Files(files);
    let follower = Follower::start(source.clone(), own.clone(), Clock::system(), Pace::default());
    assert!(follower.is_of(&source, &own) && *follower.source() == source);
    let mut changes = follower.changes();
    let mut until = async |what: &str, good: &dyn Fn(&Progress) -> bool| {
        let seen = tokio::time::timeout(Duration::from_secs(30), changes.wait_for(|progress| good(progress))).await;
        assert!(seen.is_ok(), "{what}: {:?}", follower.progress());
    };
    until("the first", &|progress| progress.taken == 1).await;
    issue();
    until("the next", &|progress| progress.taken == 2 && progress.trouble.is_none()).await;
    let second = own.current().unwrap();
    std::fs::write(&issued.chain, "junk").unwrap();
    until("trouble", &|progress| progress.trouble.as_ref().is_some_and(|why| why.contains("is not PEM"))).await;
    assert_eq!(own.current().unwrap().key().cert, second.key().cert);
    issue();
    until("the third", &|progress| progress.taken == 3 && progress.trouble.is_none()).await;
}
