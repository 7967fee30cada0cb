//! A program of the operator's that says by its end how a member is: 0 is well.

use crate::Failure;
use std::{net::SocketAddr, process::Stdio, sync::LazyLock};
use tokio::{process::Command, sync::Semaphore};

/// Programs at a time: a process costs more than a packet.
const AT_ONCE: usize = 16;
static RUNNING: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(AT_ONCE));

pub(super) async fn ask(words: &[String], member: Option<SocketAddr>) -> Result<(), Failure> {
    let Some((program, arguments)) = words.split_first() else { return Err(Failure::NoWord) };
    let Ok(_permit) = RUNNING.acquire().await else { return Err(Failure::NoWord) };
    let mut command = Command::new(program);
    // Of our own environment it needs the way to programs, and nothing that may be secret.
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    if let Some(member) = member {
        command.env("ADDRESS", member.ip().to_string()).env("PORT", member.port().to_string());
    }
    // One that hangs ends with its time.
    let status = command.kill_on_drop(true).status().await.map_err(|_| Failure::NoWord)?;
    if status.success() { Ok(()) } else { Err(Failure::Exit(status.code().unwrap_or(-1))) }
}
