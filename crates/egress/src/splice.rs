//! Moves a tunnel's octets inside the kernel: socket to pipe to socket by splice(2), without a copy in this process.
//!
//! Pipes are held only while octets are in flight and come from a pool with an end, because the kernel gives an
//! unprivileged user 64 MiB of them in all (`fs.pipe-user-pages-soft`) and beyond that pages so small that all tunnels
//! crawl. Without a pipe, or where splice does not work, octets are copied. By rustix's safe calls; no `unsafe` here.

use crate::Reason;
use rustix::{
    net::{Shutdown, shutdown, sockopt},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{io::Interest, net::TcpStream};

/// Pipes at rest, for all tunnels of a process or thread.
#[derive(Debug)]
pub struct PipePool {
    idle: Mutex<Vec<Pipe>>,
    max: usize,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
}

/// Measured: 64 KiB costs half as much again per octet, 1 MiB saves little more and uses up the user's share soon.
const PIPE_BYTES: usize = 256 << 10;
/// What the kernel gives who has used up its share; copying is then cheaper.
const PIPE_BYTES_MIN: usize = 64 << 10;
const COPY_BYTES: usize = 16 << 10;

impl PipePool {
    /// At most `max` pipes at rest.
    pub fn new(max: usize) -> Self {
        Self { idle: Mutex::default(), max }
    }

    fn take(&self) -> Option<Pipe> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.or_else(Pipe::open)
    }

    /// An empty pipe only. One that still holds octets is dropped: they are not the next tunnel's.
    fn give_back(&self, pipe: Pipe) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max {
            idle.push(pipe);
        }
    }
}

impl Pipe {
    fn open() -> Option<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let size = fcntl_setpipe_size(&write, PIPE_BYTES).ok()?;
        (size >= PIPE_BYTES_MIN).then_some(Self { read, write, size })
    }
}

/// Octets moved so far, readable while the tunnel runs: for budgets, logs and metrics.
#[derive(Debug, Default)]
pub struct Moved {
    pub up: AtomicU64,
    pub down: AtomicU64,
}

impl Moved {
    fn total(&self) -> u64 {
        self.up.load(Ordering::Relaxed).saturating_add(self.down.load(Ordering::Relaxed))
    }
}

/// How a tunnel ended.
#[derive(Debug)]
pub enum TunnelEnd {
    /// Both sides said that they were done.
    Finished,
    /// One side broke off; the other was told so by a reset.
    Broken(io::Error),
    Idle,
    /// By us: a grant's end, a new policy, a budget.
    Cut(Reason),
}

/// Moves octets both ways until both are done, nothing moves for `idle`, or `cut` says why not to go on.
pub async fn relay(
    client: TcpStream,
    origin: TcpStream,
    pool: &PipePool,
    moved: &Moved,
    idle: Duration,
    cut: impl Future<Output = Reason>,
) -> TunnelEnd {
    let both =
        async { tokio::try_join!(pump(&client, &origin, pool, &moved.up), pump(&origin, &client, pool, &moved.down)) };
    let idles = async {
        let mut seen = moved.total();
        loop {
            tokio::time::sleep(idle).await;
            match moved.total() {
                now if now == seen => return,
                now => seen = now,
            }
        }
    };
    let end = tokio::select! {
        done = both => match done {
            Ok(_) => return TunnelEnd::Finished,
            Err(error) => TunnelEnd::Broken(error),
        },
        () = idles => TunnelEnd::Idle,
        reason = cut => TunnelEnd::Cut(reason),
    };
    // A tunnel that was cut must not look like one that ended well: what was transferred may be half of it.
    for side in [&client, &origin] {
        let _: Result<(), _> = sockopt::set_socket_linger(side, Some(Duration::ZERO));
    }
    end
}

/// One direction, to its end.
async fn pump(from: &TcpStream, to: &TcpStream, pool: &PipePool, moved: &AtomicU64) -> io::Result<()> {
    loop {
        from.readable().await?;
        let flow = match pool.take() {
            Some(pipe) => splice_burst(from, to, pipe, pool, moved).await?,
            None => copy_burst(from, to, moved).await?,
        };
        if flow == Flow::Ended {
            return match shutdown(to, Shutdown::Write) {
                // It is gone already; its own direction tells why.
                Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Nothing more for now.
    Paused,
    Ended,
}

async fn splice_burst(
    from: &TcpStream,
    to: &TcpStream,
    pipe: Pipe,
    pool: &PipePool,
    moved: &AtomicU64,
) -> io::Result<Flow> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        let taken = from.try_io(Interest::READABLE, || {
            splice(from, None, &pipe.write, None, pipe.size, flags).map_err(io::Error::from)
        });
        let mut held = match taken {
            Ok(0) => {
                pool.give_back(pipe);
                return Ok(Flow::Ended);
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                pool.give_back(pipe);
                return Ok(Flow::Paused);
            }
            // Not a kind of socket that can be spliced.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return copy_burst(from, to, moved).await,
            Err(error) => return Err(error),
        };
        while held > 0 {
            to.writable().await?;
            let given = to.try_io(Interest::WRITABLE, || {
                splice(&pipe.read, None, to, None, held, flags).map_err(io::Error::from)
            });
            match given {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    held = held.saturating_sub(count);
                    moved.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

async fn copy_burst(from: &TcpStream, to: &TcpStream, moved: &AtomicU64) -> io::Result<Flow> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(Flow::Ended),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flow::Paused),
            Err(error) => return Err(error),
        };
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    moved.fetch_add(written as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
