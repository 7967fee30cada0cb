//! One queue for every reason to read the configuration again: changed files, SIGHUP, an admin call.
//!
//! Runs are serial. Whoever asks gets the outcome of a run that began after the question; all who ask while a run is on
//! share the next one. What a run does is the caller's: this file knows no configuration.

use crate::Watcher;
use std::{fmt, path::PathBuf};
use tokio::sync::{mpsc, oneshot};

/// Why to reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Files,
    Signal,
    Admin,
}

/// Asks for reloads; clones ask the same queue.
#[derive(Debug)]
pub struct Reloads<O>(mpsc::Sender<Request<O>>);

/// The worker behind [`Reloads`]; it ends when nobody can ask any more.
#[derive(Debug)]
pub struct Reloader<O> {
    requests: mpsc::Receiver<Request<O>>,
    watcher: Watcher,
}

/// What a run leaves behind.
#[derive(Debug, Clone)]
pub struct Reloaded<O> {
    pub outcome: O,
    /// The files to watch from now on; `None` keeps the set.
    pub watched: Option<Vec<PathBuf>>,
}

/// The reloader has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process is shutting down: nothing is reloaded any more")]
pub struct Stopped;

#[derive(Debug)]
struct Request<O> {
    trigger: Trigger,
    reply: oneshot::Sender<O>,
}

/// Questions that wait; more wait outside.
const QUEUE: usize = 64;

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files => "files",
            Self::Signal => "signal",
            Self::Admin => "admin",
        })
    }
}

impl<O> Clone for Reloads<O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<O> Reloads<O> {
    /// Asks for a reload and waits for its outcome. Who stops waiting does not stop the run.
    pub async fn ask(&self, trigger: Trigger) -> Result<O, Stopped> {
        let (reply, outcome) = oneshot::channel();
        self.0.send(Request { trigger, reply }).await.map_err(|_| Stopped)?;
        outcome.await.map_err(|_| Stopped)
    }
}

impl<O: Clone> Reloader<O> {
    pub fn new(watcher: Watcher) -> (Self, Reloads<O>) {
        let (sender, requests) = mpsc::channel(QUEUE);
        (Self { requests, watcher }, Reloads(sender))
    }

    /// Serves until the last [`Reloads`] is dropped. `reload` gets the reasons for the run, each once.
    pub async fn run<F, R>(mut self, mut reload: F)
    where
        F: FnMut(Vec<Trigger>) -> R,
        R: Future<Output = Reloaded<O>>,
    {
        loop {
            let mut triggers = Vec::new();
            let mut waiting = Vec::new();
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(Request { trigger, reply }) => {
                        triggers.push(trigger);
                        waiting.push(reply);
                    }
                    None => return,
                },
                () = self.watcher.changed() => triggers.push(Trigger::Files),
            }
            while let Ok(Request { trigger, reply }) = self.requests.try_recv() {
                triggers.push(trigger);
                waiting.push(reply);
            }
            triggers.sort_unstable();
            triggers.dedup();
            // What is on disk now is what this run reads: a SIGHUP after an edit is one reload, not two.
            self.watcher.catch_up().await;
            let Reloaded { outcome, watched } = reload(triggers).await;
            if let Some(watched) = watched {
                self.watcher.watch(watched);
            }
            for reply in waiting {
                // Who went away does not want to know.
                let _ = reply.send(outcome.clone());
            }
        }
    }
}
