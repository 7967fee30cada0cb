//! A real `portcullis run` process in a folder of its own.

use super::{eventually, memory_group::MemoryGroup};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
};

/// A running gateway. Killed when dropped.
pub(crate) struct Gateway {
    pub folder: TempDir,
    child: Child,
    pub listeners: BTreeMap<String, SocketAddr>,
}

/// Puts the admin socket into the test's own folder, and keeps two cores so that SO_REUSEPORT is real.
const PREAMBLE: &str =
    "schema = \"1\"\n[process]\nthreads = 2\nupgrade = \"unix:upgrade.sock\"\n[admin]\naddress = \"unix:admin.sock\"\n";

pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_portcullis")
}

impl Gateway {
    /// Starts with `config` behind a preamble of process and admin, and waits until it is ready.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config).await
    }

    /// The same in a folder that already holds certificates and the like.
    pub(crate) async fn start_in(folder: TempDir, config: &str) -> Self {
        Self::start_with(folder, config, &[]).await
    }

    pub(crate) async fn start_with(folder: TempDir, config: &str, env: &[(&str, &str)]) -> Self {
        std::fs::write(folder.path().join("edge.toml"), format!("{PREAMBLE}{config}")).unwrap();
        Self::start_file(folder, env).await
    }

    /// The same in a control group.
    pub(crate) async fn start_in_group(group: &MemoryGroup, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("edge.toml"), format!("{PREAMBLE}{config}")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(group.folder()).arg(binary());
        Self::start_command(folder, command).await
    }

    pub(crate) async fn start_file(folder: TempDir, env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary());
        command.envs(env.iter().copied());
        Self::start_command(folder, command).await
    }

    async fn start_command(folder: TempDir, mut command: Command) -> Self {
        raise_open_files();
        let log = std::fs::File::create(folder.path().join("log.txt")).unwrap();
        let child = command
            .args(["run", "edge.toml"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut gateway = Self { folder, child, listeners: BTreeMap::new() };
        gateway.wait_ready().await;
        gateway
    }

    /// Ends it by SIGTERM, as an operator would, and starts it again in the same folder.
    pub(crate) async fn restart(mut self) -> Self {
        self.signal("-TERM");
        self.ended(Duration::from_secs(20)).await;
        Self::start_file(self.folder, &[]).await
    }

    async fn wait_ready(&mut self) {
        let folder = self.folder.path().to_owned();
        let child = &mut self.child;
        let listeners = eventually("the gateway is ready", async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!(
                    "the gateway ended with {status}:\n{}",
                    std::fs::read_to_string(folder.join("log.txt")).unwrap()
                );
            }
            let (status, why) = call(&folder, "GET", "/ready", "").await?;
            // A sidecar that waits for its identity has begun all the same.
            if status != 200 && why["reason"] != "no identity yet" {
                return None;
            }
            let (_, body) = call(&folder, "GET", "/listeners", "").await?;
            Some(addresses(&body))
        })
        .await;
        self.listeners = listeners;
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The address of a listener bound to port 0.
    pub(crate) fn addr(&self, listener: &str) -> SocketAddr {
        *self.listeners.get(listener).unwrap_or_else(|| panic!("no listener {listener} in {:?}", self.listeners))
    }

    pub(crate) async fn admin(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        call(self.path(), method, path, body).await.expect("the admin socket answers")
    }

    /// The same while the process may be changing hands.
    pub(crate) async fn try_admin(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        call(self.path(), method, path, body).await
    }

    pub(crate) async fn refresh_listeners(&mut self) {
        let (_, body) = self.admin("GET", "/listeners", "").await;
        self.listeners = addresses(&body);
    }

    /// Writes a new configuration and asks for a reload; gives the admin's answer.
    pub(crate) async fn reload(&mut self, config: &str) -> (u16, Value) {
        self.write(config);
        let answer = self.admin("POST", "/reload", "").await;
        self.refresh_listeners().await;
        answer
    }

    pub(crate) fn write(&self, config: &str) {
        self.write_as("edge.toml", config);
    }

    pub(crate) fn write_as(&self, name: &str, config: &str) {
        std::fs::write(self.path().join(name), format!("{PREAMBLE}{config}")).unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = std::process::Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> std::process::ExitStatus {
        tokio::time::timeout(within, self.child.wait()).await.expect("the process ends in time").unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log.txt")).unwrap()
    }

    /// The access log's records so far: whole lines of JSON in the process's output.
    pub(crate) fn records(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for the record that is meant: it is written after its answer was sent.
    pub(crate) async fn recorded(&self, what: &str, mut meant: impl FnMut(&Value) -> bool) -> Value {
        eventually(what, async || self.records().into_iter().find(&mut meant)).await
    }

    /// Runs a subcommand in the gateway's folder.
    pub(crate) async fn command(&self, arguments: &[&str]) -> (i32, String) {
        run_in(self.path(), arguments).await
    }

    pub(crate) async fn metrics(&self) -> String {
        let (status, body) = raw_call(self.path(), "GET", "/metrics", "").await.unwrap();
        assert_eq!(status, 200);
        body
    }

    /// The value of a metric line that contains all of `parts`, summed over such lines.
    pub(crate) async fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let text = self.metrics().await;
        text.lines()
            .filter(|line| line.starts_with(name) && parts.iter().all(|part| line.contains(part)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits for a metric's value: the record of a request is written after its answer was sent.
    pub(crate) async fn counts(&self, name: &str, parts: &[&str], expected: f64) {
        let mut last = f64::NAN;
        for _ in 0..200 {
            last = self.metric(name, parts).await;
            if last == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} {parts:?} is {last}, not {expected}");
    }
}

/// Of tests and of what they start: some want a thousand connections, of which each has two ends and both ends are here.
/// No more than that, since some programs close every number there could be.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const ENOUGH: u64 = 20_000;
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if now.current.is_some_and(|current| current < wanted) {
        // Where it cannot be, the tests that want many say so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum });
    }
}

/// Runs the program to its end: exit code and both outputs.
pub(crate) async fn run_in(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(binary()).args(arguments).current_dir(folder).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

fn addresses(body: &Value) -> BTreeMap<String, SocketAddr> {
    let listeners = body["listeners"].as_array().cloned().unwrap_or_default();
    listeners
        .iter()
        .filter_map(|listener| Some((listener["name"].as_str()?.to_owned(), listener["bound"].as_str()?.parse().ok()?)))
        .collect()
}

async fn call(folder: &Path, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let (status, body) = raw_call(folder, method, path, body).await?;
    Some((status, serde_json::from_str(&body).unwrap_or(Value::String(body))))
}

async fn raw_call(folder: &Path, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let socket: PathBuf = folder.join("admin.sock");
    let mut stream = UnixStream::connect(socket).await.ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { dechunk(body) } else { body.to_owned() };
    Some((status, body))
}

fn dechunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}
