//! Rate limits and concurrency limits, as clients meet them.

use crate::mmdb;
use crate::support::{
    client::{Client, Response},
    eventually,
    gateway::{Gateway, run_in},
    origin::{Origin, read_request},
};
use std::{process::Stdio, sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt, sync::Semaphore};

const LISTENER: &str = "[listener.http]\naddress = \"127.0.0.1:0\"\nclient_ip = { trust = [\"127.0.0.0/8\"], header = \"x-forwarded-for\" }\n";

/// A gateway before one good origin; `rest` is the route's own.
pub(crate) async fn edge(objects: &str, rest: &str) -> (Gateway, Origin) {
    let origin = Origin::fixed("ok").await;
    let config = format!(
        "{LISTENER}{objects}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n{rest}\n",
        origin.addr
    );
    (Gateway::start(&config).await, origin)
}

pub(crate) async fn ask(gateway: &Gateway, head: &str) -> Response {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(&format!("GET {head}\r\n\r\n")).await;
    client.response().await
}

pub(crate) async fn statuses(gateway: &Gateway, heads: &[&str]) -> Vec<u16> {
    let mut all = Vec::new();
    for head in heads {
        all.push(ask(gateway, head).await.status);
    }
    all
}

pub(crate) const PLAIN: &str = "/ HTTP/1.1\r\nHost: a";

#[tokio::test]
async fn a_limit_refuses_with_all_that_a_client_needs_to_come_back() {
    let (gateway, origin) = edge("", "rate_limit = { rate = \"2/h\", burst = 2 }").await;
    let first = ask(&gateway, PLAIN).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("ratelimit-policy"), Some("\"app\";q=2;w=3600"));
    assert_eq!(first.header("ratelimit"), Some("\"app\";r=1;t=1800"));
    assert_eq!(first.header("retry-after"), None);
    assert_eq!(ask(&gateway, PLAIN).await.status, 200);
    let refused = ask(&gateway, PLAIN).await;
    assert_eq!((refused.status, refused.text().as_str()), (429, "Too Many Requests\n"));
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1790..=1800).contains(&wait), "{wait}");
    assert!(refused.header("ratelimit").unwrap().starts_with("\"app\";r=0;t="));
    assert_eq!(origin.requests().len(), 2);
    gateway.counts("portcullis_refusals_total", &["rate_limited"], 1.0).await;
    gateway.counts("portcullis_rate_limit_total", &["limit=\"app\"", "what=\"refused\""], 1.0).await;
    gateway.counts("portcullis_rate_limit_keys", &["limit=\"app\""], 1.0).await;
}

#[tokio::test]
async fn each_key_counts_what_it_names() {
    let first = "/x?user=1 HTTP/1.1\r\nHost: a\r\nX-User: 1\r\nCookie: id=1";
    for (key, other) in [
        ("client_ip", "/x?user=1 HTTP/1.1\r\nHost: a\r\nX-User: 1\r\nCookie: id=1\r\nX-Forwarded-For: 192.0.2.9"),
        ("host", "/x?user=1 HTTP/1.1\r\nHost: b\r\nX-User: 1\r\nCookie: id=1"),
        ("path", "/y?user=1 HTTP/1.1\r\nHost: a\r\nX-User: 1\r\nCookie: id=1"),
        ("header:x-user", "/x?user=1 HTTP/1.1\r\nHost: a\r\nX-User: 2\r\nCookie: id=1"),
        ("cookie:id", "/x?user=1 HTTP/1.1\r\nHost: a\r\nX-User: 1\r\nCookie: id=2"),
        ("query:user", "/x?user=2 HTTP/1.1\r\nHost: a\r\nX-User: 1\r\nCookie: id=1"),
    ] {
        let (gateway, _origin) = edge("", &format!("rate_limit = {{ rate = \"1/h\", key = \"{key}\" }}")).await;
        assert_eq!(statuses(&gateway, &[first, other, first, other]).await, [200, 200, 429, 429], "{key}");
    }
    let (gateway, _origin) = edge("", "rate_limit = { rate = \"1/h\", key = [\"header:x-user\", \"path\"] }").await;
    let other = "/y HTTP/1.1\r\nHost: a\r\nX-User: 1";
    assert_eq!(statuses(&gateway, &[first, other, first]).await, [200, 200, 429], "a tuple");
    assert_eq!(statuses(&gateway, &[PLAIN, PLAIN]).await, [200, 429], "leaving the header out is no way around");
}

#[tokio::test]
async fn several_limits_shared_ones_costs_and_shadows() {
    let objects = "[rate_limit.all]\nrate = \"4/h\"\nkey = \"host\"\n[rate_limit.heavy]\nrate = \"10/h\"\ncost = 5\nalgorithm = \"sliding_window\"\nkey = \"host\"\n[rate_limit.seen]\nrate = \"1/h\"\nmode = \"shadow\"\n";
    let rest = "rate_limit = [\"seen\", \"all\"]\n[route.app.rule.heavy]\npath = \"/heavy\"\nrate_limit = \"heavy\"\n";
    let (gateway, _origin) = edge(objects, rest).await;
    let heavy = "/heavy HTTP/1.1\r\nHost: a";
    assert_eq!(statuses(&gateway, &[heavy, heavy, heavy]).await, [200, 200, 429], "ten hold two fives");
    assert_eq!(statuses(&gateway, &[PLAIN, PLAIN]).await, [200, 429], "the route's own limit counted those above too");
    gateway.counts("portcullis_rate_limit_total", &["limit=\"seen\"", "what=\"shadowed\""], 4.0).await;
    let response = ask(&gateway, PLAIN).await;
    assert!(!response.header("ratelimit").unwrap().contains("seen"), "a shadow is not told");
}

#[tokio::test]
async fn counts_survive_a_reload_that_keeps_the_limit() {
    let (mut gateway, origin) = edge("", "rate_limit = { rate = \"2/h\" }\nconcurrency = 9").await;
    assert_eq!(statuses(&gateway, &[PLAIN, PLAIN, PLAIN]).await, [200, 200, 429]);
    let config = |limit: &str| {
        format!(
            "{LISTENER}[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\ntimeout = \"9s\"\nrate_limit = {limit}\n",
            origin.addr
        )
    };
    assert_eq!(gateway.reload(&config("{ rate = \"2/h\" }")).await.0, 200);
    assert_eq!(statuses(&gateway, &[PLAIN]).await, [429], "the same limit goes on");
    assert_eq!(gateway.reload(&config("{ rate = \"3/h\" }")).await.0, 200);
    assert_eq!(statuses(&gateway, &[PLAIN]).await, [200], "another one begins anew");
}

#[tokio::test]
async fn so_many_at_a_time() {
    let may_answer = Arc::new(Semaphore::new(0));
    let gate = may_answer.clone();
    let slow = Origin::raw(move |mut stream| {
        let gate = gate.clone();
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                gate.acquire().await.unwrap().forget();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let config = format!(
        "{LISTENER}[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\nconcurrency = 2\n",
        slow.addr
    );
    let gateway = Gateway::start(&config).await;
    for refused in [3.0, 6.0] {
        let asked = (0..5).map(|_| ask(&gateway, PLAIN));
        let answer_two = async {
            gateway.counts("portcullis_refusals_total", &["concurrency_limited"], refused).await;
            may_answer.add_permits(2);
        };
        let (mut all, ()) = tokio::join!(futures_all(asked), answer_two);
        all.sort_by_key(|response| response.status);
        assert_eq!(all.iter().map(|response| response.status).collect::<Vec<_>>(), [200, 200, 503, 503, 503]);
        assert_eq!(all[4].header("retry-after"), Some("1"));
        // The places of those that were answered are free again.
        gateway.counts("portcullis_requests_active", &["app"], 0.0).await;
    }
}

pub(crate) async fn futures_all<F: Future<Output = Response>>(all: impl Iterator<Item = F>) -> Vec<Response> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| match one.as_mut().poll(cx) {
            std::task::Poll::Ready(response) => {
                done.push(response);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

#[tokio::test]
async fn what_defaults_demand_is_relaxed_only_where_they_permit() {
    let objects =
        "[defaults]\nrate_limit = { rate = \"1/h\", key = \"path\" }\nconcurrency = 50\nmay_relax = [\"rate_limit\"]\n";
    let rest = "[route.app.rule.free]\npath = \"/free\"\nrelax = [\"rate_limit\"]\n";
    let (gateway, _origin) = edge(objects, rest).await;
    assert_eq!(statuses(&gateway, &[PLAIN, PLAIN]).await, [200, 429]);
    let free = "/free HTTP/1.1\r\nHost: a";
    assert_eq!(statuses(&gateway, &[free, free, free]).await, [200; 3]);

    let folder = tempfile::tempdir().unwrap();
    let base = "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n";
    for (text, message) in [
        (
            "[defaults]\nconcurrency = 1\n[route.app]\nupstream = \"app\"\nrelax = [\"concurrency\"]\n",
            "nothing above permits to relax `concurrency`",
        ),
        (
            "[defaults]\nmay_relax = [\"concurrency\"]\n[route.app]\nupstream = \"app\"\nrelax = [\"concurrency\"]\n",
            "there is no `concurrency` above to relax",
        ),
        (
            "[route.app]\nupstream = \"app\"\nrate_limit = \"al\"\n[rate_limit.all]\nrate = \"1/s\"\n",
            "did you mean `all`?",
        ),
        ("[route.app]\nupstream = \"app\"\nrate_limit = { rate = \"1/s\", store = \"shared\" }\n", "store"),
    ] {
        std::fs::write(folder.path().join("edge.toml"), format!("{base}{text}")).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message) && out.contains("\n1 error"), "{message}\n{out}");
    }
}

/// A Valkey or Redis of the test's own on a unix socket. `None`, said aloud, where none is installed.
pub(crate) struct Valkey {
    child: std::process::Child,
    folder: tempfile::TempDir,
}

impl Valkey {
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(more: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let run = |program: &str| {
            std::process::Command::new(program)
                .args(["--port", "0", "--save", "", "--unixsocket", "s"])
                .args(more)
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .spawn()
                .ok()
        };
        let Some(child) = ["valkey-server", "redis-server"].into_iter().find_map(run) else {
            eprintln!("NOT TESTED: neither valkey-server nor redis-server is installed here");
            return None;
        };
        Some(Self { child, folder })
    }

    pub(crate) fn table(&self, on_fail: &str) -> String {
        format!("[store.shared]\nvalkey = {{ nodes = [\"{}\"] }}\non_fail = \"{on_fail}\"\n", self.node())
    }

    pub(crate) fn node(&self) -> String {
        format!("unix:{}", self.folder.path().join("s").display())
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Valkey {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn two_gateways_count_together_until_the_store_dies() {
    for (on_fail, after) in [("local", [200, 200, 200, 429]), ("allow", [200; 4]), ("deny", [503; 4])] {
        let Some(valkey) = Valkey::start() else { return };
        let rest = "rate_limit = { rate = \"3/h\", key = \"path\", store = \"shared\" }";
        let (one, _a) = edge(&valkey.table(on_fail), rest).await;
        let (two, _b) = edge(&valkey.table(on_fail), rest).await;
        // A store that is not there yet is what `on_fail` is for; wait until both have it.
        for (name, gateway) in [("one", &one), ("two", &two)] {
            let head = format!("/warm-{name} HTTP/1.1\r\nHost: a");
            eventually("the store counts", async || {
                let before = gateway.metric("portcullis_store_failures_total", &[]).await;
                let status = ask(gateway, &head).await.status;
                let after = gateway.metric("portcullis_store_failures_total", &[]).await;
                (after == before && status != 503).then_some(())
            })
            .await;
        }
        let head = "/together HTTP/1.1\r\nHost: a";
        let mut together = statuses(&one, &[head, head]).await;
        together.extend(statuses(&two, &[head, head]).await);
        together.extend(statuses(&one, &[head]).await);
        assert_eq!(together, [200, 200, 200, 429, 429], "{on_fail}");
        drop(valkey);
        let head = "/alone HTTP/1.1\r\nHost: a";
        assert_eq!(statuses(&one, &[head; 4]).await, after, "{on_fail}");
        assert!(one.metric("portcullis_store_failures_total", &["store=\"shared\""]).await >= 4.0);
    }
}

/// An origin that serves two requests at a time, each in 30 ms; the others wait.
async fn two_at_a_time() -> Origin {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(2));
    Origin::raw(move |mut stream| {
        let places = places.clone();
        async move {
            use tokio::io::AsyncReadExt;
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                let place = places.acquire().await.unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
                drop(place);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_adaptive_limit_finds_what_the_origin_bears() {
    let origin = two_at_a_time().await;
    let config = format!(
        "{LISTENER}[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\nconcurrency = {{ max = 40, adaptive = true, min = 2 }}\n",
        origin.addr
    );
    let gateway = Gateway::start(&config).await;
    // Forty clients at once, again and again: all of them are let in at first, and the origin takes ever longer.
    eventually("the excess is refused", async || {
        let all = futures_all((0..40).map(|_| ask(&gateway, PLAIN))).await;
        let refused = all.iter().filter(|response| response.status == 503).count();
        let served = all.iter().filter(|response| response.status == 200).count();
        (refused >= 20 && served >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_process_short_of_cpu_sheds_with_503_and_its_admin_still_answers() {
    let (mut gateway, origin) = edge("", "").await;
    let config = |overload: &str| {
        format!(
            "[process.overload]\n{overload}\n{LISTENER}[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
            origin.addr
        )
    };
    // A tenth of the CPU that two threads have is soon used up by an unoptimised build.
    assert_eq!(gateway.reload(&config("cpu = \"10%\"\naction = \"shadow\"")).await.0, 200);
    let burst = async || futures_all((0..100).map(|_| ask(&gateway, PLAIN))).await;
    eventually("it would shed", async || {
        let all = burst().await;
        assert!(all.iter().all(|response| response.status == 200), "a shadow refuses nobody");
        (gateway.metric("portcullis_overload_shed_total", &["resource=\"cpu\"", "what=\"shadowed\""]).await > 0.0)
            .then_some(())
    })
    .await;
    assert_eq!(gateway.reload(&config("cpu = \"10%\"")).await.0, 200);
    let burst = async || futures_all((0..100).map(|_| ask(&gateway, PLAIN))).await;
    let shed = eventually("it sheds", async || burst().await.into_iter().find(|response| response.status == 503)).await;
    assert_eq!(shed.header("retry-after"), Some("1"));
    let (status, state) = gateway.admin("GET", "/status", "").await;
    assert_eq!(status, 200, "those who must look can");
    assert_eq!(state["overload"]["cpu"]["threshold"], "10%");
    assert!(gateway.metric("portcullis_refusals_total", &["overloaded"]).await >= 1.0);
    eventually("it is calm again", async || {
        let (_, state) = gateway.admin("GET", "/status", "").await;
        (state["overload"]["cpu"]["shedding"] == false || ask(&gateway, PLAIN).await.status == 200).then_some(())
    })
    .await;

    let folder = tempfile::tempdir().unwrap();
    for (overload, message) in [("", "overload"), ("cpu = \"100%\"", "99%"), ("memory = \"5%\"", "10%")] {
        std::fs::write(folder.path().join("edge.toml"), config(overload)).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message) && out.contains("\n1 error"), "{message}\n{out}");
    }
}

#[tokio::test]
async fn where_an_address_is_routes_counts_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let known = [("203.0.113.0/24", "DE"), ("198.51.100.0/24", "GB")];
    let countries = known.map(|(network, code)| (network, mmdb::country(code)));
    std::fs::write(folder.path().join("geo.mmdb"), mmdb::database(countries.into())).unwrap();
    let origin = Origin::echo().await;
    let config = format!(
        "{LISTENER}[geo]\nfile = \"geo.mmdb\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n\
         request_headers.set = {{ x-country = \"${{country}}\" }}\nrate_limit = {{ rate = \"2/h\", key = \"country\" }}\n\
         [route.app.rule.island]\nmatch.country = [\"GB\", \"IE\"]\nrespond = {{ status = 200, body = \"island\" }}\n",
        origin.addr
    );
    let gateway = Gateway::start_in(folder, &config).await;
    let from = async |address: &str| ask(&gateway, &format!("{PLAIN}\r\nX-Forwarded-For: {address}")).await;
    assert_eq!(from("198.51.100.7").await.text(), "island");
    assert_eq!(from("203.0.113.7").await.status, 200);
    assert_eq!(origin.last().header("x-country"), Some("DE"));
    assert_eq!(from("203.0.113.99").await.status, 200);
    assert_eq!(from("203.0.113.8").await.status, 429, "a country's two are spent");
    assert_eq!(from("192.0.2.1").await.status, 200, "nowhere is a place of its own");

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("not.mmdb"), "hello").unwrap();
    let base = "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n[route.app]\nupstream = \"app\"\n";
    for (rest, message) in [
        ("match.country = [\"GB\"]\n", "nothing says where an address is"),
        ("match.country = [\"uk\"]\n", "two capital letters"),
        ("rate_limit = { rate = \"1/s\", key = \"country\" }\n", "nothing says where an address is"),
        ("[geo]\nfile = \"not.mmdb\"\n", "no database in MaxMind's format"),
        ("match.country = [\"GB\"]\n[geo]\nfile = \"not.mmdb\"\n", "no database in MaxMind's format"),
    ] {
        std::fs::write(folder.path().join("edge.toml"), format!("{base}{rest}")).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message) && out.contains("\n1 error"), "{message}\n{out}");
    }
}
