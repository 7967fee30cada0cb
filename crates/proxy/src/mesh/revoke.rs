//! Connections that a new policy no longer allows.

use super::{LiveMesh, MeshPlan};
use crate::{conn::ConnFacts, core::Core};
use std::{
    future::pending,
    rc::Rc,
    sync::{Arc, Weak},
};

/// Resolves when the policy of the moment does not let the connection stay. Never for connections that are no sidecar's, or
/// that go out: those are judged by the other end.
pub(crate) async fn revoked(facts: &ConnFacts, core: &Rc<Core>) {
    let Some(mesh) = facts.mesh().filter(|mesh| mesh.application.is_some()) else { return pending().await };
    // Boxed: an idle connection of an edge does not pay for it.
    Box::pin(no_longer(core, &mesh.decided_by, |live| mesh.may_stay(live))).await;
}

/// Resolves when a plan published after the one that decided makes `stays` say no, or when there is no sidecar any more.
pub(super) async fn no_longer(core: &Rc<Core>, decided_by: &Weak<MeshPlan>, stays: impl Fn(&LiveMesh) -> bool) {
    let Some(mut changes) = core.edge().snapshot().mesh.as_ref().map(|live| live.state.changes()) else { return };
    // From here on changes are heard of. One may have come since the decision: handshakes and dialling take their time.
    let snapshot = core.edge().snapshot();
    let is_the_same = |live: &LiveMesh| std::ptr::eq(decided_by.as_ptr(), Arc::as_ptr(&live.plan));
    if !snapshot.mesh.as_ref().is_some_and(|live| is_the_same(live) || stays(live)) {
        return;
    }
    drop(snapshot);
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
