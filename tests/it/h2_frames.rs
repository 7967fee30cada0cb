//! HTTP/2 frame by frame: each case is octets that a client sends and the one thing that RFC 9113, 7541 or 9218 has a server
//! do. Whoever breaks a rule alone is told so by the right code, and what is no fault is served. What h2spec asks is asked
//! elsewhere; floods are in `h2_attacks.rs`.

mod fields;
mod frames;
mod splitting;
mod streams;

use crate::support::{
    authority::Authority,
    client::{tls, tls_config},
    frames::{PING, PREFACE, Said, Wire, data, frame, get, post, settings, take},
    gateway::Gateway,
    origin::{Origin, Seen, ok},
};
use std::sync::{Arc, Mutex};
use tokio::{net::TcpStream, task::JoinSet};

/// What a client does.
#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    /// Waits for the end of a stream's answer.
    Ended(u32),
    /// Waits until the connection's window has been opened to what it is to be.
    Opened,
    /// Everything that was sent is worked off, and so many octets of a stream's body have come.
    Body(u32, usize),
}

/// Where it does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Clear,
    Tls,
}

/// What must come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expect {
    /// GOAWAY with this code, and the connection's end.
    Away(u32),
    /// The connection's end; whether a GOAWAY is said before is left free (RFC 9113 §3.4), but no answer.
    Gone,
    /// RST_STREAM with this code; the connection goes on.
    Reset(u32, u32),
    /// An answer with this status; the connection goes on.
    Status(u32, u16),
    /// 200, and the origin saw this text (in the spelling of HTTP/1.1).
    Saw(u32, &'static str),
    /// 200 and the connection's end without a fault.
    Farewell(u32),
    /// The ping is answered with its octets.
    Pong([u8; 8]),
    /// Nothing: the connection goes on.
    Quiet,
}

struct Case {
    name: &'static str,
    /// Of RFC 9113 unless another is named.
    clause: &'static str,
    over: Over,
    /// Whether preface and SETTINGS are sent first.
    greets: Greets,
    steps: Vec<Step>,
    expect: Expect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greets {
    Itself,
    Properly,
}

impl Case {
    fn greeting_itself(self) -> Self {
        Self { greets: Greets::Itself, ..self }
    }

    fn over_tls(self) -> Self {
        Self { over: Over::Tls, ..self }
    }
}

/// One send, or several steps.
trait IntoSteps {
    fn steps(self) -> Vec<Step>;
}

impl IntoSteps for Vec<u8> {
    fn steps(self) -> Vec<Step> {
        vec![Step::Send(self)]
    }
}

impl<const N: usize> IntoSteps for [Vec<u8>; N] {
    fn steps(self) -> Vec<Step> {
        vec![Step::Send(self.concat())]
    }
}

impl<const N: usize> IntoSteps for [Step; N] {
    fn steps(self) -> Vec<Step> {
        self.into()
    }
}

fn case(name: &'static str, clause: &'static str, steps: impl IntoSteps, expect: Expect) -> Case {
    Case { name, clause, over: Over::Clear, greets: Greets::Properly, steps: steps.steps(), expect }
}

/// A gateway that speaks h2 in clear and over TLS, and its origin.
struct Bench {
    gateway: Gateway,
    origin: Origin,
    ca: String,
}

/// Beyond what any test here allows an answer to have: its end shows that flow control holds.
const LARGE: usize = 100_000;

async fn bench() -> Arc<Bench> {
    let origin = Origin::start(|seen: &Seen| {
        if seen.path() == "/large" {
            return ok(&"x".repeat(LARGE));
        }
        ok(&format!("{}\n{}", seen.head, String::from_utf8_lossy(&seen.body)))
    })
    .await;
    let (ca, folder) = (Authority::new("ca"), tempfile::tempdir().unwrap());
    ca.leaf(&["a.test"]).write(folder.path(), "a");
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n\
         [listener.https]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\ncertificates = [\"a\"]\n\
         [certificate.a]\ncert = {{ file = \"a.crt\" }}\nkey = {{ file = \"a.key\" }}\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n\
         [route.app.rule.slow]\npath = \"/slow\"\nfault = {{ delay = {{ time = \"10s\", percent = \"100%\" }} }}\n",
        origin.addr
    );
    let gateway = Gateway::start_in(folder, &config).await;
    Arc::new(Bench { gateway, origin, ca: ca.certificate_pem })
}

/// Runs all at once and gives those that went otherwise.
async fn failing(bench: &Arc<Bench>, cases: Vec<Case>) -> Vec<String> {
    let failed: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut running = JoinSet::new();
    for case in cases {
        let (bench, failed) = (bench.clone(), failed.clone());
        running.spawn(async move {
            if let Err(instead) = run(&bench, &case).await {
                let told = format!("{} [{}]: not {:?} but {instead}", case.name, case.clause, case.expect);
                failed.lock().unwrap().push(told);
            }
        });
    }
    running.join_all().await;
    Arc::into_inner(failed).unwrap().into_inner().unwrap()
}

async fn run(bench: &Bench, case: &Case) -> Result<(), String> {
    let mut wire = match case.over {
        Over::Clear => Wire::over(TcpStream::connect(bench.gateway.addr("http")).await.unwrap()),
        Over::Tls => {
            let config = tls_config(&bench.ca, &["h2"]);
            Wire::over(tls(bench.gateway.addr("https"), "a.test", config).await.unwrap())
        }
    };
    if case.greets == Greets::Properly {
        wire.send(&[PREFACE, &settings(&[])].concat()).await;
    }
    for step in &case.steps {
        match step {
            // One that is cut in the midst of what it sends shows it by what it hears.
            Step::Send(bytes) => {
                wire.send(bytes).await;
            }
            Step::Ended(stream) => {
                if wire.until(|said| said.ends(*stream)).await == Said::End {
                    return Err(format!("an early end: {:?}", wire.said));
                }
            }
            Step::Opened => {
                wire.until(|said| *said == Said::WindowUpdate { stream: 0 }).await;
            }
            Step::Body(stream, length) => {
                while wire.body(*stream).len() < *length && wire.next().await != Said::End {}
                // And no more comes.
                worked_off(&mut wire).await;
                let had = wire.body(*stream).len();
                if had != *length {
                    return Err(format!("{had} octets on {stream}, not {length}: {:?}", wire.said));
                }
            }
        }
    }
    match judge(&mut wire, &case.expect).await {
        true => Ok(()),
        false => Err(format!("{:?}", wire.said)),
    }
}

/// No more than a few frames each.
const ROUNDS: u8 = 5;

/// A ping's answer comes after whatever was sent before it was looked at, and DATA that may go has gone.
async fn worked_off(wire: &mut Wire) {
    for round in 0..ROUNDS {
        wire.send(&frame(PING, 0, 0, &[0xa0 + round; 8])).await;
        wire.until(|said| *said == Said::Pong(vec![0xa0 + round; 8])).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn judge(wire: &mut Wire, expect: &Expect) -> bool {
    match *expect {
        Expect::Away(code) => {
            wire.until(|_| false).await;
            let codes: Vec<u32> = goaways(&wire.said);
            codes == [code]
        }
        Expect::Gone => {
            wire.until(|_| false).await;
            !wire.said.iter().any(|said| matches!(said, Said::Head { .. } | Said::Data { .. }))
        }
        Expect::Reset(stream, code) => {
            let wanted = Said::Reset { stream, code };
            // A stream that was answered may be reset yet; a ping's answer shows when it is not.
            if !wire.said.iter().any(|said| said.ends(stream)) {
                wire.until(|said| said.ends(stream)).await;
            }
            if !wire.said.contains(&wanted) {
                worked_off(wire).await;
            }
            wire.said.contains(&wanted) && goes_on(wire).await
        }
        Expect::Status(stream, status) => answered(wire, stream).await == Some(status) && goes_on(wire).await,
        Expect::Saw(stream, text) => {
            answered(wire, stream).await == Some(200)
                && String::from_utf8_lossy(&wire.body(stream)).to_ascii_lowercase().contains(text)
                && goes_on(wire).await
        }
        Expect::Farewell(stream) => {
            let status = answered(wire, stream).await;
            wire.until(|_| false).await;
            status == Some(200) && goaways(&wire.said).iter().all(|code| *code == 0)
        }
        Expect::Pong(octets) => {
            let pong = Said::Pong(octets.to_vec());
            wire.until(|said| *said == pong).await == pong && goes_on(wire).await
        }
        Expect::Quiet => goes_on(wire).await,
    }
}

fn goaways(said: &[Said]) -> Vec<u32> {
    let codes = said.iter().filter_map(|said| match said {
        Said::Goaway { code, .. } => Some(*code),
        _ => None,
    });
    codes.collect()
}

/// The status of a stream's whole answer.
async fn answered(wire: &mut Wire, wanted: u32) -> Option<u16> {
    // RFC 9113 §8.1: an answer that came before the request's end may be followed by RST_STREAM(NO_ERROR).
    if !wire.said.iter().any(|said| said.ends(wanted)) {
        wire.until(|said| said.ends(wanted)).await;
    }
    let whole = wire.said.iter().any(|said| said.ends(wanted) && !matches!(said, Said::Reset { .. } | Said::End));
    let head = wire.said.iter().find_map(|said| match said {
        Said::Head { stream, status, .. } if *stream == wanted => Some(*status),
        _ => None,
    });
    head.flatten().filter(|_| whole)
}

/// Far above those that the cases use.
const PROBE: u32 = 100_001;

async fn goes_on(wire: &mut Wire) -> bool {
    wire.send(&get(PROBE, "/probe")).await;
    answered(wire, PROBE).await == Some(200) && goaways(&wire.said).is_empty()
}

#[tokio::test]
async fn each_frame_level_case_ends_as_the_standard_says() {
    let bench = bench().await;
    let cases = [frames::cases(), streams::cases(), fields::cases()].into_iter().flatten().collect::<Vec<_>>();
    let all = cases.len();
    assert!(all >= 106, "{all} cases");
    let failed = failing(&bench, cases).await;
    println!("h2 frame cases: {} of {all}", all - failed.len());
    let unknown: Vec<_> = failed.iter().filter(|told| !SHORT_OF.iter().any(|name| told.starts_with(name))).collect();
    assert!(unknown.is_empty(), "{} of {all}; otherwise went:\n{unknown:#?}", all - failed.len());
    assert_eq!(failed.len(), SHORT_OF.len(), "one that fell short no longer does: {failed:#?}");
    // As many of all as 104 of 106.
    assert!((all - failed.len()) * 106 >= all * 104, "{} of {all}", all - failed.len());
}

/// Where the h2 crate falls short, and nothing of ours is asked. It takes pseudo-header fields of trailers for nothing, and does
/// so before anybody sees them (nothing of trailers is passed on); and it does not decode the block of a stream that depends on
/// itself, which costs a client that sends one its connection.
const SHORT_OF: [&str; 3] =
    ["trailers with :path [", "trailers with :status [", "its fields are remembered all the same ["];

#[tokio::test]
async fn nothing_that_http_1_could_read_as_two_requests_reaches_an_origin() {
    let bench = bench().await;
    let cases = splitting::cases();
    let all = cases.len();
    assert!(all >= 24, "{all} cases");
    let mut failed = failing(&bench, cases).await;
    let refused = bench.origin.requests().into_iter().filter(|seen| seen.path() != "/probe");
    failed.extend(refused.map(|seen| format!("the origin saw {seen:?}")));
    println!("h2-to-h1 splitting cases: {} of {all} refused", all - failed.len());
    assert!(failed.is_empty(), "{} of {all}; otherwise went:\n{}", all - failed.len(), failed.join("\n"));
}

/// The reader of answers is a test's own, and so is tested.
#[test]
fn what_a_server_says_is_read_as_it_was_written() {
    let octets = [0, 0, 5, 1, 5, 0, 0, 0, 1, 0x48, 0x03, b'4', b'3', b'1', 0x88];
    let mut buffer = octets.to_vec();
    assert_eq!(take(&mut buffer), Some(Said::Head { stream: 1, status: Some(431), end: true }));
    assert_eq!(buffer, [0x88]);
    // RFC 7541 appendix C.6.1 has 302 in Huffman's code.
    let mut buffer = [vec![0, 0, 4, 1, 4, 0, 0, 0, 3], vec![0x48, 0x82, 0x64, 0x02]].concat();
    assert_eq!(take(&mut buffer), Some(Said::Head { stream: 3, status: Some(302), end: false }));
    for cut in 0..13 {
        let mut part = [data(0, 1, b"abcd")].concat()[..cut].to_vec();
        assert_eq!(take(&mut part), None, "{cut}");
    }
    assert!(post(1, "/", &[("a", "b")]).len() > get(1, "/").len());
}
