//! Asks every endpoint in its own rhythm and passes on what it hears.

use crate::{Failure, Probe};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};

/// One endpoint to ask, under a key that says whether a running check may go on.
pub struct Target {
    /// Upstream, address and settings: an equal key after a reload is the same check.
    pub key: String,
    pub probe: Probe,
    pub tell: Tell,
}

/// Told of every outcome, and of how long it took.
pub type Tell = Arc<dyn Fn(Result<(), Failure>, Duration) + Send + Sync>;

/// Runs the checks of a set of targets that can be replaced.
#[derive(Default)]
pub struct Prober {
    running: HashMap<String, JoinHandle<()>>,
    permits: Option<Arc<Semaphore>>,
}

/// How first probes are spread.
#[derive(Debug, Clone, Copy)]
enum Spread {
    Early,
    /// There are so many that together they would be a burst.
    Even,
}

/// So many at a time may begin early.
const EARLY_MAX: usize = 500;
/// A second probe does not follow sooner.
const SECOND_AFTER: Duration = Duration::from_millis(100);
/// Probes in flight at one time, each with a socket: half of 5,000 endpoints that hang for 2 s out of 5 s are a thousand.
const IN_FLIGHT: usize = 1_024;

impl Prober {
    /// Starts what is new, ends what is gone, leaves alone what stays. Needs a tokio runtime.
    pub fn sync(&mut self, targets: Vec<Target>) {
        let permits = self.permits.get_or_insert_with(|| Arc::new(Semaphore::new(IN_FLIGHT))).clone();
        let spread = if targets.len() > EARLY_MAX { Spread::Even } else { Spread::Early };
        let mut next = HashMap::with_capacity(targets.len());
        for target in targets {
            let task = match self.running.remove(&target.key) {
                Some(task) => task,
                None => tokio::spawn(check(target.probe, target.key.clone(), target.tell, permits.clone(), spread)),
            };
            if let Some(twin) = next.insert(target.key, task) {
                twin.abort();
            }
        }
        for (_, gone) in self.running.drain() {
            gone.abort();
        }
        self.running = next;
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        for task in self.running.values() {
            task.abort();
        }
    }
}

async fn check(probe: Probe, key: String, tell: Tell, permits: Arc<Semaphore>, spread: Spread) {
    let first = phase(&key, spread.over(probe.check.interval));
    tokio::time::sleep(first).await;
    // From its second time on each has a place of its own in the whole interval: first ones come early, and together.
    let mut behind = match spread {
        Spread::Early => Some(phase(&key, probe.check.interval).saturating_sub(first).max(SECOND_AFTER)),
        Spread::Even => None,
    };
    let (mut warned, mut unheard) = (None, false);
    loop {
        let (outcome, took) = {
            let Ok(_permit) = permits.acquire().await else { return };
            let begun = Instant::now();
            (probe.run().await, begun.elapsed())
        };
        if let Ok(vitals) = outcome {
            // Once, and again each day that is lost.
            if let Some(soon) = vitals.ends_soon
                && warned != vitals.ends_soon
            {
                let within_days = soon.days.saturating_add(1);
                tracing::warn!(endpoint = %probe.address, within_days, "the endpoint's certificate ends soon");
            }
            warned = vitals.ends_soon;
        }
        match outcome {
            // What is not known changes nothing, and that it is not known is told once.
            Err(Failure::NoWord) if !unheard => {
                tracing::warn!(endpoint = %probe.address, "the check cannot be made: nothing is known of the endpoint");
            }
            Err(Failure::NoWord) => {}
            outcome => tell(outcome.map(drop), took),
        }
        unheard = outcome == Err(Failure::NoWord);
        let interval = behind.take().unwrap_or(probe.check.interval);
        tokio::time::sleep(jittered(interval, probe.check.jitter.fraction(), fastrand::f64())).await;
    }
}

/// The place of an endpoint in a span, by its key.
fn phase(key: &str, span: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let share = (hasher.finish() % 10_000) as f64 / 10_000.0;
    span.mul_f64(share)
}

impl Spread {
    /// First probes are spread over this much: early enough to be of use, and no burst.
    fn over(self, interval: Duration) -> Duration {
        match self {
            Self::Early => interval.min(Duration::from_secs(1)) / 2,
            Self::Even => interval,
        }
    }
}

/// The interval, more or less by `jitter`; `draw` from 0 to 1.
fn jittered(interval: Duration, jitter: f64, draw: f64) -> Duration {
    interval.mul_f64(1.0 + jitter * (draw * 2.0 - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HealthCheckSpec, ProbeKind};
    use portcullis_config::{Context, Path};
    use std::sync::Mutex;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    #[test]
    fn intervals_vary_by_their_jitter_and_no_more() {
        let second = Duration::from_secs(1);
        for (draw, expected) in [(0.0, 800), (0.5, 1000), (1.0, 1200)] {
            assert_eq!(jittered(second, 0.2, draw).as_millis(), expected);
        }
        assert!(phase("a", second) < second);
        assert!(phase("a", Spread::Early.over(second)) < second / 2);
    }

    #[tokio::test]
    async fn a_real_endpoint_is_asked_and_its_status_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for status in ["200 OK", "503 No"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(String::from_utf8_lossy(&request[..read]).starts_with("GET /healthz HTTP/1.1\r\nHost: "));
                stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
            }
        });
        let spec: HealthCheckSpec =
            serde_json::from_str(r#"{"path":"/healthz","interval":"100ms","timeout":"100ms"}"#).unwrap();
        let check = spec.compile(&Path::root(), &mut Context::default());
        let (sender, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
        let sender = Mutex::new(sender);
        let mut prober = Prober::default();
        prober.sync(vec![Target {
            key: "x".into(),
            probe: Probe { address: portcullis_names::EndpointAddress::Ip(address), kind: ProbeKind::Clear, check },
            tell: Arc::new(move |outcome, _| sender.lock().unwrap().send(outcome).unwrap_or_default()),
        }]);
        assert_eq!(outcomes.recv().await, Some(Ok(())));
        assert_eq!(outcomes.recv().await, Some(Err(Failure::Status(503))));
        assert_eq!(outcomes.recv().await, Some(Err(Failure::Refused)));
    }
}
