//! Fetches zones from their primaries: looks at serials in time (RFC 1034 §4.3.5) or when told to (RFC 1996), and takes the
//! changes (RFC 1995) or the whole zone (RFC 5936) when there is a newer one.

use crate::{
    Name, RecordType,
    inflow::{Inflow, Kind},
    record_type::CLASS_IN,
    secondary::FetchedZone,
    server::{Random, Republish},
    snapshot::Snapshot,
    steer::Clocks,
    transfer_in::Heard,
    tsig::{Signing, TsigKey},
    zone_file::Record,
};
use portcullis_config::Live;
use portcullis_names::ObjectName;
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

/// Transfers at a time.
const AT_ONCE: usize = 16;
const STEP: Duration = Duration::from_secs(1);
/// A zone without a SOA of its own yet is asked for this often.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// RFC 1912 §2.2 has minutes and hours; less than this is a mistake of the primary's.
const WAIT_MIN: u32 = 2;
const CONNECT: Duration = Duration::from_secs(5);
/// Until the next message of a transfer.
const MESSAGE: Duration = Duration::from_secs(15);

/// How it went.
enum Outcome {
    /// Nothing newer, or fetched: look again after this.
    Fresh(Duration),
    /// Nobody gave it: try again after this.
    Failed(Duration),
}

/// Until the runtime ends.
pub(crate) async fn run(live: Live<Snapshot>, republish: Republish) {
    let mut due: HashMap<Name, Instant> = HashMap::new();
    let mut busy: HashSet<Name> = HashSet::new();
    let mut tasks: JoinSet<(Name, Outcome)> = JoinSet::new();
    let mut steps = tokio::time::interval(STEP);
    loop {
        let snapshot = live.load().snapshot.clone();
        let fetched = snapshot.kept.fetched.clone();
        tokio::select! {
            _ = steps.tick() => {}
            () = fetched.notified() => {}
            Some(Ok((apex, outcome))) = tasks.join_next(), if !tasks.is_empty() => {
                let (Outcome::Fresh(wait) | Outcome::Failed(wait)) = outcome;
                due.insert(apex.clone(), Instant::now() + wait);
                busy.remove(&apex);
            }
        }
        for apex in fetched.take_notified() {
            due.insert(apex, Instant::now());
        }
        let snapshot = live.load().snapshot.clone();
        for served in snapshot.zones.zones.iter().filter(|served| served.secondary.is_some()) {
            let apex = served.zone.apex.clone();
            let at = *due.entry(apex.clone()).or_insert_with(Instant::now);
            if at > Instant::now() || busy.contains(&apex) || tasks.len() >= AT_ONCE {
                continue;
            }
            busy.insert(apex.clone());
            tasks.spawn(look(snapshot.clone(), apex, republish.clone()));
        }
    }
}

/// Asks one primary after the other.
async fn look(snapshot: Arc<Snapshot>, apex: Name, republish: Republish) -> (Name, Outcome) {
    let fetched = snapshot.kept.fetched.clone();
    let have = fetched.get(&apex);
    let wait = |seconds: u32| Duration::from_secs(u64::from(seconds.max(WAIT_MIN)));
    let plan = snapshot.zones.at(apex.as_wire()).and_then(|served| served.secondary.as_ref());
    let Some(plan) = plan else { return (apex, Outcome::Failed(FIRST_RETRY)) };
    for primary in &plan.of {
        match ask(&snapshot, &apex, *primary, plan.key.as_ref(), have.as_deref()).await {
            Ok(None) => {
                let zone = have.as_deref();
                zone.inspect(|zone| zone.confirm(now()));
                return (apex, Outcome::Fresh(zone.map_or(FIRST_RETRY, |zone| wait(zone.refresh))));
            }
            Ok(Some((kind, records))) => {
                let count = records.len();
                if !fetched.put(&apex, records, now()) {
                    continue;
                }
                let zone = fetched.get(&apex);
                tracing::info!(zone = %apex, %primary, ?kind, records = count, serial = zone.as_ref().map(|zone| zone.serial), "zone fetched");
                // It compiles, and may wait for locks: not on this thread.
                let told = tokio::task::spawn_blocking(move || republish.tell());
                told.await.ok();
                return (apex, Outcome::Fresh(zone.map_or(FIRST_RETRY, |zone| wait(zone.refresh))));
            }
            Err(error) => tracing::warn!(zone = %apex, %primary, error, "zone cannot be fetched"),
        }
    }
    (apex, Outcome::Failed(have.map_or(FIRST_RETRY, |zone| wait(zone.retry))))
}

/// `None`: there is nothing newer.
async fn ask(
    snapshot: &Snapshot,
    apex: &Name,
    primary: SocketAddr,
    key: Option<&ObjectName>,
    have: Option<&FetchedZone>,
) -> Result<Option<(Kind, Vec<Record>)>, String> {
    let key = match key {
        None => None,
        Some(name) => Some(snapshot.plan.tsig.get(name).ok_or("its key is not known")?),
    };
    let mut road = Road { stream: connect(primary).await?, key, apex };
    let mut asked = road.ask(RecordType::SOA, None).await?;
    let serial = road.hear(&mut asked).await?.serial().ok_or("the reply has no SOA")?;
    // RFC 1982: what is not ahead of us is not newer.
    if have.is_some_and(|have| serial.wrapping_sub(have.serial) as i32 <= 0) {
        return Ok(None);
    }
    if let Some(have) = have {
        match road.transfer(Some(have)).await {
            Ok(fetched) => return Ok(Some(fetched)),
            // RFC 1995 §4: whoever has trouble with the changes takes the whole, on a connection that nothing is left on.
            Err(error) => {
                tracing::info!(zone = %apex, %primary, error, "changes cannot be taken in, the whole zone is asked for")
            }
        }
        road.stream = connect(primary).await?;
    }
    road.transfer(None).await.map(Some)
}

async fn connect(primary: SocketAddr) -> Result<TcpStream, String> {
    let connected = timeout(CONNECT, TcpStream::connect(primary)).await.map_err(|_| "no connection in time")?;
    connected.map_err(|error| error.to_string())
}

/// A connection to a primary.
struct Road<'r> {
    stream: TcpStream,
    key: Option<&'r TsigKey>,
    apex: &'r Name,
}

struct AskedFor<'r> {
    id: u16,
    signing: Option<Signing<'r>>,
}

impl<'r> Road<'r> {
    /// The zone as it is now: from its changes since `have`, or whole.
    async fn transfer(&mut self, have: Option<&FetchedZone>) -> Result<(Kind, Vec<Record>), String> {
        let of_type = if have.is_some() { RecordType::IXFR } else { RecordType::AXFR };
        let mut asked = self.ask(of_type, have).await?;
        let mut inflow = Inflow::new(self.apex, have.map(|have| (have.serial, have.records.as_slice())));
        while !inflow.is_done() {
            let heard = self.hear(&mut asked).await?;
            heard.answers.into_iter().try_for_each(|record| inflow.take(record))?;
            if !inflow.has_begun() {
                return Err("an empty message begins the transfer".to_owned());
            }
        }
        if asked.signing.is_some_and(|signing| !signing.is_settled()) {
            return Err("the end of the transfer is not signed".to_owned());
        }
        inflow.finish().ok_or_else(|| "the transfer has no end".to_owned())
    }

    /// With `have`, the SOA that we have stands in the authority section (RFC 1995 §3).
    async fn ask(&mut self, of_type: RecordType, have: Option<&FetchedZone>) -> Result<AskedFor<'r>, String> {
        let id = Random::new(RandomState::new().hash_one(self.apex.as_wire())).draw() as u16;
        let mut message = id.to_be_bytes().to_vec();
        message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(self.apex.as_wire());
        message.extend(of_type.0.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        if let Some(soa) = have.and_then(FetchedZone::soa) {
            message.extend(self.apex.as_wire());
            message.extend(RecordType::SOA.0.to_be_bytes());
            message.extend(CLASS_IN.to_be_bytes());
            message.extend([0; 4]);
            message.extend((soa.rdata.len() as u16).to_be_bytes());
            message.extend(&soa.rdata);
            if let Some(count) = message.get_mut(9) {
                *count = 1;
            }
        }
        let signing = self.key.map(|key| key.sign_query(u64::from(now()), &mut message));
        // A question and a signature are far below what two octets count.
        let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
        match timeout(MESSAGE, self.stream.write_all(&framed)).await {
            Ok(Ok(())) => Ok(AskedFor { id, signing }),
            _ => Err("the query cannot be sent".to_owned()),
        }
    }

    async fn hear(&mut self, asked: &mut AskedFor<'_>) -> Result<Heard, String> {
        let message = timeout(MESSAGE, async {
            let mut message = vec![0; usize::from(self.stream.read_u16().await?)];
            self.stream.read_exact(&mut message).await?;
            Ok::<_, std::io::Error>(message)
        });
        let message = message.await.map_err(|_| "no reply in time")?.map_err(|error| error.to_string())?;
        let heard = Heard::read(&message).filter(|heard| heard.id == asked.id).ok_or("the reply cannot be read")?;
        if let Some(signing) = &mut asked.signing
            && !signing.verify(&message, heard.tsig_at, u64::from(now()))
        {
            // Security: a reply that does not prove the key is nobody's.
            return Err("the reply is not signed with the key".to_owned());
        }
        match heard.rcode {
            0 => Ok(heard),
            code => Err(format!("the primary answers with code {code}")),
        }
    }
}

fn now() -> u32 {
    // Wraps as RFC 1982 numbers do.
    Clocks::read().unix as u32
}
