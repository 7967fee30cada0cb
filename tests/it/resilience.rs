//! What a client sees of upstreams that fail in every way, and who gets requests then.

use crate::support::{
    client::{Client, Response},
    eventually,
    gateway::Gateway,
    origin::{Origin, Seen, ok, read_request},
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

async fn edge(upstream: &str, route: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\n{upstream}\n[route.app]\nupstream = \"app\"\ntimeout = \"5s\"\n{route}\n"
    ))
    .await
}

fn endpoints(origins: &[&Origin]) -> String {
    let list: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.addr)).collect();
    format!("endpoints = [{}]\n", list.join(", "))
}

/// Each on a connection of its own, so that one that is cut spoils no other.
async fn ask(gateway: &Gateway, count: usize, request: &str) -> Vec<Option<Response>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(request).await;
        all.push(client.try_response(false).await);
    }
    all
}

fn failed(responses: &[Option<Response>]) -> usize {
    responses.iter().filter(|response| response.as_ref().is_none_or(|response| response.status != 200)).count()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";

/// An origin that reads a request and then does as told.
async fn faulty(fault: Fault) -> Origin {
    counted(fault, Arc::default()).await
}

/// The same, and counts the requests.
async fn counted(fault: Fault, asked: Arc<AtomicUsize>) -> Origin {
    Origin::raw(move |mut stream: TcpStream| {
        let asked = asked.clone();
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                asked.fetch_add(1, SeqCst);
                let answer: &[u8] = match fault {
                    Fault::Close => return,
                    Fault::Garbage => b"\x00\x01 what is this\r\n\r\n",
                    Fault::Status(503) => b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno",
                    Fault::Status(_) => b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\noh",
                    Fault::Truncated => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
                    Fault::Hang => {
                        std::future::pending::<()>().await;
                        return;
                    }
                    Fault::BadLength => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
                };
                if stream.write_all(answer).await.is_err() || !matches!(fault, Fault::Status(_)) {
                    return;
                }
            }
        }
    })
    .await
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Close,
    Garbage,
    BadLength,
    Status(u16),
    Truncated,
    Hang,
}

#[tokio::test]
async fn with_defaults_a_client_sees_nothing_of_an_endpoint_that_closes_cuts_or_answers_garbage() {
    for fault in [Fault::Close, Fault::Garbage, Fault::BadLength, Fault::Truncated] {
        let (well, sick) = (Origin::fixed("ok").await, faulty(fault).await);
        let gateway = edge(&endpoints(&[&well, &sick]), "").await;
        assert_eq!(failed(&ask(&gateway, 60, GET).await), 0, "{fault:?}");
        let ejections = gateway.metric("portcullis_endpoint_ejections_total", &["consecutive_gateway"]).await;
        assert_eq!(ejections, 1.0, "{fault:?}: five in a row are enough");
        gateway.counts("portcullis_endpoint_up", &[&sick.addr.to_string()], 0.0).await;
    }
}

#[tokio::test]
async fn without_retries_few_requests_fail_before_the_endpoint_is_out() {
    for (fault, most) in [(Fault::Status(500), 5), (Fault::Status(503), 5), (Fault::Truncated, 5)] {
        let (well, sick) = (Origin::fixed("ok").await, faulty(fault).await);
        let gateway = edge(&endpoints(&[&well, &sick]), "retry.attempts = 0").await;
        let responses = ask(&gateway, 60, GET).await;
        let whole = |response: &Option<Response>| {
            response.as_ref().is_some_and(|response| response.status == 200 && response.body == b"ok")
        };
        let failed = responses.iter().filter(|response| !whole(response)).count();
        assert_eq!(failed, most, "{fault:?}");
        let status = gateway.admin("GET", "/upstreams", "").await.1.to_string();
        assert!(
            status.contains("\"health\":\"ejected\"") && status.contains("ejected_for\":\"consecutive_"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn statuses_and_timeouts_are_retried_when_told() {
    for (fault, retry) in [
        (Fault::Status(503), "retry.on = [\"503\"]"),
        (Fault::Status(500), "retry.on = [\"5xx\"]"),
        (Fault::Status(503), "retry.on = [\"gateway\"]"),
        (Fault::Hang, "retry = { on = [\"timeout\"], per_try_timeout = \"150ms\" }"),
    ] {
        let (well, sick) = (Origin::fixed("ok").await, faulty(fault).await);
        let gateway = edge(&endpoints(&[&well, &sick]), retry).await;
        assert_eq!(failed(&ask(&gateway, 30, GET).await), 0, "{fault:?} {retry}");
    }
}

#[tokio::test]
async fn a_post_is_never_sent_twice_unless_the_operator_says_so() {
    for (fault, retry, expected) in [
        (Fault::Close, "", 502),
        (Fault::Garbage, "", 502),
        (Fault::Status(503), "retry.on = [\"503\", \"reset\"]", 503),
        (Fault::Close, "retry.methods = \"idempotent\"", 502),
        (Fault::Close, "retry.methods = \"all\"", 200),
        (Fault::Status(503), "retry = { on = [\"503\"], methods = \"all\" }", 200),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let (well, sick) = (Origin::echo().await, counted(fault, asked.clone()).await);
        // The sick one is asked first: nobody else has its priority.
        let upstream = format!(
            "endpoints = [\"{}\", {{ address = \"{}\", priority = 1 }}]\noutlier.max_ejected = \"0%\"\n",
            sick.addr, well.addr
        );
        let gateway = edge(&upstream, retry).await;
        let responses = ask(&gateway, 3, POST).await;
        for response in &responses {
            let response = response.as_ref().unwrap();
            assert_eq!(response.status, expected, "{fault:?} {retry}");
            assert!(expected != 200 || response.text().ends_with("\nabc"), "the body went with it");
        }
        assert_eq!(asked.load(SeqCst) + well.requests().len(), if expected == 200 { 6 } else { 3 }, "{fault:?}");
    }
}

#[tokio::test]
async fn a_retry_storm_stays_within_its_budget() {
    let sick = faulty(Fault::Status(503)).await;
    let upstream = format!(
        "{}retry_budget = {{ percent = \"20%\", min_per_second = 0 }}\noutlier.max_ejected = \"0%\"\n",
        endpoints(&[&sick])
    );
    let gateway = edge(&upstream, "retry = { attempts = 3, on = [\"503\"], backoff = \"0ms..1ms\" }").await;
    assert_eq!(failed(&ask(&gateway, 200, GET).await), 200);
    let attempts = gateway.metric("portcullis_upstream_attempts_total", &[]).await;
    assert!((230.0..=240.0).contains(&attempts), "200 requests made {attempts} attempts");
}

#[tokio::test]
async fn with_defaults_and_half_of_all_tries_failing_the_load_grows_by_less_than_a_quarter() {
    let asked = AtomicUsize::new(0);
    let half = Origin::start(move |_| match asked.fetch_add(1, SeqCst) % 2 {
        0 => b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok("ok"),
    })
    .await;
    let upstream = format!("{}outlier.max_ejected = \"0%\"\n", endpoints(&[&half]));
    let gateway = edge(&upstream, "retry = { attempts = 5, on = [\"503\"], backoff = \"0ms..1ms\" }").await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for _ in 0..2000 {
        if client.get("a", "/").await.header("connection") == Some("close") {
            client = Client::connect(gateway.addr("http")).await;
        }
    }
    let attempts = gateway.metric("portcullis_upstream_attempts_total", &[]).await;
    assert!((2300.0..2500.0).contains(&attempts), "2000 requests made {attempts} attempts");
}

#[tokio::test]
async fn an_ejected_endpoint_comes_back_after_one_good_trial() {
    let broken = Arc::new(AtomicBool::new(true));
    let (flag, asked) = (broken.clone(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let moody = Origin::start(move |_| {
        count.fetch_add(1, SeqCst);
        if flag.load(SeqCst) { b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec() } else { ok("moody") }
    })
    .await;
    let well = Origin::fixed("well").await;
    let ejected_for = |time: &str| {
        let origins = endpoints(&[&moody, &well]);
        format!("{origins}outlier = {{ consecutive_5xx = 2, eject = \"{time}\", eject_longest = \"{time}\" }}\n")
    };
    let patient = edge(&ejected_for("1h"), "").await;
    ask(&patient, 10, GET).await;
    assert_eq!(asked.load(SeqCst), 2, "out after two");
    let gateway = edge(&ejected_for("200ms"), "").await;
    eventually("a failed trial", async || {
        ask(&gateway, 4, GET).await;
        (gateway.metric("portcullis_endpoint_ejections_total", &["reason=\"trial\""]).await >= 1.0).then_some(())
    })
    .await;
    broken.store(false, SeqCst);
    eventually("it is back", async || {
        let bodies = ask(&gateway, 10, GET).await;
        (bodies.iter().flatten().filter(|response| response.body == b"moody").count() == 5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_fallback_is_asked_when_nobody_else_can_be() {
    let (main, spare) = (Origin::fixed("main").await, Origin::fixed("spare").await);
    let upstream =
        format!("{}fallback = \"spare\"\n[upstream.spare]\nendpoints = [\"{}\"]\n", endpoints(&[&main]), spare.addr);
    let gateway = edge(&upstream, "").await;
    let bodies = async |gateway: &Gateway| ask(gateway, 1, GET).await.remove(0).unwrap().text();
    assert_eq!(bodies(&gateway).await, "main");
    let force = format!("{{\"upstream\":\"app\",\"address\":\"{}\",\"state\":\"down\"}}", main.addr);
    assert_eq!(gateway.admin("POST", "/force/endpoint", &force).await.0, 200);
    assert_eq!(bodies(&gateway).await, "spare");
    let (code, text) =
        gateway.command(&["force", "app", &main.addr.to_string(), "auto", "--admin", "admin.sock"]).await;
    assert_eq!((code, text.trim()), (0, format!("{} of app serves as its health says", main.addr).as_str()));
    assert_eq!(bodies(&gateway).await, "main");
}

#[tokio::test]
async fn a_fallback_has_its_own_key_and_its_own_cookie() {
    let spares = [Origin::fixed("0").await, Origin::fixed("1").await, Origin::fixed("2").await];
    for (balance, fields, sticks) in [
        ("balance = { policy = \"consistent_hash\", key = \"header:x-user\" }", "X-User: ada\r\n", true),
        ("balance.policy = \"random\"", "X-User: ada\r\n", false),
    ] {
        let upstream = format!(
            "endpoints = [\"127.0.0.1:1\"]\nfallback = \"spare\"\noutlier = {{ consecutive_connect = 1, eject = \"1h\" }}\n\
             [upstream.spare]\n{}{balance}\nsticky = {{ cookie = \"aff\" }}\n",
            endpoints(&[&spares[0], &spares[1], &spares[2]])
        );
        let gateway = edge(&upstream, "").await;
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let answers = ask(&gateway, 40, &request).await;
        let all: std::collections::HashSet<String> = answers[1..].iter().flatten().map(Response::text).collect();
        assert_eq!(all.len() == 1, sticks, "{balance}: {all:?}");
        let last = answers.last().unwrap().as_ref().unwrap();
        let cookie = last.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
        assert!(ask(&gateway, 10, &request).await.iter().flatten().all(|answer| answer.text() == last.text()));
    }
}

#[tokio::test]
async fn the_circuit_breaker_answers_at_once_what_is_too_much() {
    let slow = slow_by(Duration::from_millis(400)).await;
    for breaker in ["requests = 2", "connections = 2"] {
        let gateway = edge(&format!("{}circuit_breaker = {{ {breaker} }}\n", endpoints(&[&slow])), "").await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let address = gateway.addr("http");
            tasks.spawn(async move { Client::connect(address).await.get("a", "/").await });
        }
        let mut statuses: Vec<u16> = Vec::new();
        while let Some(response) = tasks.join_next().await {
            let response = response.unwrap();
            assert_eq!(response.status == 503, response.header("retry-after") == Some("1"));
            statuses.push(response.status);
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 503, 503, 503, 503], "{breaker}");
        gateway.counts("portcullis_refusals_total", &["circuit_open"], 4.0).await;
    }
}

#[tokio::test]
async fn a_sticky_client_stays_and_the_cookie_is_the_clients_alone() {
    let origins = [Origin::fixed("0").await, Origin::fixed("1").await, Origin::fixed("2").await];
    let upstream = format!(
        "{}sticky = {{ cookie = \"aff\", ttl = \"1h\" }}\n",
        endpoints(&[&origins[0], &origins[1], &origins[2]])
    );
    let gateway = edge(&upstream, "").await;
    let first = ask(&gateway, 1, GET).await.remove(0).unwrap();
    let cookie = first.header("set-cookie").unwrap().to_owned();
    assert!(
        cookie.starts_with("aff=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"),
        "{cookie}"
    );
    let pair = cookie.split(';').next().unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=1; {pair}\r\n\r\n");
    for response in ask(&gateway, 9, &request).await {
        let response = response.unwrap();
        assert_eq!((response.text(), response.header("set-cookie")), (first.text(), None));
    }
    let without: std::collections::HashSet<String> =
        ask(&gateway, 60, GET).await.into_iter().map(|response| response.unwrap().text()).collect();
    assert_eq!(without.len(), 3);
}

#[tokio::test]
async fn gateways_with_one_secret_set_the_same_sticky_cookie() {
    let origin = Origin::fixed("0").await;
    let cookie = async |secret: Option<&str>| {
        let folder = tempfile::tempdir().unwrap();
        let key = secret.map_or("", |secret| {
            std::fs::write(folder.path().join("sticky.key"), secret).unwrap();
            ", secret = { file = \"sticky.key\" }"
        });
        let text = format!(
            "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\n{}sticky = {{ cookie = \"aff\"{key} }}\n[route.app]\nupstream = \"app\"\n",
            endpoints(&[&origin])
        );
        let gateway = Gateway::start_in(folder, &text).await;
        ask(&gateway, 1, GET).await.remove(0).unwrap().header("set-cookie").unwrap().to_owned()
    };
    let (one, two) = (Some("0123456789abcdef"), Some("fedcba9876543210"));
    let cookies = [cookie(None).await, cookie(one).await, cookie(two).await];
    assert_eq!(cookies[1], cookie(one).await);
    assert_eq!(cookies.iter().collect::<std::collections::HashSet<_>>().len(), 3, "{cookies:?}");
}

#[tokio::test]
async fn a_key_goes_to_one_endpoint_whatever_connection_it_comes_on() {
    let origins = [Origin::fixed("0").await, Origin::fixed("1").await, Origin::fixed("2").await];
    for (balance, request) in [
        ("key = \"header:x-user\"", "GET / HTTP/1.1\r\nHost: a\r\nX-User: KEY\r\n\r\n"),
        ("key = \"query:user\", algorithm = \"ring\"", "GET /?user=KEY HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("key = [\"cookie:user\", \"method\"]", "GET / HTTP/1.1\r\nHost: a\r\nCookie: user=KEY\r\n\r\n"),
        ("key = \"path\", load_factor = 2.0", "GET /KEY HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let upstream = format!(
            "{}balance = {{ policy = \"consistent_hash\", {balance} }}\n",
            endpoints(&[&origins[0], &origins[1], &origins[2]])
        );
        let gateway = edge(&upstream, "").await;
        let mut owners: HashMap<usize, String> = HashMap::new();
        for round in 0..2 {
            for user in 0..20 {
                let response = ask(&gateway, 1, &request.replace("KEY", &format!("u{user}"))).await.remove(0).unwrap();
                let owner = owners.entry(user).or_insert_with(|| response.text());
                assert_eq!(*owner, response.text(), "{balance} round {round}");
            }
        }
        let used: std::collections::HashSet<_> = owners.values().collect();
        assert_eq!(used.len(), 3, "{balance}: twenty keys reach all three");
    }
}

#[tokio::test]
async fn policies_places_and_priorities_are_obeyed() {
    let origins = [Origin::fixed("0").await, Origin::fixed("1").await];
    let table = |index: usize, rest: &str| format!("{{ address = \"{}\", {rest} }}", origins[index].addr);
    let served = async |head: &str, list: [String; 2], rest: &str| {
        let gateway = Gateway::start(&format!(
            "{head}\n[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [{}]\n{rest}\n[route.app]\nupstream = \"app\"\n",
            list.join(", ")
        ))
        .await;
        let mut counts = [0; 2];
        for response in ask(&gateway, 20, GET).await {
            counts[usize::from(response.unwrap().body == b"1")] += 1;
        }
        counts
    };
    let weights = |a: &str, b: &str| [table(0, a), table(1, b)];
    assert_eq!(served("", weights("priority = 1", "priority = 0"), "").await, [0, 20]);
    let zones = weights("zone = \"a\"", "zone = \"b\"");
    assert_eq!(served("[site]\nzone = \"b\"", zones.clone(), "balance.locality = \"prefer\"").await, [0, 20]);
    assert_eq!(served("[site]\nzone = \"b\"", zones, "balance.policy = \"round_robin\"").await, [10, 10]);
    for policy in ["least_request", "random"] {
        let [_, heavy] =
            served("", weights("weight = 1", "weight = 99"), &format!("balance.policy = \"{policy}\"")).await;
        assert!(heavy > 10, "{policy} {heavy}");
    }
}

#[tokio::test]
async fn peak_ewma_prefers_who_answers_soon() {
    let (slow, quick) = (slow_by(Duration::from_millis(150)).await, Origin::fixed("quick").await);
    let upstream = format!("{}balance.policy = \"peak_ewma\"\n", endpoints(&[&slow, &quick]));
    let gateway = edge(&upstream, "").await;
    let quick = ask(&gateway, 20, GET).await.iter().flatten().filter(|response| response.body == b"quick").count();
    assert!(quick >= 15, "{quick} of 20");
}

/// Answers "slow" after a while.
async fn slow_by(time: Duration) -> Origin {
    Origin::raw(move |mut stream: TcpStream| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            tokio::time::sleep(time).await;
            if stream.write_all(&ok("slow")).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_interval_ejects_the_slow_one_and_the_often_failing_one() {
    let slow = slow_by(Duration::from_millis(60)).await;
    let asked = AtomicUsize::new(0);
    let shaky = Origin::start(move |_: &Seen| match asked.fetch_add(1, SeqCst) % 2 {
        0 => b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok("shaky"),
    })
    .await;
    let wells = [Origin::fixed("ok").await, Origin::fixed("ok").await, Origin::fixed("ok").await];
    for (sick, rule, reason) in
        [(&slow, "latency_factor = 5.0", "latency"), (&shaky, "success_rate = \"80%\"", "success_rate")]
    {
        let upstream = format!(
            "{}outlier = {{ {rule}, min_requests = 5, interval = \"1s\", max_ejected = \"30%\" }}\n",
            endpoints(&[&wells[0], &wells[1], &wells[2], sick])
        );
        let gateway = edge(&upstream, "").await;
        eventually(reason, async || {
            ask(&gateway, 12, GET).await;
            let parts = [format!("endpoint=\"{}\"", sick.addr), format!("reason=\"{reason}\"")];
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            (gateway.metric("portcullis_endpoint_ejections_total", &parts).await == 1.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_slow_upload_is_the_clients_fault_and_ejects_nobody() {
    let origin = Origin::echo().await;
    let gateway = edge(&endpoints(&[&origin]), "retry.per_try_timeout = \"300ms\"").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let address = gateway.addr("http");
        tasks.spawn(async move {
            let mut client = Client::connect(address).await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").await;
            client.try_response(false).await.map(|response| response.status)
        });
    }
    while let Some(status) = tasks.join_next().await {
        assert_eq!(status.unwrap(), Some(408));
    }
    assert_eq!(gateway.metric("portcullis_endpoint_ejections_total", &[]).await, 0.0);
    assert_eq!(failed(&ask(&gateway, 5, GET).await), 0);
}

#[tokio::test]
async fn any_other_upgrade_lifts_no_timeout() {
    let silent = faulty(Fault::Hang).await;
    let gateway = edge(&endpoints(&[&silent]), "retry.per_try_timeout = \"300ms\"").await;
    let began = std::time::Instant::now();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    assert_eq!(ask(&gateway, 1, request).await.remove(0).unwrap().status, 504);
    assert!(began.elapsed() < Duration::from_secs(20));
}
