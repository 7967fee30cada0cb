//! A store of the test's own: a child process on a socket in a temporary directory.

use portcullis_config::{Context, Document, Path};
use portcullis_limit::{Key, Known, RateLimit, RateLimitSpec};
use portcullis_names::ObjectName;
use portcullis_store::{Store, StoreConfig, StoreSpec};
use portcullis_tls::{Certificates, TrustSpec, Trusts};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) struct Server {
    pub(crate) directory: tempfile::TempDir,
    program: &'static str,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// `None`, said loudly, where no server is installed.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        let installed = |program: &&'static str| {
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        let Some(program) = ["valkey-server", "redis-server"].into_iter().find(|program| installed(program)) else {
            eprintln!("NOT TESTED: neither valkey-server nor redis-server is installed here");
            return None;
        };
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut server = Self { directory: tempfile::tempdir().unwrap(), program, arguments, child: None };
        server.restart();
        Some(server)
    }

    pub(crate) fn socket(&self) -> String {
        self.directory.path().join("s").display().to_string()
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        let (socket, directory) = (self.socket(), self.directory.path().display().to_string());
        let mut command = Command::new(self.program);
        command.args(["--port", "0", "--unixsocket", &socket, "--dir", &directory, "--save", "", "--appendonly", "no"]);
        command.args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        eventually("the server listens", || UnixStream::connect(&socket).is_ok());
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let child = self.child.as_ref().unwrap();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Polls, patiently: the machine may be busy.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: not in 20 seconds");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Spec {
    store: Option<StoreSpec>,
    #[serde(default)]
    trust: BTreeMap<ObjectName, TrustSpec>,
    rate_limit: Option<RateLimitSpec>,
}

/// The store, or the report's lines.
pub(crate) fn store_config(value: &str) -> Result<StoreConfig, Vec<String>> {
    store_config_of(&format!("store = {value}"))
}

/// As above, from a whole document.
pub(crate) fn store_config_of(document: &str) -> Result<StoreConfig, Vec<String>> {
    let (spec, mut cx) = read(document);
    let at = Path::root().key("store");
    let config = spec.and_then(|spec| {
        let trusts = Trusts::compile(&spec.trust, &mut cx);
        spec.store?.compile(&Certificates::default(), &trusts, &at, &mut cx)
    });
    let (report, _) = cx.finish();
    if report.has_errors() { Err(report.lines()) } else { Ok(config.unwrap()) }
}

pub(crate) fn limit(value: &str) -> RateLimit {
    let (spec, mut cx) = read(&format!("rate_limit = {value}"));
    let known = Known { limits: &BTreeMap::new(), stores: &BTreeSet::new(), previous: &BTreeMap::new() };
    let at = Path::root().key("rate_limit");
    spec.unwrap().rate_limit.unwrap().compile("api", &known, Instant::now(), &at, &mut cx).unwrap()
}

fn read(text: &str) -> (Option<Spec>, Context) {
    let (document, report) = Document::parse("edge.toml", text);
    Arc::new(document).read::<Spec>(report, &[])
}

/// A patient client: what is tested is not this machine's speed.
pub(crate) fn store(server: &Server) -> Store {
    let value = format!("{{ valkey = {{ nodes = [\"unix:{}\"], timeout = \"10s\" }} }}", server.socket());
    Store::start(store_config(&value).unwrap(), &tokio::runtime::Handle::current())
}

pub(crate) fn key(part: &str) -> Key {
    [Some(part.as_bytes())].into_iter().collect()
}
