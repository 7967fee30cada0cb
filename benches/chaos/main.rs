//! Faults on purpose: the same origins fail in the same way behind portcullis, nginx and haproxy, each with its defaults,
//! while clients keep asking at a steady pace. Counts what the clients saw and what the sick origin got.
//!
//! `cargo bench --profile dist --bench chaos -- [--only killed,paused] [--rate 100] [--fault 8] [--patience 40]`; the binary
//! is the one that cargo built in the same profile, or `PORTCULLIS=path`. A proxy that is not installed is left out, aloud.

mod client;
mod fault;
mod origin;
mod proxy;
mod scene;
mod wiretap;

use clap::Parser;
use fault::Fault;
use proxy::Settings;
use scene::{Row, Scene};
use std::{process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Portcullis beside nginx and haproxy under faults.
#[derive(Debug, Parser)]
struct Arguments {
    /// Faults, by name.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Fault>,
    /// Proxies, by name.
    #[arg(long, value_delimiter = ',', value_enum)]
    proxies: Vec<proxy::Kind>,
    /// Requests a second through each proxy; every fifth is a POST.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds that a fault lasts.
    #[arg(long, default_value_t = 8)]
    fault: u64,
    /// Seconds after the repair to wait at most for the origin's next request.
    #[arg(long, default_value_t = 40)]
    patience: u64,
    /// Lines for portcullis's upstream, to see what a setting does: `--upstream 'balance.policy = "least_request"'`.
    #[arg(long, default_value = "")]
    upstream: String,
    /// Lines for portcullis's route: `--route 'retry.on = ["connect", "reset", "gateway"]'`.
    #[arg(long, default_value = "")]
    route: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the origin that a fault stops with SIGSTOP, on the listener's port.
    #[arg(long, hide = true)]
    origin: bool,
}

fn main() -> ExitCode {
    // `cargo test --all-targets` runs this without arguments: minutes of faults are not a test.
    if std::env::args_os().len() == 1 {
        println!("chaos: runs with `cargo bench --bench chaos`");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.and_then(|runtime| {
        runtime.block_on(async {
            match arguments.origin {
                true => origin::be_child().await,
                // Interrupted, it ends here, and with it whatever it started.
                false => tokio::select! {
                    done = run(&arguments) => done,
                    told = told_to_end() => told.and(Err(std::io::ErrorKind::Interrupted.into())),
                },
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn told_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

async fn run(arguments: &Arguments) -> std::io::Result<()> {
    let folder = tempfile::tempdir()?;
    // nginx reads its configuration as root and works as somebody else.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let tap = wiretap::Wiretap::start();
    let faults = if arguments.only.is_empty() { Fault::ALL.to_vec() } else { arguments.only.clone() };
    let kinds = if arguments.proxies.is_empty() { proxy::Kind::ALL.to_vec() } else { arguments.proxies.clone() };
    let kinds: Vec<proxy::Kind> = kinds.into_iter().filter(|kind| kind.is_there()).collect();
    let scene = Scene {
        rate: arguments.rate,
        lasts: Duration::from_secs(arguments.fault),
        patience: Duration::from_secs(arguments.patience),
        folder: folder.path(),
        settings: Settings { upstream: &arguments.upstream, route: &arguments.route },
        tap: &tap,
    };
    println!("{}", Row::HEADER);
    for fault in faults {
        for row in scene.play(fault, &kinds).await? {
            println!("{row}");
        }
    }
    Ok(())
}
