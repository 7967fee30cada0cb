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
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{io::Interest, net::TcpStream};

/// The pipes of all tunnels of a process or thread, in use and at rest.
#[derive(Debug)]
pub struct PipePool {
    pipes: Mutex<Pipes>,
    max: usize,
}

#[derive(Debug, Default)]
struct Pipes {
    idle: Vec<Pipe>,
    open: usize,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
}

/// A pipe out of the pool. It goes back when dropped, if it is empty; if it is not, it is closed, because what is in it is
/// not the next tunnel's.
struct Lease<'p> {
    pipe: Option<Pipe>,
    /// Octets in it.
    held: usize,
    pool: &'p PipePool,
}

/// Measured: 64 KiB costs half as much again per octet, 1 MiB saves little more and uses up the user's share soon.
const PIPE_BYTES: usize = 256 << 10;
/// What the kernel gives who has used up its share; copying is then cheaper.
const PIPE_BYTES_MIN: usize = 64 << 10;
const COPY_BYTES: usize = 16 << 10;

impl PipePool {
    /// At most `max` pipes. A tunnel whose receiver stalls keeps its pipe; those that find none left copy.
    pub fn new(max: usize) -> Self {
        Self { pipes: Mutex::default(), max }
    }

    fn take(&self) -> Option<Lease<'_>> {
        let mut pipes = self.lock();
        let pipe = match pipes.idle.pop() {
            Some(pipe) => pipe,
            None if pipes.open < self.max => {
                let pipe = Pipe::open()?;
                pipes.open += 1;
                pipe
            }
            None => return None,
        };
        Some(Lease { pipe: Some(pipe), held: 0, pool: self })
    }

    fn lock(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut pipes = self.pool.lock();
        match self.pipe.take() {
            Some(pipe) if self.held == 0 => pipes.idle.push(pipe),
            Some(_) | None => pipes.open = pipes.open.saturating_sub(1),
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

    /// Resolves when nothing has moved for `idle`, and at the latest after twice that.
    pub async fn rests(&self, idle: Duration) {
        let mut seen = self.total();
        loop {
            tokio::time::sleep(idle).await;
            match self.total() {
                now if now == seen => return,
                now => seen = now,
            }
        }
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
    let end = tokio::select! {
        done = both => match done {
            Ok(_) => return TunnelEnd::Finished,
            Err(error) => TunnelEnd::Broken(error),
        },
        () = moved.rests(idle) => TunnelEnd::Idle,
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
            Some(lease) => splice_burst(from, to, lease, moved).await?,
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

async fn splice_burst(from: &TcpStream, to: &TcpStream, mut lease: Lease<'_>, moved: &AtomicU64) -> io::Result<Flow> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        let Some(pipe) = &lease.pipe else { return Ok(Flow::Paused) };
        let taken = from.try_io(Interest::READABLE, || {
            splice(from, None, &pipe.write, None, pipe.size, flags).map_err(io::Error::from)
        });
        lease.held = match taken {
            Ok(0) => return Ok(Flow::Ended),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flow::Paused),
            // Not a kind of socket that can be spliced.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return copy_burst(from, to, moved).await,
            Err(error) => return Err(error),
        };
        while lease.held > 0 {
            to.writable().await?;
            let given = to.try_io(Interest::WRITABLE, || {
                splice(&pipe.read, None, to, None, lease.held, flags).map_err(io::Error::from)
            });
            match given {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    lease.held = lease.held.saturating_sub(count);
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
