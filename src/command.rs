//! What each command does.

use crate::{
    cli::{AdminSocket, ApiCommand, Cli, Command, Drain, FAILED, ForcedState, Format, REFUSED},
    demo,
};
use anyhow::{Context, Result, anyhow};
use portcullis_config::{Colour, Watcher, effective};
use portcullis_gateway::{Gateway, Question, Spec, StartError, Stop, check, explain};
use portcullis_ops::{
    admin,
    handover::{self, NamedSocket},
    log,
    signals::{Signal, Signals},
    systemd,
};
use serde_json::{Value, json};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};
use tokio::{runtime::Runtime, sync::Notify};

pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run { files, upgrade } => {
            log::start();
            control_runtime()?.block_on(serve(files, upgrade))
        }
        Command::Demo { folder, port, dns_port } => {
            log::start();
            control_runtime()?.block_on(demo::run(&folder, port, dns_port))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { files, format } => Ok(check_files(&files, format)),
        Command::Show { files, effective: _ } => Ok(show(&files)),
        Command::Schema => {
            println!("{:#}", portcullis_config::schema::<Spec>());
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain { method, url, headers, from, files, format, admin } => {
            let question = Question { method, url, headers, from };
            if files.is_empty() {
                ask_explain(&admin, &question, format)
            } else {
                Ok(explain_files(&files, &question, format))
            }
        }
        Command::Diff { files, admin } => {
            let files: Vec<_> =
                files.iter().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone())).collect();
            ask(&admin, "POST", "/diff", &json!({ "files": files }), |answer| text_of(&answer["text"]))
        }
        Command::Reload { admin } => ask(&admin, "POST", "/reload", &Value::Null, |answer| {
            format!(
                "generation {} is serving, {} objects changed\n",
                answer["generation"],
                answer["changes"].as_array().map_or(0, Vec::len)
            )
        }),
        Command::Status { admin } => ask(&admin, "GET", "/status", &Value::Null, |answer| format!("{answer:#}\n")),
        Command::Drain { what } => drain(what),
        Command::Force { upstream, address, state, admin } => force(&admin, &upstream, &address, state),
        Command::Ca { folder, what } => crate::ca::ca(&folder, what),
        Command::Egress { what } => crate::egress::egress(what),
        Command::Mesh { what } => crate::mesh::mesh(what),
        Command::Rollout { what } => crate::rollout::rollout(what),
        Command::Waf { what } => crate::waf::run(what),
        Command::Api { what: ApiCommand::Learn { from, route, title } } => {
            crate::api::learn(&from, route.as_deref(), &title)
        }
        Command::Privacy { format, admin } => crate::privacy::privacy(&admin, format),
        Command::Gslb { what } => crate::gslb::gslb(what),
        Command::Upgrade { admin } => upgrade(&admin),
        Command::Certificate { names, folder, name } => {
            let name = name.unwrap_or_else(|| names.first().cloned().unwrap_or_default().replace('*', "wildcard"));
            demo::authority::issue(&folder, &name, &names)?;
            println!("wrote ca.crt, {name}.crt and {name}.key to {}", folder.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Admin, probes, reloads and signals; requests are served by the cores' own runtimes.
fn control_runtime() -> Result<Runtime> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build();
    runtime.context("the control runtime cannot be started")
}

async fn serve(files: Vec<PathBuf>, upgrade: bool) -> Result<ExitCode> {
    let predecessor = if upgrade {
        let path = check(&files).map(|compiled| compiled.fixed.upgrade.clone());
        match path {
            Ok(path) => Some(
                handover::take(&path).with_context(|| format!("no sockets can be taken over at {}", path.display()))?,
            ),
            Err(report) => return Ok(refused(&report)),
        }
    } else {
        None
    };
    let (sockets, predecessor) = match predecessor {
        Some(mut received) => (std::mem::take(&mut received.sockets), Some(received)),
        None => (systemd::sockets(), None),
    };
    let gateway = match Gateway::start(files, sockets) {
        Ok(gateway) => gateway,
        Err(StartError::Config(report)) => return Ok(refused(&report)),
        Err(error) => return Err(error.into()),
    };
    if let Some(predecessor) = predecessor {
        predecessor.ready().context("the predecessor is gone")?;
    }
    let serving = Serving::new(gateway.clone()).await?;
    let handed_over = serving.handed_over.clone();
    // What starting took; what serving needs comes back by itself.
    portcullis_proxy::footprint::give_back();
    let stop = tokio::select! {
        stop = signals(&gateway) => stop?,
        () = handed_over.notified() => Stop::HandedOver,
        () = gateway.quits() => Stop::Close,
        () = serving.run() => Stop::Close,
    };
    tracing::info!(?stop, "draining");
    let mut again = Signals::listen()?;
    tokio::select! {
        cut = gateway.stop(stop) => tracing::info!(cut, "ended"),
        () = async { while again.next().await != Signal::End {} } => tracing::warn!("ended at once, as asked twice"),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn refused(report: &portcullis_config::Report) -> ExitCode {
    eprint!("{}", report.render(colour()));
    ExitCode::from(REFUSED)
}

/// For the demo, which shows its own report.
pub(crate) fn start(files: Vec<PathBuf>, sockets: Vec<NamedSocket>) -> Result<Gateway> {
    Gateway::start(files, sockets).map_err(|error| match error {
        StartError::Config(report) => anyhow!("{}", report.render(colour())),
        other => other.into(),
    })
}

/// What runs beside the data path: the admin socket, metrics, the watcher, and the door for a successor.
pub(crate) struct Serving {
    gateway: Gateway,
    admin: tokio::net::UnixListener,
    metrics: Option<tokio::net::TcpListener>,
    pub(crate) handed_over: Arc<Notify>,
}

impl Serving {
    pub(crate) async fn new(gateway: Gateway) -> Result<Self> {
        let fixed = gateway.compiled().fixed.clone();
        let admin = bind_admin(&fixed.admin).await?;
        let metrics = match &fixed.metrics {
            None => None,
            Some(address) => {
                let address = address.to_string().replace("[::]", "").trim_start_matches(':').to_owned();
                let address = if address.parse::<u16>().is_ok() { format!("[::]:{address}") } else { address };
                Some(
                    tokio::net::TcpListener::bind(&address)
                        .await
                        .with_context(|| format!("metrics cannot listen on {address}"))?,
                )
            }
        };
        let handed_over = Arc::new(Notify::new());
        open_door(&gateway, &fixed.upgrade, handed_over.clone())?;
        Ok(Self { gateway, admin, metrics, handed_over })
    }

    /// Runs until the future is dropped.
    pub(crate) async fn run(self) {
        let router = self.gateway.router();
        let admin = admin::serve(self.admin, router);
        let exposition = self.gateway.clone();
        let metrics = async {
            match self.metrics {
                None => std::future::pending().await,
                Some(listener) => {
                    let router = axum::Router::new()
                        .route("/metrics", axum::routing::get(|| async move { exposition.metrics() }));
                    axum::serve(listener, router).await
                }
            }
        };
        tokio::select! {
            ended = admin => tracing::error!(?ended, "the admin socket ended"),
            ended = metrics => tracing::error!(?ended, "the metrics listener ended"),
            () = watch(&self.gateway) => {}
        }
    }
}

/// A successor takes the path over from its predecessor, which still answers there.
async fn bind_admin(path: &Path) -> Result<tokio::net::UnixListener> {
    if std::env::args().any(|argument| argument == "--upgrade") {
        let _ = std::fs::remove_file(path);
    }
    admin::bind(path).await.with_context(|| format!("the admin socket {} cannot be opened", path.display()))
}

async fn watch(gateway: &Gateway) {
    let mut watcher = Watcher::of(gateway.watched());
    loop {
        watcher.changed().await;
        let reloading = gateway.clone();
        let reloaded = tokio::task::spawn_blocking(move || {
            let _ = reloading.reload("file");
            reloading.watched()
        });
        if let Ok(watched) = reloaded.await {
            watcher.watch(watched);
        }
    }
}

/// A thread that waits for a successor; blocking I/O, because it happens once in a process's life.
fn open_door(gateway: &Gateway, path: &Path, handed_over: Arc<Notify>) -> Result<()> {
    let listener =
        handover::listen(path).with_context(|| format!("the upgrade socket {} cannot be opened", path.display()))?;
    let gateway = gateway.clone();
    std::thread::Builder::new().name("upgrade".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            match gateway.hand_over(&mut stream) {
                Ok(()) => {
                    handed_over.notify_one();
                    return;
                }
                Err(error) => tracing::warn!(%error, "a successor did not take over; serving on"),
            }
        }
    })?;
    Ok(())
}

async fn signals(gateway: &Gateway) -> Result<Stop> {
    let mut signals = Signals::listen().context("signals cannot be received")?;
    loop {
        match signals.next().await {
            Signal::End => return Ok(Stop::Close),
            Signal::Reload => {
                let gateway = gateway.clone();
                let _ = tokio::task::spawn_blocking(move || gateway.reload("SIGHUP")).await;
            }
            Signal::ReopenLogs => gateway.reopen_logs(),
            Signal::Upgrade => {
                if let Err(error) = spawn_successor() {
                    tracing::error!(%error, "the successor cannot be started; serving on");
                }
            }
        }
    }
}

/// The same program file, the same arguments, and `--upgrade`.
fn spawn_successor() -> Result<()> {
    let program = std::env::current_exe()?;
    let mut arguments: Vec<_> = std::env::args_os().skip(1).filter(|argument| argument != "--upgrade").collect();
    arguments.push("--upgrade".into());
    // A replaced file shows up as "NAME (deleted)".
    let program = match program.to_string_lossy().strip_suffix(" (deleted)") {
        Some(path) => PathBuf::from(path),
        None => program,
    };
    std::process::Command::new(program).args(arguments).spawn()?;
    Ok(())
}

fn check_files(files: &[PathBuf], format: Format) -> ExitCode {
    let outcome = check(files);
    let (report, code) = match &outcome {
        Ok(compiled) => (&compiled.report, ExitCode::SUCCESS),
        Err(report) => (report, ExitCode::from(REFUSED)),
    };
    match format {
        Format::Text => print!("{}", report.render(colour())),
        Format::Json => println!("{:#}", report.to_json()),
    }
    code
}

fn show(files: &[PathBuf]) -> ExitCode {
    match check(files) {
        Ok(compiled) => {
            print!("{}", effective(&compiled.effective(), &compiled.document));
            ExitCode::SUCCESS
        }
        Err(report) => refused(&report),
    }
}

fn explain_files(files: &[PathBuf], question: &Question, format: Format) -> ExitCode {
    let compiled = match check(files) {
        Ok(compiled) => compiled,
        Err(report) => return refused(&report),
    };
    match explain(&compiled, question) {
        Ok(explanation) => {
            match format {
                Format::Text => print!("{explanation}"),
                Format::Json => println!("{:#}", json!(explanation)),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn ask_explain(admin: &AdminSocket, question: &Question, format: Format) -> Result<ExitCode> {
    ask(admin, "POST", "/explain", &json!(question), |answer| match format {
        Format::Text => text_of(&answer["text"]),
        Format::Json => format!("{:#}\n", answer["explanation"]),
    })
}

fn force(admin: &AdminSocket, upstream: &str, address: &str, state: ForcedState) -> Result<ExitCode> {
    let (word, effect) = match state {
        ForcedState::Auto => ("auto", "serves as its health says"),
        ForcedState::Drained => ("drained", "drains"),
        ForcedState::Up => ("up", "is up, whatever its health says"),
        ForcedState::Down => ("down", "is down"),
    };
    let body = json!({ "upstream": upstream, "address": address, "state": word });
    ask(admin, "POST", "/force/endpoint", &body, |_| format!("{address} of {upstream} {effect}\n"))
}

fn drain(what: Drain) -> Result<ExitCode> {
    match what {
        Drain::Endpoint { upstream, address, undo, admin } => {
            force(&admin, &upstream, &address, if undo { ForcedState::Auto } else { ForcedState::Drained })
        }
        Drain::Listener { name, admin } => {
            ask(&admin, "POST", "/drain/listener", &json!({ "name": name }), |_| format!("listener {name} drains\n"))
        }
    }
}

/// The running process starts its successor when asked by SIGUSR2; its id is in the status.
fn upgrade(admin: &AdminSocket) -> Result<ExitCode> {
    let (status, body) = call(admin, "GET", "/status", &Value::Null)?;
    let pid = body["pid"].as_u64().ok_or_else(|| anyhow!("status {status} without a process id"))?;
    let signalled = std::process::Command::new("kill").args(["-USR2", &pid.to_string()]).status()?;
    if !signalled.success() {
        return Err(anyhow!("process {pid} cannot be signalled"));
    }
    println!("process {pid} starts its successor");
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn ask(
    admin: &AdminSocket,
    method: &str,
    target: &str,
    body: &Value,
    show: impl Fn(&Value) -> String,
) -> Result<ExitCode> {
    let (status, answer) = call(admin, method, target, body)?;
    if status == 200 {
        print!("{}", show(&answer));
        return Ok(ExitCode::SUCCESS);
    }
    let text = answer["text"].as_str().or(answer["error"].as_str()).map_or_else(|| answer.to_string(), str::to_owned);
    eprintln!("{text}");
    Ok(ExitCode::from(REFUSED))
}

pub(crate) fn call(admin: &AdminSocket, method: &str, target: &str, body: &Value) -> Result<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, text) = runtime.block_on(admin::call(&admin.admin, method, target, &body))?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

pub(crate) fn text_of(value: &Value) -> String {
    let mut text = value.as_str().unwrap_or_default().to_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

pub(crate) fn colour() -> Colour {
    if std::io::stdout().is_terminal() && std::io::stderr().is_terminal() { Colour::Ansi } else { Colour::Plain }
}
