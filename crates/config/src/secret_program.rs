//! Runs the programs that print secrets, `{ command = […] }`: no shell, a deadline, an end to what they may print. Neither
//! what they print nor what they complain of enters an error.

use portcullis_names::SecretCommand;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};
use std::{
    collections::HashMap,
    fmt, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// The answers of one reading of a configuration: what is named at several places is run once.
#[derive(Default)]
pub(crate) struct SecretPrograms {
    answers: HashMap<(SecretCommand, PathBuf), Result<Vec<u8>, String>>,
    spent: Duration,
}

/// Why there is no secret. Says how the program ended and nothing of what it said.
#[derive(Debug, thiserror::Error)]
enum NoSecret {
    #[error("cannot be started: {0}")]
    NotStarted(io::Error),
    #[error("did not end within {0:?}")]
    Late(Duration),
    #[error("was not run: the commands before it took the {ALL_WITHIN:?} that all have together")]
    NoTimeLeft,
    #[error("printed more than {} KiB", ANSWER_MAX >> 10)]
    TooLong,
    #[error("ended with {0}")]
    Ended(ExitStatus),
    #[error("printed nothing")]
    Nothing,
    #[error("cannot be heard: {0}")]
    Unheard(io::Error),
}

/// A reload waits for it, and the next file that changes as well.
const WITHIN: Duration = Duration::from_secs(5);
/// All programs of one configuration, which are run one after the other.
const ALL_WITHIN: Duration = Duration::from_secs(30);
/// No key, token or chain is longer.
const ANSWER_MAX: usize = 64 << 10;
/// Between looks whether a program that closed its output has ended, which mostly is at once.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);
/// What a service manager tells this process alone: a program that took these at their word would speak in our name.
const NOT_FOR_CHILDREN: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

impl SecretPrograms {
    /// What the program prints, run in `folder`. The error is the end of a sentence about it.
    pub(crate) fn answer(&mut self, command: &SecretCommand, folder: &Path) -> Result<Vec<u8>, String> {
        let key = (command.clone(), folder.to_owned());
        if let Some(answer) = self.answers.get(&key) {
            return answer.clone();
        }
        let begin = Instant::now();
        let within = WITHIN.min(ALL_WITHIN.saturating_sub(self.spent));
        let answer = if within.is_zero() { Err(NoSecret::NoTimeLeft) } else { run(command, folder, within) };
        self.spent += begin.elapsed();
        let answer = answer.map_err(|error| error.to_string());
        self.answers.insert(key, answer.clone());
        answer
    }
}

/// The answers are secrets.
impl fmt::Debug for SecretPrograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretPrograms").field("spent", &self.spent).finish_non_exhaustive()
    }
}

fn run(command: &SecretCommand, folder: &Path, within: Duration) -> Result<Vec<u8>, NoSecret> {
    let until = Instant::now() + within;
    let program = Program::start(command, folder).map_err(NoSecret::NotStarted)?;
    let heard = program.hear(until).and_then(|answer| program.wait(until).map(|()| answer));
    // Whatever was heard: nothing of it is left running.
    let status = program.end().map_err(NoSecret::Unheard)?;
    let mut answer = heard.map_err(|silence| match silence {
        Silence::Late => NoSecret::Late(within),
        Silence::TooLong => NoSecret::TooLong,
        Silence::Failed(error) => NoSecret::Unheard(error.into()),
    })?;
    if !status.success() {
        return Err(NoSecret::Ended(status));
    }
    if answer.ends_with(b"\n") {
        answer.pop();
    }
    if answer.is_empty() { Err(NoSecret::Nothing) } else { Ok(answer) }
}

/// A program that runs, in a process group of its own. It has to be told to [`Program::end`].
struct Program {
    child: Child,
    output: ChildStdout,
}

/// Why a program that runs is not heard out.
enum Silence {
    Late,
    TooLong,
    Failed(Errno),
}

impl Program {
    fn start(command: &SecretCommand, folder: &Path) -> io::Result<Self> {
        let mut start = Command::new(command.program());
        start.args(command.arguments()).process_group(0);
        start.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A file that is named without a folder has an empty one: it is in ours.
        if !folder.as_os_str().is_empty() {
            start.current_dir(folder);
        }
        for name in NOT_FOR_CHILDREN {
            start.env_remove(name);
        }
        let mut child = start.spawn()?;
        let output = child.stdout.take().expect("a pipe was asked for");
        Ok(Self { child, output })
    }

    /// All that it prints.
    fn hear(&self, until: Instant) -> Result<Vec<u8>, Silence> {
        // One allocation: a vector that grows leaves copies of a secret behind.
        let mut heard = Vec::with_capacity(ANSWER_MAX + 1);
        loop {
            self.wait_for_output(until)?;
            match rustix::io::read(&self.output, rustix::buffer::spare_capacity(&mut heard)) {
                Ok(0) => return Ok(heard),
                Ok(_) if heard.len() > ANSWER_MAX => return Err(Silence::TooLong),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Silence::Failed(error)),
            }
        }
    }

    fn wait_for_output(&self, until: Instant) -> Result<(), Silence> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|_| Silence::Late)?;
            match poll(&mut [PollFd::new(&self.output, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(Silence::Late),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Silence::Failed(error)),
            }
        }
    }

    /// It has closed its output: now it has to end as well. It is not reaped, so that its number stays its own.
    fn wait(&self, until: Instant) -> Result<(), Silence> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let own = Pid::from_child(&self.child);
        while waitid(WaitId::Pid(own), options).map_err(Silence::Failed)?.is_none() {
            if Instant::now() >= until {
                return Err(Silence::Late);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Ok(())
    }

    /// Kills it, if it has not ended, and what it started and left behind; and reaps it.
    fn end(mut self) -> io::Result<ExitStatus> {
        // It fails when there is nobody left.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.child.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(words: &[&str]) -> Result<String, String> {
        let command = SecretCommand::new(words.iter().map(|word| (*word).to_owned())).unwrap();
        let answer = SecretPrograms::default().answer(&command, Path::new(""));
        answer.map(|answer| String::from_utf8(answer).unwrap())
    }

    #[test]
    fn what_is_printed_is_the_secret_less_one_line_break() {
        let full = "x".repeat(ANSWER_MAX);
        for (script, answer) in [
            ("echo hunter2", "hunter2"),
            ("printf hunter2", "hunter2"),
            ("printf 'a\\n\\n'", "a\n"),
            ("printf ' a b '", " a b "),
            ("printf a; sleep 0.05; printf b; exec >&-; sleep 0.05", "ab"),
            // Nothing is there to be read, and what it complains of is not heard.
            ("cat; echo no >&2; echo yes", "yes"),
            (&format!("head -c {ANSWER_MAX} /dev/zero | tr '\\0' x"), &full),
        ] {
            assert_eq!(told(&["/bin/sh", "-c", script]).as_deref(), Ok(answer), "{script}");
        }
        // There is no shell but the one that is named.
        assert_eq!(told(&["/bin/echo", "$HOME; *", "b"]).as_deref(), Ok("$HOME; * b"));
    }

    #[test]
    fn a_program_that_fails_is_told_by_its_end_and_never_by_its_words() {
        let long = format!("head -c {} /dev/zero | tr '\\0' x", ANSWER_MAX + 1);
        for (words, why) in [
            (&["/bin/sh", "-c", "echo hunter2; echo hunter2 >&2; exit 3"][..], "ended with exit status: 3"),
            (&["/bin/sh", "-c", "echo hunter2; kill -9 $$"], "ended with signal: 9"),
            (&["/bin/sh", "-c", "echo"], "printed nothing"),
            (&["/bin/true"], "printed nothing"),
            (&["/bin/sh", "-c", &long], "printed more than 64 KiB"),
            (&["/bin/sh", "-c", "yes hunter2"], "printed more than 64 KiB"),
            (&["/nonexistent/vault"], "cannot be started"),
            (&["/"], "cannot be started"),
        ] {
            let error = told(words).unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{words:?}: {error}");
        }
    }

    #[test]
    fn one_that_hangs_ends_with_its_time_and_all_that_it_started() {
        for script in ["echo $$; exec sleep 600", "echo $$; exec >&-; sleep 600", "echo $$; sleep 600 & echo"] {
            let folder = tempfile::tempdir().unwrap();
            let script = script.replace("echo $$", "echo $$ > pid");
            let command = SecretCommand::new(["/bin/sh", "-c", &script].map(str::to_owned)).unwrap();
            let error = run(&command, folder.path(), Duration::from_secs(2)).unwrap_err();
            assert_eq!(error.to_string(), "did not end within 2s", "{script}");
            let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
            let group = pid.trim().to_owned();
            let gone = (0..500).any(|_| {
                std::thread::sleep(BETWEEN_LOOKS);
                !is_running(&group)
            });
            assert!(gone, "{script}");
            assert!(!Path::new("/proc").join(&group).exists(), "{script}: it has been reaped");
        }
    }

    /// Whether something of the group runs: an orphan that nobody has reaped so far is no more than an entry in a table.
    fn is_running(group: &str) -> bool {
        let processes = std::fs::read_dir("/proc").unwrap();
        let stats = processes.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
        // proc(5): behind the name, which may have anything in it, are the state, the parent and the group.
        stats.filter_map(|stat| Some(stat.rsplit_once(") ")?.1.to_owned())).any(|rest| {
            let fields: Vec<&str> = rest.split(' ').collect();
            fields[2] == group && !["Z", "X"].contains(&fields[0])
        })
    }

    #[test]
    fn the_same_command_is_run_once_a_reading() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo x >> runs; wc -l < runs";
        let command = SecretCommand::new(["/bin/sh", "-c", script].map(str::to_owned)).unwrap();
        let mut programs = SecretPrograms::default();
        let mut ask = || programs.answer(&command, folder.path());
        assert_eq!((ask(), ask()), (Ok(b"1".to_vec()), Ok(b"1".to_vec())));
        assert_eq!(SecretPrograms::default().answer(&command, folder.path()), Ok(b"2".to_vec()));
    }

    #[test]
    fn all_of_a_reading_have_an_end() {
        let mut programs = SecretPrograms { spent: ALL_WITHIN, ..SecretPrograms::default() };
        let command = SecretCommand::new(["/bin/echo", "a"].map(str::to_owned)).unwrap();
        let error = programs.answer(&command, Path::new("")).unwrap_err();
        assert!(error.contains("was not run") && error.contains("30s"), "{error}");
        assert!(!format!("{programs:?}").contains("echo"));
    }
}
