//! Runs the sources: a task for each, which publishes what it finds when that has changed.

use crate::{DnsSource, EndpointList, Endpoints, FileSource, HttpSource, Source, Tracker, asker::Asker, http_poll};
use portcullis_config::Watcher;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep_until, timeout_at},
};

/// The running sources of one configuration. Those that the next one has as well go on undisturbed; a task ends with the
/// last `Discovery` that holds it.
#[derive(Debug)]
pub struct Discovery {
    running: HashMap<Source, Arc<Running>>,
    news: Arc<watch::Sender<u64>>,
}

/// What is known of one source, for the operator.
#[derive(Debug, Clone)]
pub struct SourceStatus {
    pub source: Source,
    pub endpoints: usize,
    /// Endpoints beyond the limit.
    pub left_out: usize,
    /// When the endpoints changed last; `None` before the first answer.
    pub changed: Option<Instant>,
    /// Why the last question or reading failed.
    pub trouble: Option<String>,
}

#[derive(Debug)]
struct Running {
    seen: watch::Receiver<View>,
    task: AbortHandle,
}

/// What a task has published.
#[derive(Debug, Clone, Default)]
struct View {
    endpoints: Endpoints,
    progress: Progress,
    changed: Option<Instant>,
    trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Awaited,
    /// The first round is over, whatever came of it.
    Settled,
}

/// How a task tells what it found.
struct Teller {
    source: String,
    view: watch::Sender<View>,
    news: Arc<watch::Sender<u64>>,
}

/// How long a start waits for first answers: a gateway without its DNS must start all the same.
pub const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// Between rounds, whatever has become due meanwhile.
const REST: Duration = Duration::from_millis(100);

impl Discovery {
    /// Runs these sources, taking over from `previous` those that it has. Needs a tokio runtime; waits for nothing.
    pub fn start(sources: impl IntoIterator<Item = Source>, previous: Option<&Self>) -> Self {
        let news = previous.map_or_else(|| Arc::new(watch::Sender::new(0)), |previous| previous.news.clone());
        let mut running = HashMap::new();
        for source in sources {
            let start = || {
                let kept = previous.and_then(|previous| previous.running.get(&source).cloned());
                kept.unwrap_or_else(|| Arc::new(Running::start(source.clone(), news.clone())))
            };
            running.entry(source.clone()).or_insert_with(start);
        }
        Self { running, news }
    }

    /// What is known now; nothing for a source that has not answered yet or is not run.
    pub fn snapshot(&self, source: &Source) -> Endpoints {
        self.running.get(source).map(|running| running.seen.borrow().endpoints.clone()).unwrap_or_default()
    }

    /// Returns when every source has settled its first round, at the latest after `limit`.
    pub async fn settled(&self, limit: Duration) {
        let latest = tokio::time::Instant::now() + limit;
        for running in self.running.values() {
            let mut seen = running.seen.clone();
            let settled = seen.wait_for(|view| view.progress == Progress::Settled);
            if timeout_at(latest, settled).await.is_err() {
                return;
            }
        }
    }

    /// Counts changes of any source's endpoints. The same over reloads: one receiver serves for good.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Every source, in the order of their names.
    pub fn status(&self) -> Vec<SourceStatus> {
        let each = self.running.iter().map(|(source, running)| {
            let view = running.seen.borrow();
            SourceStatus {
                source: source.clone(),
                endpoints: view.endpoints.len(),
                left_out: view.endpoints.left_out(),
                changed: view.changed,
                trouble: view.trouble.clone(),
            }
        });
        let mut all: Vec<_> = each.collect();
        all.sort_by_cached_key(|status| status.source.to_string());
        all
    }
}

impl Running {
    fn start(source: Source, news: Arc<watch::Sender<u64>>) -> Self {
        let (view, seen) = watch::channel(View::default());
        let teller = Teller { source: source.to_string(), view, news };
        let task = match source {
            Source::Dns(dns) => tokio::spawn(follow_dns(dns, teller)),
            Source::File(file) => tokio::spawn(follow_file(file, teller)),
            Source::Http(http) => tokio::spawn(follow_http(http, teller)),
        };
        Self { seen, task: task.abort_handle() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow_dns(source: DnsSource, teller: Teller) {
    let mut asker = Asker::new(source.through.clone());
    let mut tracker = Tracker::new(source);
    loop {
        // Services first, then the hosts that they name.
        for _ in 0..2 {
            let due = tracker.due(Instant::now());
            if due.is_empty() {
                break;
            }
            for (question, answer) in asker.ask(due).await {
                tracker.take(question, answer, fastrand::f64(), Instant::now());
            }
        }
        let now = Instant::now();
        let trouble = tracker.trouble(now).map(|(question, trouble)| format!("{question}: {trouble}"));
        teller.tell(Some(tracker.endpoints(now)), trouble, now);
        sleep_until(tracker.wake(now).max(now + REST).into()).await;
    }
}

async fn follow_file(source: FileSource, teller: Teller) {
    // It remembers what the file holds before we read it: a change in between is news.
    let mut watcher = Watcher::new(vec![source.path.clone()]);
    loop {
        let path = source.path.clone();
        // It fails only while the runtime shuts down.
        let Ok(read) = tokio::task::spawn_blocking(move || EndpointList::read(&path)).await else { return };
        match read {
            Ok(endpoints) => teller.tell(Some(endpoints), None, Instant::now()),
            Err(error) => teller.tell(None, Some(error.to_string()), Instant::now()),
        }
        watcher.changed().await;
    }
}

/// A registry that cannot be asked, or answers with something else, changes nothing.
async fn follow_http(source: HttpSource, teller: Teller) {
    loop {
        match http_poll::poll(&source).await {
            Ok(endpoints) => teller.tell(Some(endpoints), None, Instant::now()),
            Err(error) => teller.tell(None, Some(error.to_string()), Instant::now()),
        }
        tokio::time::sleep(http_poll::pause(source.every, fastrand::f64())).await;
    }
}

impl Teller {
    /// `None` keeps the endpoints. Whoever waits for changes is told of changed endpoints only.
    fn tell(&self, endpoints: Option<Endpoints>, trouble: Option<String>, now: Instant) {
        let mut changed = false;
        self.view.send_modify(|view| {
            self.log_trouble(view.trouble.as_deref(), trouble.as_deref(), view.endpoints.len());
            if let Some(endpoints) = endpoints
                && (endpoints != view.endpoints || view.changed.is_none())
            {
                changed = endpoints != view.endpoints;
                (view.endpoints, view.changed) = (endpoints, Some(now));
            }
            (view.progress, view.trouble) = (Progress::Settled, trouble);
        });
        if changed {
            let view = self.view.borrow();
            let (endpoints, left_out) = (view.endpoints.len(), view.endpoints.left_out());
            if left_out > 0 {
                tracing::warn!(source = self.source, endpoints, left_out, "too many endpoints: some are left out");
            } else {
                tracing::info!(source = self.source, endpoints, "endpoints changed");
            }
            drop(view);
            self.news.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Once when it begins, changes or ends, not at every round.
    fn log_trouble(&self, before: Option<&str>, after: Option<&str>, kept: usize) {
        match (before, after) {
            (before, Some(trouble)) if before != Some(trouble) => {
                tracing::warn!(
                    source = self.source,
                    trouble,
                    endpoints = kept,
                    "no news of endpoints: the last are kept"
                );
            }
            (Some(_), None) => tracing::info!(source = self.source, "endpoints are known again"),
            (_, Some(_)) | (None, None) => {}
        }
    }
}
