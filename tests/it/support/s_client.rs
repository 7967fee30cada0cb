//! `openssl s_client`: a TLS client that nobody here wrote, and what it tells of a connection.

use std::{net::SocketAddr, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

/// All that it printed, both outputs.
#[derive(Debug)]
pub(crate) struct Told(pub String);

/// Ends the connection when it is answered.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// Connects with these arguments (apart by spaces), asks once, and ends when the server does.
pub(crate) async fn s_client(addr: SocketAddr, arguments: &str) -> Told {
    let mut child = begin(addr, arguments, &["-ign_eof"]);
    let mut input = child.stdin.take().unwrap();
    // It is gone when the handshake failed.
    let _ = input.write_all(REQUEST).await;
    drop(input);
    let output = timeout(Duration::from_secs(20), child.wait_with_output()).await.expect("openssl ends").unwrap();
    Told(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The same, with one of its single-letter commands first: the request follows when it says `done`.
pub(crate) async fn s_client_after(addr: SocketAddr, arguments: &str, letter: &str, done: &str) -> Told {
    let mut child = begin(addr, arguments, &[]);
    let (mut input, mut out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut err = child.stderr.take().unwrap();
    let mut told = Vec::new();
    let ended = timeout(Duration::from_secs(20), async {
        // It reads its input when the handshake is over, and takes a letter that comes alone for a command.
        let _ = input.write_all(format!("{letter}\n").as_bytes()).await;
        until(&mut err, &mut told, done).await;
        let _ = input.write_all(REQUEST).await;
        let _ = out.read_to_end(&mut told).await;
        let _ = err.read_to_end(&mut told).await;
    });
    ended.await.expect("openssl ends");
    Told(String::from_utf8_lossy(&told).into_owned())
}

async fn until(from: &mut (impl AsyncReadExt + Unpin), told: &mut Vec<u8>, words: &str) {
    while !String::from_utf8_lossy(told).contains(words) {
        if from.read_buf(told).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

fn begin(addr: SocketAddr, arguments: &str, more: &[&str]) -> Child {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &addr.to_string()]).args(arguments.split_whitespace()).args(more);
    if !arguments.contains("servername") {
        command.args(["-servername", "a.test"]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}

impl Told {
    pub(crate) fn has(&self, words: &str) -> bool {
        self.0.contains(words)
    }

    pub(crate) fn must_have(&self, words: &str) -> &Self {
        assert!(self.has(words), "no \"{words}\" in\n{}", self.0);
        self
    }

    pub(crate) fn must_not_have(&self, words: &str) -> &Self {
        assert!(!self.has(words), "\"{words}\" in\n{}", self.0);
        self
    }

    /// The alert that the server ended the handshake with.
    pub(crate) fn alert(&self) -> Option<u8> {
        let (_, rest) = self.0.split_once("SSL alert number ")?;
        rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
    }

    /// The server refused, and said why.
    pub(crate) fn must_be_refused(&self, alert: u8) {
        assert_eq!(self.alert(), Some(alert), "in\n{}", self.0);
        self.must_not_have("HTTP/1.1 ");
    }

    pub(crate) fn must_be_served(&self) -> &Self {
        self.must_have("HTTP/1.1 200").must_not_have("Cipher is (NONE)")
    }
}
