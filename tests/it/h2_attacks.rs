//! Bounded attacks over HTTP/2 beside one good client. Each ends as documented (GOAWAY with ENHANCE_YOUR_CALM, or a limit),
//! costs the gateway less than 64 MiB, and costs the good client nothing: all its requests are answered.

use crate::support::{
    client::{h2, h2_get},
    frames::*,
    gateway::Gateway,
    origin::{Origin, find, ok, read_request},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, WriteHalf},
    net::TcpStream,
    task::{JoinHandle, JoinSet, LocalSet},
};

/// What must come of an attack, beside good service and little memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// GOAWAY with ENHANCE_YOUR_CALM, and counted among the refusals.
    Calmed,
    /// GOAWAY with another code, at once.
    Away(u32),
    /// The connection is ended kindly when it has rested long enough.
    Rested,
    /// So many streams are reset.
    Resets(usize),
    /// All of it is served, as is its right.
    Borne,
}

struct Attack {
    name: &'static str,
    end: End,
    /// What is done before the rounds.
    opening: Vec<u8>,
    /// Frames of one round.
    round: fn(u32) -> Vec<u8>,
    /// An end that is to come must come by then.
    rounds: u32,
    /// Whether each few rounds wait until they have been worked off.
    pace: Pace,
    /// How many do so at once.
    connections: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Burst,
    /// Until the gateway has taken up each stream that is reset then.
    Answered,
    /// Until the origin has each request that is given up then, and is rid of it.
    Held,
}

impl Attack {
    fn after(self, opening: Vec<u8>) -> Self {
        Self { opening, ..self }
    }

    fn paced(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    fn over(self, connections: usize) -> Self {
        Self { connections, ..self }
    }
}

fn flood(name: &'static str, end: End, rounds: u32, round: fn(u32) -> Vec<u8>) -> Attack {
    Attack { name, end, opening: Vec::new(), round, rounds, pace: Pace::Burst, connections: 1 }
}

/// The stream of a round.
fn id(round: u32) -> u32 {
    round * 2 + 1
}

fn resets() -> Vec<Attack> {
    vec![
        // A thousand frames in all.
        flood("rapid reset", End::Calmed, 500, |n| [get(id(n), "/hold"), reset(id(n))].concat()),
        // The engine has each stream by then. Some 700 RST_STREAM; more where they come slowly, since the count leaks.
        flood("rapid reset of streams that are under way", End::Calmed, 3_000, |n| {
            [get(id(n), "/hold"), reset(id(n))].concat()
        })
        .paced(Pace::Answered),
        // So slowly that it is no flood: what counts is that the origin is not left with it.
        flood("requests given up at a slow origin", End::Borne, 300, |n| [get(id(n), "/hold"), reset(id(n))].concat())
            .paced(Pace::Held),
        flood("made to reset by a window opened by nothing", End::Away(PROTOCOL_ERROR), 1, |n| {
            [post(id(n), "/hold", &[]), window_update(id(n), 0)].concat()
        }),
        flood("made to reset by windows that overflow", End::Calmed, 500, |n| {
            [post(id(n), "/hold", &[]), window_update(id(n), (1 << 31) - 1)].concat()
        }),
        flood("made to reset by DATA of half-closed streams", End::Away(STREAM_CLOSED), 1, |n| {
            [get(id(n), "/hold"), data(0, id(n), b"x")].concat()
        }),
        flood("made to reset by streams that depend on themselves", End::Calmed, 500, |n| {
            [post(id(n), "/hold", &[]), frame(PRIORITY, 0, id(n), &[&id(n).to_be_bytes()[..], &[1]].concat())].concat()
        }),
        flood("made to reset by negative lengths", End::Calmed, 999, |n| post(id(n), "/", &[("content-length", "-1")])),
        flood("made to reset by more DATA than was said", End::Calmed, 500, |n| {
            [post(id(n), "/hold", &[("content-length", "1")]), data(0, id(n), b"xx")].concat()
        }),
        flood("made to reset by malformed requests", End::Calmed, 999, |n| {
            frame(HEADERS, WHOLE, id(n), &request("GET", "/", &[("connection", "x")]))
        }),
        flood("requests for nobody's authority", End::Calmed, 999, |n| {
            frame(HEADERS, WHOLE, id(n), &request("GET", "/", &[("host", "b")]))
        }),
        // The codec forgets streams that were reset lately when they are many, and ends the connection over the next.
        flood("trailers that do not end, again and again", End::Away(PROTOCOL_ERROR), 500, |n| {
            [post(id(n), "/hold", &[]), frame(HEADERS, END_HEADERS, id(n), &block([("x", "y")]))].concat()
        }),
    ]
}

fn blocks() -> Vec<Attack> {
    let begun = frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[]));
    // An entry of the table as large as it may be, and then its index over and over.
    let entry = [&request("GET", "/", &[])[..], &[0x40, 1, b'k', 0x7f, 0x81, 0x1e], &[b'v'; 3_968]].concat();
    let crumb = [&request("GET", "/", &[])[..], &[0x60, 3, b'a', b'=', b'b']].concat();
    vec![
        flood("CONTINUATION of few octets", End::Calmed, 999, |_| frame(CONTINUATION, 0, 1, &block([("x", "y")])))
            .after(begun.clone()),
        flood("CONTINUATION of nothing", End::Calmed, 999, |_| frame(CONTINUATION, 0, 1, &[])).after(begun.clone()),
        flood("CONTINUATION of 16 KiB", End::Calmed, 999, |_| {
            frame(CONTINUATION, 0, 1, &block([("x", "v".repeat(16_000))]))
        })
        .after(begun),
        flood("a bomb of packed fields", End::Calmed, 20, |n| frame(HEADERS, WHOLE, id(n + 1), &vec![0xbe; 4_000]))
            .after(frame(HEADERS, WHOLE, 1, &entry)),
        flood("a list of very many cookies", End::Calmed, 20, |n| {
            frame(HEADERS, WHOLE, id(n + 1), &[request("GET", "/", &[]), vec![0xbe; 16_000]].concat())
        })
        .after(frame(HEADERS, WHOLE, 1, &crumb)),
    ]
}

fn controls() -> Vec<Attack> {
    let opened = || post(1, "/hold", &[]);
    vec![
        flood("SETTINGS without end", End::Calmed, 999, |_| settings(&[])),
        flood("a table that grows and shrinks", End::Calmed, 999, |n| settings(&[(HEADER_TABLE_SIZE, n % 2 * 4_096)])),
        flood("windows that grow and shrink", End::Calmed, 999, |n| settings(&[(INITIAL_WINDOW, n % 2 * 65_535)]))
            .after((0..90).flat_map(|n| get(id(n), "/hold")).collect()),
        flood("pings without end", End::Calmed, 999, |_| frame(PING, 0, 0, &[0; 8])),
        flood("DATA of nothing", End::Calmed, 999, |_| data(0, 1, b"")).after(opened()),
        flood("DATA of nothing but padding", End::Calmed, 20_000, |_| data(PADDED, 1, &[0])).after(opened()),
        flood("WINDOW_UPDATE without end", End::Calmed, 5_000, |_| window_update(0, 1)),
        flood("PRIORITY without end", End::Calmed, 999, |n| {
            frame(PRIORITY, 0, id(n), &[&0_u32.to_be_bytes()[..], &[1]].concat())
        }),
        flood("rings of dependencies", End::Calmed, 999, |n| {
            let on = [7, 5, 3][n as usize % 3] | 1_u32 << 31;
            frame(PRIORITY, 0, [5, 3, 7][n as usize % 3], &[&on.to_be_bytes()[..], &[255]].concat())
        }),
        flood("unknown frames without end", End::Calmed, 999, |n| frame(0xbe, 0xff, n, &[0; 1_000])),
        flood("GOAWAY without end", End::Calmed, 999, |_| frame(GOAWAY, 0, 0, &[0; 8])).after(opened()),
    ]
}

fn nothing(_: u32) -> Vec<u8> {
    Vec::new()
}

fn stalls() -> Vec<Attack> {
    let all = |path: &'static str| (0..100).flat_map(|n| get(id(n), path)).collect::<Vec<u8>>();
    let bodies = (0..100).flat_map(|n| [post(id(n), "/", &[]), data(0, id(n), b"x")].concat()).collect();
    let unread = [settings(&[(INITIAL_WINDOW, 0)]), all("/big")].concat();
    vec![
        flood("no window for very large answers", End::Resets(100), 0, nothing).after(unread.clone()).over(3),
        flood("a window of one octet again and again", End::Calmed, 10_000, |n| window_update(id(n % 100), 1))
            .after(unread),
        flood("heads that never end", End::Rested, 0, nothing)
            .after(frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])))
            .over(50),
        flood("bodies that never end on many streams", End::Resets(100), 0, nothing).after(bodies).over(3),
        flood("more streams than may be open", End::Calmed, 900, |n| post(id(n + 100), "/", &[]))
            .after((0..100).flat_map(|n| post(id(n), "/", &[])).collect()),
        flood("connections that say hello and leave", End::Borne, 0, nothing).over(400),
    ]
}

/// An origin that counts who waits there.
struct Hold {
    origin: Origin,
    most: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
}

/// A very large answer, which is never whole in our memory.
async fn big(stream: &mut TcpStream) -> std::io::Result<()> {
    static PIECE: [u8; 65_536] = [b'x'; 65_536];
    const PIECES: usize = 128;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PIECES * PIECE.len());
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..PIECES {
        stream.write_all(&PIECE).await?;
    }
    Ok(())
}

impl Hold {
    async fn start() -> Self {
        let (most, waiting): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let (peak, now) = (most.clone(), waiting.clone());
        let origin = Origin::raw(move |mut stream| {
            let (peak, now) = (peak.clone(), now.clone());
            async move {
                let mut buffer = Vec::new();
                loop {
                    // A body is not waited for: what matters is that the head has come.
                    while find(&buffer, b"\r\n\r\n").is_none() {
                        if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                            return;
                        }
                    }
                    if find(&buffer, b" /hold ").is_some() {
                        peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                        while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {}
                        now.fetch_sub(1, SeqCst);
                        return;
                    }
                    let Some(seen) = read_request(&mut stream, &mut buffer).await else { return };
                    let sent = match seen.path() {
                        "/big" => big(&mut stream).await,
                        _ => stream.write_all(&ok("good")).await,
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { origin, most, waiting }
    }

    /// Polls until nobody waits there any more.
    async fn is_released(&self) -> bool {
        for _ in 0..1_000 {
            if self.waiting.load(SeqCst) == 0 {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

async fn edge(hold: &Hold) -> Gateway {
    let limits = "limits = { idle_timeout = \"3s\", body_timeout = \"2s\" }";
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n{limits}\n[upstream.app]\nendpoints = [\"{}\"]\n\
         [route.app]\nupstream = \"app\"\n",
        hold.origin.addr
    ))
    .await
}

/// What an attacker has been told.
#[derive(Debug, Default, Clone)]
struct Heard {
    goaways: Vec<u32>,
    resets: BTreeSet<u32>,
    pongs: usize,
    over: bool,
}

/// One attacking connection: it listens while it sends.
struct Attacker {
    write: WriteHalf<TcpStream>,
    heard: Arc<Mutex<Heard>>,
    listening: JoinHandle<()>,
    /// Requests at the origin.
    waiting: Arc<AtomicUsize>,
}

impl Attacker {
    async fn connect(addr: SocketAddr, waiting: Arc<AtomicUsize>) -> Self {
        let (mut read, write) = tokio::io::split(TcpStream::connect(addr).await.unwrap());
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let notes = heard.clone();
        let listening = tokio::spawn(async move {
            let mut buffer = Vec::new();
            while matches!(read.read_buf(&mut buffer).await, Ok(1..)) {
                while let Some(said) = take(&mut buffer) {
                    let mut notes = notes.lock().unwrap();
                    match said {
                        Said::Goaway { code, .. } => notes.goaways.push(code),
                        Said::Reset { stream, .. } => drop(notes.resets.insert(stream)),
                        Said::Pong(_) => notes.pongs += 1,
                        _ => {}
                    }
                }
            }
            notes.lock().unwrap().over = true;
        });
        Self { write, heard, listening, waiting }
    }

    fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// Polls until the server has said it, or is gone.
    async fn until(&self, wanted: impl Fn(&Heard) -> bool) {
        for _ in 0..4_000 {
            let heard = self.heard();
            if heard.over || wanted(&heard) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn run(mut self, attack: &Attack) -> Heard {
        let opening = [PREFACE, &settings(&[]), &attack.opening].concat();
        let mut going = self.write.write_all(&opening).await.is_ok();
        // Fewer than may be open at one time.
        let batch = if attack.pace == Pace::Answered { 90 } else { 50 };
        let mut round = 0;
        while going && round < attack.rounds {
            let last = (round + batch).min(attack.rounds);
            going = match attack.pace {
                Pace::Burst => {
                    let bytes: Vec<u8> = (round..last).flat_map(attack.round).collect();
                    self.write.write_all(&bytes).await.is_ok()
                }
                Pace::Answered | Pace::Held => self.in_two(attack, round..last).await,
            };
            round = last;
        }
        match attack.end {
            End::Resets(resets) => self.until(|heard| heard.resets.len() >= resets).await,
            End::Borne => {}
            End::Calmed | End::Away(_) | End::Rested => self.until(|heard| heard.over).await,
        }
        self.listening.abort();
        self.heard()
    }

    /// Sends what opens each stream, waits, and sends the rest: the last frame of each round.
    async fn in_two(&mut self, attack: &Attack, rounds: std::ops::Range<u32>) -> bool {
        let (mut first, mut then) = (Vec::new(), Vec::new());
        for round in rounds.clone() {
            let frames = (attack.round)(round);
            let at = 9 + (usize::from(frames[1]) << 8 | usize::from(frames[2]));
            first.extend(&frames[..at]);
            then.extend(&frames[at..]);
        }
        first.extend(frame(PING, 0, 0, &[1; 8]));
        let pongs = self.heard().pongs;
        if self.write.write_all(&first).await.is_err() {
            return false;
        }
        self.until(|heard| heard.pongs > pongs).await;
        let (waiting, wanted) = (self.waiting.clone(), rounds.len());
        let holds = attack.pace == Pace::Held;
        self.until(|_| !holds || waiting.load(SeqCst) >= wanted).await;
        let going = self.write.write_all(&then).await.is_ok();
        self.until(|_| !holds || waiting.load(SeqCst) == 0).await;
        going
    }
}

/// Resident memory of a process, in octets.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

const GROWTH_MOST: u64 = 64 << 20;
const GOOD_REQUESTS: usize = 30;

/// The other client of the same listener: how many of its requests, one after the other, were answered; and what came
/// instead of the first that was not.
async fn good(addr: SocketAddr) -> (usize, Option<String>) {
    let sender = h2(TcpStream::connect(addr).await.unwrap()).await;
    let mut answered = 0;
    for _ in 0..GOOD_REQUESTS {
        match h2_get(&sender, "http://a/").await {
            Ok((parts, body)) if parts.status == 200 && body == b"good" => answered += 1,
            other => return (answered, Some(format!("{other:.200?}"))),
        }
    }
    (answered, None)
}

/// What was wrong with how it went, if anything.
async fn survive(gateway: &Gateway, hold: &Hold, attack: Attack) -> Option<String> {
    let (addr, pid) = (gateway.addr("http"), gateway.pid());
    let (_, early) = good(addr).await;
    if let Some(instead) = early {
        return Some(format!("before {}: {instead}", attack.name));
    }
    let counted = gateway.metric("portcullis_refusals_total", &["h2_"]).await;
    let before = resident(pid);
    let over = Arc::new(AtomicBool::new(false));
    let until = over.clone();
    let peak = tokio::spawn(async move {
        let mut peak = before;
        while !until.load(SeqCst) {
            peak = peak.max(resident(pid));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        peak.max(resident(pid))
    });
    let attack = Arc::new(attack);
    let mut attackers = JoinSet::new();
    for _ in 0..attack.connections {
        let (attack, waiting) = (attack.clone(), hold.waiting.clone());
        attackers.spawn(async move { Attacker::connect(addr, waiting).await.run(&attack).await });
    }
    let (heard, (answered, instead)) = tokio::join!(attackers.join_all(), good(addr));
    over.store(true, SeqCst);
    let grown = peak.await.unwrap() - before;
    let mut wrong = Vec::new();
    let as_said = |heard: &Heard| match attack.end {
        End::Calmed => heard.goaways == [ENHANCE_YOUR_CALM] && heard.over,
        End::Away(code) => heard.goaways == [code] && heard.over,
        End::Rested => heard.goaways.iter().all(|code| *code == NO_ERROR) && heard.over,
        End::Resets(resets) => heard.resets.len() >= resets,
        End::Borne => true,
    };
    if let Some(heard) = heard.iter().find(|heard| !as_said(heard)) {
        let (resets, over) = (heard.resets.len(), heard.over);
        wrong.push(format!("not {:?} but GOAWAY {:?}, {resets} resets, over: {over}", attack.end, heard.goaways));
    }
    if attack.end == End::Calmed && gateway.metric("portcullis_refusals_total", &["h2_"]).await <= counted {
        wrong.push("it is not counted".to_owned());
    }
    if answered < GOOD_REQUESTS {
        wrong.push(format!("{answered} of {GOOD_REQUESTS} good requests, and then {instead:?}"));
    }
    if grown >= GROWTH_MOST {
        wrong.push(format!("{} MiB more memory", grown >> 20));
    }
    println!("{}: {:?}, {} MiB more, {answered} good", attack.name, attack.end, grown >> 20);
    (!wrong.is_empty()).then(|| format!("{}: {}", attack.name, wrong.join("; ")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attack_ends_and_a_good_client_beside_it_is_served() {
    let kinds = [resets(), blocks(), controls(), stalls()];
    let all: usize = kinds.iter().map(Vec::len).sum();
    assert!(all >= 20, "{all} attacks");
    let mut lanes = JoinSet::new();
    let local = LocalSet::new();
    for attacks in kinds {
        let lane = async move {
            let hold = Hold::start().await;
            let gateway = edge(&hold).await;
            let mut failed = Vec::new();
            for attack in attacks {
                let name = attack.name;
                failed.extend(survive(&gateway, &hold, attack).await);
                // What an attacker gave up is given up behind us as well.
                if !hold.is_released().await {
                    failed.push(format!("{name}: requests are left at the origin"));
                }
                let most = hold.most.swap(0, SeqCst);
                if most > STREAMS_MOST {
                    failed.push(format!("{name}: {most} requests at the origin at one time"));
                }
            }
            failed
        };
        lanes.spawn_local_on(lane, &local);
    }
    let failed: Vec<String> = local.run_until(lanes.join_all()).await.into_iter().flatten().collect();
    println!("h2 attacks survived: {} of {all}", all - failed.len());
    assert!(failed.is_empty(), "{} of {all}:\n{}", all - failed.len(), failed.join("\n"));
}

/// Streams of one connection: as many requests may be at the origin. A few more while those that were reset are taken back.
const STREAMS_MOST: usize = 2 * 100;
