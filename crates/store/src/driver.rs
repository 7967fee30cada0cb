//! The task behind a [`Store`](crate::Store): keeps one connection, puts what waits into batches, and minds the breaker.
//!
//! A question waits at most the store's timeout, wherever it is. Connecting, and probing a store that failed, is done here and
//! never on a request's time.

use crate::{Breaker, StoreConfig, StoreError, connection::Connection, script, script::Question, store::Shared};
use portcullis_limit::Verdict;
use redis::{Pipeline, Value, aio::MultiplexedConnection};
use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

/// One question, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) question: Question,
    pub(crate) answer: oneshot::Sender<Result<Verdict, StoreError>>,
}

/// Questions in one write. A store answers so many in about a millisecond.
const BATCH_MAX: usize = 128;
/// Batches under way. While all are, questions gather in the next one.
const BATCHES_MAX: usize = 4;
/// For the TCP, TLS and login round trips together.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A batch outlives those who wait for it by this much, so that each of them gives up in its own time and says why.
const GRACE: Duration = Duration::from_millis(10);

pub(crate) async fn run(config: Arc<StoreConfig>, shared: Arc<Shared>, queue: mpsc::Receiver<Ask>) {
    let mut driver = Driver { config, shared, queue, breaker: Breaker::default(), node: 0, slow_to_connect: false };
    while let Some(connection) = driver.connect().await {
        if let Served::HandlesGone = driver.serve(connection).await {
            return;
        }
    }
}

struct Driver {
    config: Arc<StoreConfig>,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Ask>,
    breaker: Breaker,
    /// The one in use, or to be tried next.
    node: usize,
    /// Longer than an answer may take: while it goes on, the store counts as dead.
    slow_to_connect: bool,
}

/// Why a connection is no longer served.
enum Served {
    HandlesGone,
    Failed,
}

impl Driver {
    /// Until it succeeds; `None` when nobody holds a handle any more.
    async fn connect(&mut self) -> Option<Connection> {
        loop {
            if let Some(until) = self.breaker.open_until() {
                self.refuse_until(until.into()).await?;
            }
            match self.attempt().await? {
                Ok(connection) => {
                    self.breaker.success();
                    self.slow_to_connect = false;
                    self.publish();
                    return Some(connection);
                }
                Err(_) => {
                    self.node = self.node.wrapping_add(1);
                    self.failed();
                }
            }
        }
    }

    /// One attempt. Questions wait for it no longer than for an answer; after that the store counts as dead.
    async fn attempt(&mut self) -> Option<Result<Connection, StoreError>> {
        let config = self.config.clone();
        let node = config.nodes.get(self.node % config.nodes.len().max(1))?;
        let mut attempt = pin!(timeout(CONNECT_MAX, config.connect(node)));
        let mut patience = pin!(sleep(config.timeout));
        loop {
            tokio::select! {
                connected = &mut attempt => return Some(connected.unwrap_or(Err(StoreError::Timeout))),
                () = &mut patience, if !self.is_open() => {
                    self.slow_to_connect = true;
                    self.publish();
                }
                ask = self.queue.recv(), if self.is_open() => ask?.give(Err(StoreError::Open)),
            }
        }
    }

    /// What was queued before the handles knew.
    async fn refuse_until(&mut self, until: Instant) -> Option<()> {
        let mut over = pin!(sleep_until(until));
        loop {
            tokio::select! {
                () = &mut over => return Some(()),
                ask = self.queue.recv() => ask?.give(Err(StoreError::Open)),
            }
        }
    }

    async fn serve(&mut self, mut connection: Connection) -> Served {
        let sha: Arc<str> = script::script().get_hash().into();
        // Dropped on return: what is under way then is answered as lost.
        let mut batches = JoinSet::new();
        let mut asks = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                biased;
                _ = &mut connection.ended => {
                    self.failed();
                    return Served::Failed;
                }
                Some(done) = batches.join_next() => match done {
                    Ok(Ok(())) => self.breaker.success(),
                    Ok(Err(error)) => {
                        self.failed();
                        match error {
                            // One slow moment is no reason to connect anew; an open breaker is.
                            StoreError::Timeout if self.breaker.open_until().is_none() => {}
                            StoreError::Refused => {
                                self.node = self.node.wrapping_add(1);
                                return Served::Failed;
                            }
                            StoreError::Timeout | StoreError::Open | StoreError::Overloaded | StoreError::Lost => {
                                return Served::Failed;
                            }
                        }
                    }
                    // It panicked: its answers are gone with it.
                    Err(_) => self.failed(),
                },
                got = self.queue.recv_many(&mut asks, BATCH_MAX), if batches.len() < BATCHES_MAX => {
                    if got == 0 {
                        return Served::HandlesGone;
                    }
                    // Who has gone since is not counted.
                    asks.retain(|ask: &Ask| !ask.answer.is_closed());
                    if asks.is_empty() {
                        continue;
                    }
                    self.shared.asked.fetch_add(asks.len() as u64, Ordering::Relaxed);
                    self.shared.batches.fetch_add(1, Ordering::Relaxed);
                    let asks = std::mem::replace(&mut asks, Vec::with_capacity(BATCH_MAX));
                    batches.spawn(batch(connection.sender.clone(), sha.clone(), asks, self.config.timeout));
                }
            }
        }
    }

    fn failed(&mut self) {
        self.breaker.failure(Instant::now().into());
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        self.publish();
    }

    fn is_open(&self) -> bool {
        self.slow_to_connect || self.breaker.open_until().is_some()
    }

    fn publish(&self) {
        let open = self.is_open();
        if self.shared.open.swap(open, Ordering::Relaxed) != open {
            let nodes = &self.config.nodes;
            if open {
                tracing::warn!(?nodes, "store: not asked until it is back");
            } else {
                tracing::info!(?nodes, "store: back");
            }
        }
    }
}

impl Ask {
    /// To one who may have gone.
    fn give(self, verdict: Result<Verdict, StoreError>) {
        let _ = self.answer.send(verdict);
    }
}

/// One write, and the answers to it.
async fn batch(
    mut sender: MultiplexedConnection,
    sha: Arc<str>,
    asks: Vec<Ask>,
    wait: Duration,
) -> Result<(), StoreError> {
    let asked = timeout(wait + GRACE, async {
        let again = ask(&mut sender, &sha, asks).await?;
        if again.is_empty() {
            return Ok(());
        }
        // The store was restarted or flushed its scripts. These have counted nowhere.
        script::script().load_async(&mut sender).await.map_err(|_| StoreError::Lost)?;
        let again = ask(&mut sender, &sha, again).await?;
        if again.is_empty() { Ok(()) } else { Err(StoreError::Refused) }
    });
    asked.await.unwrap_or(Err(StoreError::Timeout))
}

/// Gives back those whose script is not there.
async fn ask(sender: &mut MultiplexedConnection, sha: &str, asks: Vec<Ask>) -> Result<Vec<Ask>, StoreError> {
    let mut pipeline = Pipeline::with_capacity(asks.len());
    for ask in &asks {
        pipeline.add_command(ask.question.command(sha));
    }
    let answers = sender.send_packed_commands(&pipeline, 0, asks.len()).await.map_err(|_| StoreError::Lost)?;
    let mut again = Vec::new();
    let mut outcome = Ok(());
    for (ask, answer) in asks.into_iter().zip(&answers) {
        match answer {
            Value::ServerError(error) if error.code() == "NOSCRIPT" => again.push(ask),
            answer => {
                let verdict = ask.question.verdict(answer).ok_or(StoreError::Refused);
                if verdict.is_err() {
                    tracing::debug!(?answer, "store: no verdict");
                    outcome = Err(StoreError::Refused);
                }
                ask.give(verdict);
            }
        }
    }
    outcome.map(|()| again)
}
