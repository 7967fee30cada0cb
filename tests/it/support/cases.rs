//! A counted table of cases: each has a name, they run beside each other, and what failed is told by name. The bars that other
//! gateways were measured by are counts, so these are too.

use std::{collections::BTreeMap, pin::Pin, rc::Rc, time::Duration};
use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinSet, LocalSet},
    time::timeout,
};

/// Cases of one table. A case passes when it returns; it fails when it panics, or is not over in time.
pub(crate) struct Cases {
    title: &'static str,
    cases: BTreeMap<String, Pin<Box<dyn Future<Output = ()>>>>,
}

/// More would only wait for the same two processors.
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(40);

impl Cases {
    pub(crate) fn new(title: &'static str) -> Self {
        Self { title, cases: BTreeMap::new() }
    }

    pub(crate) fn case(&mut self, name: impl Into<String>, case: impl Future<Output = ()> + 'static) {
        let name = name.into();
        let earlier = self.cases.insert(name.clone(), Box::pin(case));
        assert!(earlier.is_none(), "two cases are named \"{name}\"");
    }

    /// Runs all, says `N of N`, and fails with the names of those that failed, or when the table has shrunk.
    pub(crate) async fn all_pass(self, at_least: usize) {
        let (title, total) = (self.title, self.cases.len());
        let failed = LocalSet::new().run_until(self.failures()).await;
        println!("{title}: {} of {total}", total - failed.len());
        assert!(failed.is_empty(), "{title}: {} of {total}\n{}", total - failed.len(), failed.join("\n"));
        assert!(total >= at_least, "{title}: {total} cases are fewer than {at_least}");
    }

    async fn failures(self) -> Vec<String> {
        let (mut running, mut names, mut failed) = (JoinSet::new(), BTreeMap::new(), Vec::new());
        let turns = Rc::new(Semaphore::new(AT_ONCE));
        for (name, case) in self.cases {
            let turns = turns.clone();
            let handle = running.spawn_local(async move {
                let _turn = turns.acquire().await;
                timeout(PATIENCE, case).await.expect("the case is over in time");
            });
            names.insert(handle.id(), name);
        }
        while let Some(ended) = running.join_next_with_id().await {
            if let Err(error) = ended {
                failed.push(format!("{}: {}", names[&error.id()], words(error)));
            }
        }
        failed.sort();
        failed
    }
}

fn words(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "cancelled".to_owned() };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or("panicked", |text| *text).to_owned(),
    }
}
