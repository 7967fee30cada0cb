//! What the operating system asks of the process.

use std::io;
use tokio::signal::unix::{Signal as Source, SignalKind, signal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: open log files anew.
    ReopenLogs,
    /// SIGUSR2: start the new binary and hand over to it.
    Upgrade,
    /// SIGTERM, SIGINT, SIGQUIT: end; asked twice, end now.
    End,
}

#[derive(Debug)]
pub struct Signals {
    hup: Source,
    usr1: Source,
    usr2: Source,
    term: Source,
    int: Source,
    quit: Source,
}

impl Signals {
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hup.recv() => Signal::Reload,
            _ = self.usr1.recv() => Signal::ReopenLogs,
            _ = self.usr2.recv() => Signal::Upgrade,
            _ = self.term.recv() => Signal::End,
            _ = self.int.recv() => Signal::End,
            _ = self.quit.recv() => Signal::End,
        }
    }
}
