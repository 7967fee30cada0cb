//! `wait`: returns, or becomes the application, once the sidecar is ready.

use crate::{Application, When};
use clap::Args;
use portcullis_names::TimeSpan;
use portcullis_ops::admin;
use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub struct WaitArguments {
    /// The admin socket of the sidecar.
    #[arg(long, default_value = "run/admin.sock", env = "PORTCULLIS_ADMIN")]
    admin: PathBuf,
    /// How long to wait at most, like 60s.
    #[arg(long, default_value = "60s")]
    timeout: TimeSpan,
    /// The sidecar ends when the application does: for jobs.
    #[arg(long, requires = "exec")]
    job: bool,
    /// What to become: this process, with its id, is the application from then on.
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "COMMAND")]
    exec: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum WaitFailed {
    #[error("the sidecar was not ready within {within}: {why}")]
    NotReady { within: TimeSpan, why: String },
    #[error("the runtime cannot be started: {0}")]
    Runtime(std::io::Error),
    #[error("`{program}` cannot be started: {source}")]
    Exec { program: String, source: std::io::Error },
}

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// Does not return where the application takes its place.
pub fn wait(arguments: &WaitArguments) -> Result<(), WaitFailed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(WaitFailed::Runtime)?;
    runtime.block_on(ready(arguments))?;
    let Some((program, rest)) = arguments.exec.split_first() else { return Ok(()) };
    runtime.block_on(tell(arguments));
    drop(runtime);
    let source = Command::new(program).args(rest).exec();
    Err(WaitFailed::Exec { program: program.clone(), source })
}

async fn ready(arguments: &WaitArguments) -> Result<(), WaitFailed> {
    let latest = Instant::now() + arguments.timeout.get();
    loop {
        let why = match admin::call(&arguments.admin, "GET", "/ready", "").await {
            Ok((200, _)) => return Ok(()),
            Ok((status, body)) => format!("it answers {status} {}", body.trim()),
            Err(error) => error.to_string(),
        };
        if Instant::now() + PAUSE >= latest {
            return Err(WaitFailed::NotReady { within: arguments.timeout, why });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells the sidecar for whom it stays. An availability matter: without it the application starts all the same, and the sidecar
/// waits out its drain time instead.
async fn tell(arguments: &WaitArguments) {
    let when_it_ends = if arguments.job { When::End } else { When::ServeOn };
    let application = Application { pid: std::process::id().cast_signed(), when_it_ends };
    let body = serde_json::to_string(&application).unwrap_or_default();
    match admin::call(&arguments.admin, "POST", "/applications", &body).await {
        Ok((200, _)) => {}
        Ok((status, body)) => eprintln!("the sidecar does not watch this application: {status} {}", body.trim()),
        Err(error) => eprintln!("the sidecar does not watch this application: {error}"),
    }
}
