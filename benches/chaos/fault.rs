//! What goes wrong, and how an origin acts it out.

use clap::ValueEnum;
use std::fmt;

/// What happens to one origin of the four, or to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Its process is gone: connections break, new ones are refused.
    Killed,
    /// SIGSTOP: the kernel accepts, nobody answers.
    Paused,
    /// No answer to a SYN, and none on connections that were there.
    BlackHoled,
    /// Answers after a second.
    Slow,
    /// RST after half of the body.
    Reset,
    /// Closes instead of answering.
    Closes,
    #[value(name = "500")]
    Status500,
    #[value(name = "503")]
    Status503,
    /// Octets that are no HTTP.
    Garbage,
    /// FIN after half of the body.
    Truncated,
    /// Dies and comes back every second.
    Flapping,
    /// All four are gone, then back.
    AllDead,
}

/// What an origin does at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Well,
    /// No listener, no connections.
    Down,
    BlackHole,
    /// Only of the child process.
    Stopped,
    Slow,
    Reset,
    Closes,
    Status(u16),
    Garbage,
    Truncated,
}

impl Fault {
    pub(crate) const ALL: [Self; 12] = [
        Self::Killed,
        Self::Paused,
        Self::BlackHoled,
        Self::Slow,
        Self::Reset,
        Self::Closes,
        Self::Status500,
        Self::Status503,
        Self::Garbage,
        Self::Truncated,
        Self::Flapping,
        Self::AllDead,
    ];

    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::Killed | Self::Flapping | Self::AllDead => Mode::Down,
            Self::Paused => Mode::Stopped,
            Self::BlackHoled => Mode::BlackHole,
            Self::Slow => Mode::Slow,
            Self::Reset => Mode::Reset,
            Self::Closes => Mode::Closes,
            Self::Status500 => Mode::Status(500),
            Self::Status503 => Mode::Status(503),
            Self::Garbage => Mode::Garbage,
            Self::Truncated => Mode::Truncated,
        }
    }
}

impl Mode {
    /// A connection attempt is all that such an origin gets to see of a request.
    pub(crate) fn is_deaf(self) -> bool {
        matches!(self, Self::Down | Self::BlackHole | Self::Stopped)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().as_ref().map_or("?", |value| value.get_name()))
    }
}
