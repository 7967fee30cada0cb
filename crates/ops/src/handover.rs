//! Handing the listening sockets to a new process, so that no connection is refused while a binary is replaced.
//!
//! The old process listens on a 0600 unix socket; the new one connects, both check that the other is the same user (or
//! root), the sockets cross as SCM_RIGHTS, and only the new one's "ready" makes the old one drain. If the new one dies
//! before that, nothing has happened.

use rustix::{
    io::{IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg, sockopt,
    },
};
use std::{
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::Duration,
};

/// A socket and the listener it belongs to.
pub type NamedSocket = (String, OwnedFd);

/// Descriptors in one message; the kernel allows 253.
const BATCH: usize = 64;
/// Listeners times cores: no process has more.
const SOCKETS_MAX: usize = 16 * 1024;
const NAME_MAX: usize = 255;
/// How long a new process may take to compile its configuration and be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
const READY: u8 = b'R';

/// Listens for a successor. A socket file that nobody answers is replaced.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves one successor: gives it `sockets` and waits until it is ready. An error leaves everything as it was.
pub fn give(stream: &mut UnixStream, sockets: &[(String, BorrowedFd<'_>)]) -> io::Result<()> {
    check_peer(stream)?;
    stream.set_read_timeout(Some(READY_TIMEOUT))?;
    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    stream.write_all(&u32::try_from(sockets.len()).unwrap_or(u32::MAX).to_be_bytes())?;
    for batch in sockets.chunks(BATCH) {
        let mut names = Vec::new();
        for (name, _) in batch {
            names.push(u8::try_from(name.len()).map_err(|_| io::Error::other("a listener's name is too long"))?);
            names.extend_from_slice(name.as_bytes());
        }
        let length = u32::try_from(names.len()).unwrap_or(u32::MAX).to_be_bytes();
        let fds: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, fd)| *fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("the descriptors do not fit into a message"));
        }
        // The descriptors ride on the length; the names follow as plain bytes.
        let sent = sendmsg(stream.as_fd(), &[IoSlice::new(&length)], &mut ancillary, SendFlags::NOSIGNAL)?;
        if sent != length.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        stream.write_all(&names)?;
    }
    let mut ready = [0];
    stream.read_exact(&mut ready)?;
    if ready == [READY] { Ok(()) } else { Err(io::Error::other("the successor did not say that it is ready")) }
}

/// A successor's side: the sockets, and the word that lets the predecessor go.
#[derive(Debug)]
pub struct Received {
    pub sockets: Vec<NamedSocket>,
    stream: UnixStream,
}

impl Received {
    /// We serve: the predecessor drains from now on.
    pub fn ready(mut self) -> io::Result<()> {
        self.stream.write_all(&[READY])
    }
}

/// Takes the sockets of the process that listens at `path`.
pub fn take(path: &Path) -> io::Result<Received> {
    let mut stream = UnixStream::connect(path)?;
    check_peer(&stream)?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    let mut count = [0; 4];
    stream.read_exact(&mut count)?;
    let count = u32::from_be_bytes(count) as usize;
    if count > SOCKETS_MAX {
        return Err(io::Error::other(format!("more than {SOCKETS_MAX} sockets")));
    }
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        let expected = (count - sockets.len()).min(BATCH);
        let (length, fds) = receive(&stream)?;
        if fds.len() != expected || length > BATCH * (NAME_MAX + 1) {
            return Err(io::Error::other("the predecessor's message is malformed"));
        }
        let mut names = vec![0; length];
        stream.read_exact(&mut names)?;
        let mut rest = names.as_slice();
        for fd in fds {
            let (name, tail) =
                split_name(rest).ok_or_else(|| io::Error::other("the predecessor's names are malformed"))?;
            sockets.push((name, fd));
            rest = tail;
        }
    }
    Ok(Received { sockets, stream })
}

fn receive(stream: &UnixStream) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut length)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((u32::from_be_bytes(length) as usize, fds))
}

fn split_name(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((String::from_utf8(name.to_vec()).ok()?, rest))
}

/// The file mode keeps others out; this keeps out who got in another way.
fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = sockopt::socket_peercred(stream)?;
    let own = rustix::process::geteuid();
    if peer.uid == own || peer.uid.is_root() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the process at the other end is of another user"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn hundreds_of_sockets_cross_with_their_names_and_still_accept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/upgrade.sock");
        let listener = listen(&path).unwrap();
        let own: Vec<_> =
            (0..150).map(|n| (format!("listener-{n}"), TcpListener::bind("127.0.0.1:0").unwrap())).collect();
        let ports: Vec<_> = own.iter().map(|(name, socket)| (name.clone(), socket.local_addr().unwrap())).collect();
        let old = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let sockets: Vec<_> = own.iter().map(|(name, socket)| (name.clone(), socket.as_fd())).collect();
            give(&mut stream, &sockets)
        });
        let received = take(&path).unwrap();
        for ((name, fd), (expected, address)) in received.sockets.iter().zip(&ports) {
            assert_eq!(name, expected);
            assert_eq!(TcpListener::from(fd.try_clone().unwrap()).local_addr().unwrap(), *address);
        }
        assert_eq!(received.sockets.len(), 150);
        received.ready().unwrap();
        old.join().unwrap().unwrap();
    }

    #[test]
    fn a_successor_that_dies_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let listener = listen(&path).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let old = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let outcome = give(&mut stream, &[("a".to_owned(), socket.as_fd())]);
            (outcome, socket)
        });
        drop(take(&path).unwrap());
        let (outcome, _socket) = old.join().unwrap();
        assert!(outcome.is_err());
    }
}
