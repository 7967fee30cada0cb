//! Connections that a new policy no longer allows.

use super::LiveMesh;
use crate::{conn::ConnFacts, core::Core};
use std::{future::pending, rc::Rc};

/// Resolves when the policy of the moment does not let the connection stay. Never for connections that are no sidecar's, or
/// that go out: those are judged by the other end.
pub(crate) async fn revoked(facts: &ConnFacts, core: &Rc<Core>) {
    let Some(mesh) = facts.mesh().filter(|mesh| mesh.application.is_some()) else { return pending().await };
    // Boxed: an idle connection of an edge does not pay for it.
    Box::pin(no_longer(core, |live| mesh.may_stay(live))).await;
}

/// Resolves when a newly published plan makes `stays` say no, or when there is no sidecar any more.
pub(super) async fn no_longer(core: &Rc<Core>, stays: impl Fn(&LiveMesh) -> bool) {
    let Some(live) = core.edge().snapshot().mesh.clone() else { return };
    let mut changes = live.state.changes();
    drop(live);
    loop {
        if changes.changed().await.is_err() {
            return pending().await;
        }
        let snapshot = core.edge().snapshot();
        if !snapshot.mesh.as_ref().is_some_and(|live| stays(live)) {
            return;
        }
    }
}
