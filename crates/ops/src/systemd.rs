//! Socket activation and notification of systemd; silent where there is none.

use sd_notify::NotifyState;
use std::os::fd::OwnedFd;

/// Sockets that systemd opened for us, in its order, with the names of `FileDescriptorName=`.
pub fn sockets() -> Vec<(String, OwnedFd)> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let mut given = listenfd::ListenFd::from_env();
    let mut sockets = Vec::with_capacity(given.len());
    for index in 0..given.len() {
        let name = names.next().unwrap_or_default();
        // An error says that the descriptor is not a socket of this kind; the next kind is tried.
        let socket = match given.take_tcp_listener(index) {
            Ok(Some(tcp)) => Some(OwnedFd::from(tcp)),
            _ => match given.take_unix_listener(index) {
                Ok(Some(unix)) => Some(OwnedFd::from(unix)),
                _ => given.take_udp_socket(index).ok().flatten().map(OwnedFd::from),
            },
        };
        match socket {
            Some(socket) => sockets.push((name, socket)),
            None => tracing::warn!(index, name, "a socket given by systemd is neither TCP, unix nor UDP"),
        }
    }
    sockets
}

pub fn ready(generation: u64) {
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("serving configuration {generation}"))]);
}

pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
