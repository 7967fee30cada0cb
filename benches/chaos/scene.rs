//! One fault, played to all proxies at the same time, each with origins of its own; and the row that comes of it.

use crate::{
    client::{self, Id, Outcome, Sent, Verdict},
    fault::{Fault, Mode},
    origin::Origin,
    proxy::{Kind, Proxy, Settings},
    wiretap::Wiretap,
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

/// What all faults have in common.
pub(crate) struct Scene<'s> {
    pub(crate) rate: u32,
    pub(crate) lasts: Duration,
    pub(crate) patience: Duration,
    pub(crate) folder: &'s Path,
    pub(crate) settings: Settings<'s>,
    pub(crate) tap: &'s Wiretap,
}

/// A proxy with its origins and clients.
struct Stage {
    kind: Kind,
    proxy: Proxy,
    origins: Vec<Origin>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    stop: watch::Sender<bool>,
    clients: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    injected: Instant,
    repaired: Instant,
}

/// What came of a fault behind a proxy.
#[derive(Debug)]
pub(crate) struct Row {
    fault: Fault,
    kind: Kind,
    requests: usize,
    failed_gets: usize,
    failed_posts: usize,
    slow: usize,
    worst: Duration,
    to_sick: usize,
    ejected: Option<Duration>,
    readmitted: Option<Duration>,
    replays: usize,
    kinds: BTreeMap<Verdict, usize>,
}

const ORIGINS: usize = 4;
const SICK: usize = 1;
const WARM: Duration = Duration::from_secs(1);
/// Requests begun so long after the repair still count.
const AFTER: Duration = Duration::from_secs(2);
/// An origin that gets nothing for so long is taken out: its share of the load is many requests a second.
const SILENCE: Duration = Duration::from_millis(1500);
const FLAP: Duration = Duration::from_secs(1);
const SLOW: Duration = Duration::from_millis(500);
const BEAT: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_millis(250);

impl Scene<'_> {
    pub(crate) async fn play(&self, fault: Fault, kinds: &[Kind]) -> io::Result<Vec<Row>> {
        let mut stages = Vec::new();
        for kind in kinds {
            stages.push(self.set(fault, *kind).await?);
        }
        let pulse = tokio::spawn(pulse());
        sleep(WARM).await;
        let injected = Instant::now();
        self.act(fault, &mut stages).await?;
        let repaired = Instant::now();
        become_so(fault, &mut stages, Mode::Well).await?;
        let times = Times { injected, repaired };
        sleep(AFTER).await;
        while repaired.elapsed() < self.patience && !stages.iter().all(|stage| stage.readmitted(fault, times).is_some())
        {
            sleep(Duration::from_millis(50)).await;
        }
        pulse.abort();
        let mut rows = Vec::new();
        for stage in &stages {
            stage.stop.send_replace(true);
        }
        for stage in &mut stages {
            let _ = (&mut stage.clients).await;
            stage.proxy.stop().await;
            rows.push(stage.row(fault, times, self.tap));
        }
        Ok(rows)
    }

    async fn set(&self, fault: Fault, kind: Kind) -> io::Result<Stage> {
        let sent = Arc::new(Sent::default());
        let mut origins = Vec::new();
        for n in 0..ORIGINS {
            origins.push(match (fault, n) {
                (Fault::Paused, SICK) => Origin::start_child(sent.clone()).await?,
                _ => Origin::start().await?,
            });
        }
        let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
        let proxy = kind.start(self.folder, &addresses, self.settings).await?;
        let (outcomes, stop) = (Arc::default(), watch::Sender::new(false));
        let clients = client::drive(proxy.address, self.rate, sent, Arc::clone(&outcomes), stop.subscribe());
        Ok(Stage { kind, proxy, origins, outcomes, stop, clients: tokio::spawn(clients) })
    }

    async fn act(&self, fault: Fault, stages: &mut [Stage]) -> io::Result<()> {
        let began = Instant::now();
        become_so(fault, stages, fault.mode()).await?;
        let mut mode = fault.mode();
        while fault == Fault::Flapping && began.elapsed() + FLAP < self.lasts {
            sleep(FLAP).await;
            mode = if mode == Mode::Down { Mode::Well } else { Mode::Down };
            become_so(fault, stages, mode).await?;
        }
        sleep(self.lasts.saturating_sub(began.elapsed())).await;
        Ok(())
    }
}

/// Says aloud when the machine stood still: what a proxy seems to have done then may be the machine's doing.
async fn pulse() {
    loop {
        let began = Instant::now();
        sleep(BEAT).await;
        let late = began.elapsed().saturating_sub(BEAT);
        if late > LATE {
            eprintln!("disturbed: this process stood still for {} ms", late.as_millis());
        }
    }
}

async fn become_so(fault: Fault, stages: &mut [Stage], mode: Mode) -> io::Result<()> {
    for stage in stages {
        for (n, origin) in stage.origins.iter_mut().enumerate() {
            if n == SICK || fault == Fault::AllDead {
                origin.become_so(mode).await?;
            }
        }
    }
    Ok(())
}

impl Stage {
    /// From the repair to the next request at the origin that was sick; of all, to the first good answer.
    fn readmitted(&self, fault: Fault, times: Times) -> Option<Duration> {
        let first = if fault == Fault::AllDead {
            let outcomes = self.outcomes();
            let good = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Good);
            good.map(|outcome| outcome.began + outcome.took).filter(|at| *at > times.repaired).min()
        } else {
            let arrivals = self.origins.get(SICK)?.arrivals();
            arrivals.iter().map(|arrival| arrival.at).filter(|at| *at > times.repaired).min()
        };
        first.map(|at| at - times.repaired)
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the sick origin was asked while it was sick, as far as can be seen; and how often.
    fn contacts(&self, times: Times, tap: &Wiretap) -> (usize, Vec<Instant>) {
        let Some(sick) = self.origins.get(SICK) else { return (0, Vec::new()) };
        let within = |at: &Instant| (times.injected..times.repaired).contains(at);
        let requests: Vec<_> = sick.arrivals().iter().map(|arrival| arrival.at).filter(within).collect();
        let attempts = tap.attempts(sick.address).into_iter().filter(within);
        let attempts: Vec<_> = attempts.filter(|at| sick.mode_at(*at).is_deaf()).collect();
        // What the kernel accepted for a stopped process is read, and counted, when it runs again: the same requests.
        let count = match sick.mode_at(times.injected + Duration::from_millis(100)) {
            Mode::Stopped => requests.len().max(attempts.len()),
            _ => requests.len() + attempts.len(),
        };
        let mut all = [requests, attempts].concat();
        all.sort_unstable();
        (count, all)
    }

    fn row(&self, fault: Fault, times: Times, tap: &Wiretap) -> Row {
        let all = self.outcomes();
        let until = times.repaired + AFTER;
        let counted: Vec<_> = all.iter().filter(|one| (times.injected..until).contains(&one.began)).collect();
        let mut kinds = BTreeMap::new();
        for outcome in counted.iter().filter(|outcome| outcome.verdict != Verdict::Good) {
            *kinds.entry(outcome.verdict).or_default() += 1;
        }
        let failed =
            |is_post| counted.iter().filter(|one| one.verdict != Verdict::Good && one.id.is_post() == is_post).count();
        let (to_sick, contacts) = self.contacts(times, tap);
        Row {
            fault,
            kind: self.kind,
            requests: counted.len(),
            failed_gets: failed(false),
            failed_posts: failed(true),
            slow: counted.iter().filter(|outcome| outcome.took > SLOW).count(),
            worst: counted.iter().map(|outcome| outcome.took).max().unwrap_or_default(),
            to_sick,
            ejected: last_before_silence(&contacts, times).map(|at| at - times.injected),
            readmitted: self.readmitted(fault, times),
            replays: self.replays(),
            kinds,
        }
    }

    /// How often a POST reached an origin beyond its first time.
    fn replays(&self) -> usize {
        let mut seen: HashMap<Id, usize> = HashMap::new();
        for arrival in self.origins.iter().flat_map(Origin::arrivals).filter(|arrival| arrival.id.is_post()) {
            *seen.entry(arrival.id).or_default() += 1;
        }
        seen.values().map(|times| times - 1).sum()
    }
}

fn last_before_silence(contacts: &[Instant], times: Times) -> Option<Instant> {
    let nexts = contacts.iter().skip(1).copied().chain([times.repaired]);
    let mut pairs = [times.injected]
        .into_iter()
        .chain(contacts.iter().copied())
        .zip(contacts.first().copied().or(Some(times.repaired)).into_iter().chain(nexts));
    pairs.find(|(at, next)| *next - *at >= SILENCE).map(|(at, _)| at)
}

impl Row {
    pub(crate) const HEADER: &'static str = "\
| fault | proxy | requests | failed GET | failed POST | over 0.5 s | worst ms | to the sick | eject s | readmit s | replays | failures |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |";
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds =
            |time: Option<Duration>| time.map_or("never".to_owned(), |time| format!("{:.1}", time.as_secs_f64()));
        let kinds: Vec<_> = self.kinds.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.fault,
            self.kind,
            self.requests,
            self.failed_gets,
            self.failed_posts,
            self.slow,
            self.worst.as_millis(),
            self.to_sick,
            seconds(self.ejected),
            seconds(self.readmitted),
            self.replays,
            kinds.join(", ")
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("good"),
            Self::Status(status) => write!(f, "{status}"),
            Self::NotHttp => f.write_str("not HTTP"),
            Self::Cut => f.write_str("cut"),
            Self::WrongBody => f.write_str("wrong body"),
            Self::Timeout => f.write_str("timeout"),
            Self::NotConnected => f.write_str("not connected"),
        }
    }
}
