//! Moves a tunnel's octets inside the kernel: socket to pipe to socket by splice(2), without a copy in this process.
//!
//! Pipes are held only while octets are in flight and come from a pool with an end, because the kernel gives an
//! unprivileged user 64 MiB of them in all (`fs.pipe-user-pages-soft`) and beyond that pages so small that all tunnels
//! crawl. Messages that fit a buffer, and everything where there is no pipe or splice does not work, are copied (`scratch`).
//! By rustix's safe calls; no `unsafe` here.

use crate::{
    Reason,
    scratch::{Copied, SCRATCH_BYTES, poll_copy},
};
use rustix::{
    net::{Shutdown, shutdown, sockopt},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use std::{
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

/// The pipes of all tunnels of a process or thread, in use and at rest.
#[derive(Debug)]
pub struct PipePool {
    pipes: Mutex<Pipes>,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Pipes {
    short: Vec<Pipe>,
    long: Vec<Pipe>,
    /// Of all that are open, in use or not.
    bytes: usize,
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

/// Measured: 64 KiB costs half as much again per octet.
const PIPE_BYTES: usize = 256 << 10;
/// For a direction that has moved [`LONG_AFTER`]: a fifth less per octet, for four times of the user's share.
const LONG_PIPE_BYTES: usize = 1 << 20;
const LONG_AFTER: u64 = 1 << 20;
/// What the kernel gives who has used up its share; copying is then cheaper.
const PIPE_BYTES_MIN: usize = 64 << 10;

impl PipePool {
    /// Pipes of at most so many octets together. A tunnel whose receiver stalls keeps its pipe; those that find none left copy.
    pub fn new(max_bytes: usize) -> Self {
        Self { pipes: Mutex::default(), max_bytes }
    }

    /// For a direction that has moved so many octets.
    fn take(&self, moved: u64) -> Option<Lease<'_>> {
        let mut pipes = self.lock();
        let pipe = if moved >= LONG_AFTER {
            pipes.long.pop().or_else(|| self.open(&mut pipes, LONG_PIPE_BYTES)).or_else(|| pipes.short.pop())
        } else {
            pipes.short.pop()
        };
        let pipe = pipe.or_else(|| self.open(&mut pipes, PIPE_BYTES)).or_else(|| pipes.long.pop())?;
        Some(Lease { pipe: Some(pipe), held: 0, pool: self })
    }

    fn open(&self, pipes: &mut Pipes, bytes: usize) -> Option<Pipe> {
        if pipes.bytes.saturating_add(bytes) > self.max_bytes {
            return None;
        }
        let pipe = Pipe::open(bytes)?;
        pipes.bytes = pipes.bytes.saturating_add(pipe.size);
        Some(pipe)
    }

    fn lock(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut pipes = self.pool.lock();
        match (self.held, pipe.size >= LONG_PIPE_BYTES) {
            (0, true) => pipes.long.push(pipe),
            (0, false) => pipes.short.push(pipe),
            _ => pipes.bytes = pipes.bytes.saturating_sub(pipe.size),
        }
    }
}

impl Pipe {
    fn open(bytes: usize) -> Option<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let size = fcntl_setpipe_size(&write, bytes).ok()?;
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
    mut client: TcpStream,
    mut origin: TcpStream,
    pool: &PipePool,
    moved: &Moved,
    idle: Duration,
    cut: impl Future<Output = Reason>,
) -> TunnelEnd {
    let end = {
        let ((from_client, to_client), (from_origin, to_origin)) = (client.split(), origin.split());
        let first_ended = AtomicBool::new(false);
        let mut up = Pump { from: from_client, to: to_origin, pool, moved: &moved.up, other_ended: &first_ended };
        let mut down = Pump { from: from_origin, to: to_client, pool, moved: &moved.down, other_ended: &first_ended };
        tokio::select! {
            done = async { tokio::try_join!(up.run(), down.run()) } => match done {
                Ok(_) => return TunnelEnd::Finished,
                Err(error) => TunnelEnd::Broken(error),
            },
            () = moved.rests(idle) => TunnelEnd::Idle,
            reason = cut => TunnelEnd::Cut(reason),
        }
    };
    // A tunnel that was cut must not look like one that ended well: what was transferred may be half of it.
    for side in [&client, &origin] {
        let _: Result<(), _> = sockopt::set_socket_linger(side, Some(Duration::ZERO));
    }
    end
}

/// One direction.
struct Pump<'t> {
    from: ReadHalf<'t>,
    to: WriteHalf<'t>,
    pool: &'t PipePool,
    moved: &'t AtomicU64,
    /// Shared by both directions.
    other_ended: &'t AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Nothing more for now.
    Paused,
    /// More than fits a buffer: worth a pipe.
    Bulk,
    Ended,
}

/// A pause after less than this in one go, and the direction is copied again: two calls of the kernel for a message, not four.
const BULK_BYTES: u64 = SCRATCH_BYTES as u64;
/// Moved before the thread's other connections have their turn: about a millisecond.
const TURN_BYTES: u64 = 4 << 20;

impl Pump<'_> {
    /// To its end. Messages are copied, by a buffer that belongs to the thread; what fills it goes on in the kernel.
    async fn run(&mut self) -> io::Result<()> {
        let mut flow = Flow::Paused;
        loop {
            flow = match flow {
                Flow::Paused => self.copy().await?,
                Flow::Bulk => {
                    poll_fn(|cx| self.from.as_ref().poll_read_ready(cx)).await?;
                    match self.pool.take(self.moved.load(Ordering::Relaxed)) {
                        Some(lease) => self.splice(lease).await?,
                        None => self.copy().await?,
                    }
                }
                Flow::Ended => return self.end(),
            };
        }
    }

    fn end(&self) -> io::Result<()> {
        // The second one to end says so by closing: both sockets are dropped at once.
        if self.other_ended.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        match shutdown(self.to.as_ref(), Shutdown::Write) {
            // It is gone already; its own direction tells why.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn copy(&mut self) -> io::Result<Flow> {
        let copied = poll_fn(|cx| poll_copy(cx, Pin::new(&mut self.from), Pin::new(&mut self.to))).await?;
        let Copied { count, rest } = copied;
        self.moved.fetch_add(count.saturating_sub(rest.len()) as u64, Ordering::Relaxed);
        if !rest.is_empty() {
            self.to.write_all(&rest).await?;
            self.moved.fetch_add(rest.len() as u64, Ordering::Relaxed);
        }
        Ok(match count {
            0 => Flow::Ended,
            SCRATCH_BYTES => Flow::Bulk,
            _ => Flow::Paused,
        })
    }

    async fn splice(&mut self, mut lease: Lease<'_>) -> io::Result<Flow> {
        let (from, to) = (self.from.as_ref(), self.to.as_ref());
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let mut burst = 0_u64;
        loop {
            let Some(pipe) = &lease.pipe else { return Ok(Flow::Paused) };
            // A page of the pipe takes a fragment of the network's, which may be larger: more may fit than its size.
            let taken = from.try_io(Interest::READABLE, || {
                splice(from, None, &pipe.write, None, LONG_PIPE_BYTES, flags).map_err(io::Error::from)
            });
            lease.held = match taken {
                Ok(0) => return Ok(Flow::Ended),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(if burst < BULK_BYTES { Flow::Paused } else { Flow::Bulk });
                }
                // Not a kind of socket that can be spliced.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(Flow::Paused),
                Err(error) => return Err(error),
            };
            burst = burst.saturating_add(lease.held as u64);
            while lease.held > 0 {
                poll_fn(|cx| to.poll_write_ready(cx)).await?;
                let given = to.try_io(Interest::WRITABLE, || {
                    splice(&pipe.read, None, to, None, lease.held, flags).map_err(io::Error::from)
                });
                match given {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => {
                        lease.held = lease.held.saturating_sub(count);
                        self.moved.fetch_add(count as u64, Ordering::Relaxed);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            if burst >= TURN_BYTES {
                tokio::task::yield_now().await;
                return Ok(Flow::Bulk);
            }
        }
    }
}

#[cfg(test)]
mod tests;
