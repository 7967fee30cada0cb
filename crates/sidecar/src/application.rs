//! The processes that a sidecar serves: what goes out stays open until the last of them has ended.
//!
//! A process tells of itself over the admin socket before it becomes the application (`wait --exec`); its process id stays the
//! same. Each is held by a descriptor of the process, so that an id that is given anew fools nobody.

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{oneshot, watch};

/// What follows when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The sidecar serves on: something starts the application anew.
    ServeOn,
    /// The sidecar ends as well: a job's.
    End,
}

/// What a process says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    pub pid: i32,
    pub when_it_ends: When,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    Watched,
    /// There is no such process here: it ended, or it is in another namespace of processes.
    NotSeen,
    TooMany,
}

/// All that told of themselves. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Applications(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Those that have not ended.
    running: watch::Sender<usize>,
    /// Whether one ended that takes the sidecar with it.
    end: watch::Sender<bool>,
    known: Mutex<Vec<i32>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { running: watch::Sender::new(0), end: watch::Sender::new(false), known: Mutex::default() }
    }
}

const APPLICATIONS_MAX: usize = 64;

impl Applications {
    /// Needs a tokio runtime.
    pub fn register(&self, application: Application) -> Registered {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= APPLICATIONS_MAX {
            return Registered::TooMany;
        }
        let Some(ended) = watch_process(application.pid) else { return Registered::NotSeen };
        known.push(application.pid);
        self.0.running.send_modify(|count| *count += 1);
        let inner = self.0.clone();
        tokio::spawn(async move {
            // It fails only when the thread could not wait, which is as good as an end.
            let _ = ended.await;
            tracing::info!(pid = application.pid, "an application has ended");
            inner.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != application.pid);
            inner.running.send_modify(|count| *count = count.saturating_sub(1));
            if application.when_it_ends == When::End {
                inner.end.send_replace(true);
            }
        });
        tracing::info!(pid = application.pid, "an application is served");
        Registered::Watched
    }

    pub fn running(&self) -> usize {
        *self.0.running.borrow()
    }

    /// Returns when none is left.
    pub async fn ended(&self) {
        // It fails when the sender is gone, and we hold it.
        let _ = self.0.running.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Returns when one has ended that takes the sidecar with it.
    pub async fn take_along(&self) {
        let _ = self.0.end.subscribe().wait_for(|end| *end).await;
    }
}

/// `None`: there is no such process. A thread for each: they are few, and the runtime's way to wait for such a descriptor is not
/// a safe one.
fn watch_process(pid: i32) -> Option<oneshot::Receiver<()>> {
    // The library asserts on a negative number, and this one came over a socket.
    let pid = if pid > 0 { Pid::from_raw(pid)? } else { return None };
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let (tell, ended) = oneshot::channel();
    let wait = move || {
        // It becomes readable when the process has ended (pidfd_open(2)).
        while poll(&mut [PollFd::new(&process, PollFlags::IN)], None) == Err(Errno::INTR) {}
        let _ = tell.send(());
    };
    std::thread::Builder::new().name("application".to_owned()).spawn(wait).ok()?;
    Some(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{process::Stdio, time::Duration};

    #[tokio::test]
    async fn applications_are_waited_for_and_a_job_takes_its_sidecar_along() {
        let applications = Applications::default();
        tokio::time::timeout(Duration::from_secs(5), applications.ended()).await.unwrap();
        let start = || {
            tokio::process::Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn()
        };
        let (mut service, mut job) = (start().unwrap(), start().unwrap());
        for (child, when_it_ends) in [(&service, When::ServeOn), (&job, When::End)] {
            let pid = i32::try_from(child.id().unwrap()).unwrap();
            assert_eq!(applications.register(Application { pid, when_it_ends }), Registered::Watched);
        }
        assert_eq!(applications.running(), 2);
        drop(service.stdin.take());
        service.wait().await.unwrap();
        let one_left = async {
            while applications.running() != 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), one_left).await.unwrap();
        assert!(!*applications.0.end.borrow());
        drop(job.stdin.take());
        job.wait().await.unwrap();
        for waited in [applications.ended().await, applications.take_along().await] {
            let () = waited;
        }
        for pid in [0, -1, i32::MAX] {
            let application = Application { pid, when_it_ends: When::End };
            assert_eq!(applications.register(application), Registered::NotSeen, "{pid}");
        }
    }
}
