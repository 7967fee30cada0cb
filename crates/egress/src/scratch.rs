//! One buffer for each thread, through which octets are copied from one stream to another without an allocation for either.
//!
//! Filled and emptied within one poll: what the receiver does not take at once is the only thing that is kept.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) const SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// What one copy moved.
#[derive(Debug)]
pub struct Copied {
    /// 0 at the stream's end.
    pub count: usize,
    /// The end of it, which the receiver did not take yet.
    pub rest: Vec<u8>,
}

/// Reads once, and writes as much of it as is taken at once. An idle pair of streams holds no buffer.
pub fn poll_copy(
    cx: &mut Context<'_>,
    from: Pin<&mut impl AsyncRead>,
    to: Pin<&mut impl AsyncWrite>,
) -> Poll<io::Result<Copied>> {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => poll_copy_by(&mut scratch, cx, from, to),
        // A stream that copies within its own poll.
        Err(_) => poll_copy_by(&mut vec![0; SCRATCH_BYTES], cx, from, to),
    })
}

fn poll_copy_by(
    scratch: &mut [u8],
    cx: &mut Context<'_>,
    from: Pin<&mut impl AsyncRead>,
    mut to: Pin<&mut impl AsyncWrite>,
) -> Poll<io::Result<Copied>> {
    let mut buffer = ReadBuf::new(scratch);
    ready!(from.poll_read(cx, &mut buffer))?;
    let mut rest = buffer.filled();
    let count = rest.len();
    while !rest.is_empty() {
        match to.as_mut().poll_write(cx, rest)? {
            Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(taken) => rest = rest.get(taken..).unwrap_or_default(),
            Poll::Pending => break,
        }
    }
    Poll::Ready(Ok(Copied { count, rest: rest.to_vec() }))
}
