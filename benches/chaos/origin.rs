//! An origin that fails as told and notes every request that reaches it.

use crate::{
    client::{self, Id},
    fault::Mode,
};
use std::{
    future::pending,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    process::{Child, Command},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

/// A request as an origin saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) id: Id,
    pub(crate) at: Instant,
}

/// One of the origins behind a proxy.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    /// Since when it is what.
    history: Vec<(Instant, Mode)>,
    serves: Serves,
}

enum Serves {
    Here { accepting: Option<AbortHandle>, connections: Arc<Mutex<JoinSet<()>>>, plug: Vec<TcpStream> },
    Child(Child),
}

/// Connections that wait to be accepted by an origin that is well.
const BACKLOG: u32 = 1024;
const SLOW: Duration = Duration::from_secs(1);
/// A well origin on loopback accepts sooner than this; a full one never.
const PLUGGED_AFTER: Duration = Duration::from_millis(50);
const REQUEST_MAX: usize = 64 * 1024;

impl Origin {
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), BACKLOG)?;
        let address = listener.local_addr()?;
        let connections = Arc::default();
        let serves = Serves::Here { accepting: None, connections, plug: Vec::new() };
        let mut origin = Self::new(address, serves);
        origin.accept(listener);
        Ok(origin)
    }

    /// In a process of its own, that can be stopped. Its arrivals are timed by `sent`: stopped, it reads late.
    pub(crate) async fn start_child(sent: Arc<client::Sent>) -> io::Result<Self> {
        let mut child =
            Command::new(std::env::current_exe()?).arg("--origin").stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let address = first.parse().map_err(io::Error::other)?;
        let origin = Self::new(address, Serves::Child(child));
        let arrivals = origin.arrivals.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(id) = line.parse().ok().map(Id)
                    && let Some(at) = sent.when(id)
                {
                    arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(Arrival { id, at });
                }
            }
        });
        Ok(origin)
    }

    fn new(address: SocketAddr, serves: Serves) -> Self {
        let history = vec![(Instant::now(), Mode::Well)];
        Self { address, mode: watch::Sender::new(Mode::Well), arrivals: Arc::default(), history, serves }
    }

    pub(crate) async fn become_so(&mut self, mode: Mode) -> io::Result<()> {
        let before = self.mode.send_replace(mode);
        self.history.push((Instant::now(), mode));
        let address = self.address;
        match &mut self.serves {
            Serves::Child(child) => {
                let signal = if mode == Mode::Stopped { "-STOP" } else { "-CONT" };
                let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
                Command::new("kill").args([signal, &pid.to_string()]).status().await?;
            }
            Serves::Here { accepting, connections, plug } => match mode {
                Mode::Down => {
                    stop(accepting);
                    let mut connections =
                        std::mem::take(&mut *connections.lock().unwrap_or_else(PoisonError::into_inner));
                    connections.shutdown().await;
                }
                Mode::BlackHole => {
                    stop(accepting);
                    let (listener, plugs) = black_hole(address).await?;
                    *plug = plugs;
                    // Kept, never asked to accept.
                    *accepting = Some(
                        tokio::spawn(async move {
                            let _listener = listener;
                            pending::<()>().await;
                        })
                        .abort_handle(),
                    );
                }
                _ if before.is_deaf() => {
                    stop(accepting);
                    plug.clear();
                    let listener = retry_listen(address).await?;
                    self.accept(listener);
                }
                _ => {}
            },
        }
        Ok(())
    }

    fn accept(&mut self, listener: TcpListener) {
        let Serves::Here { accepting, connections, .. } = &mut self.serves else { return };
        let (connections, mode, arrivals) = (connections.clone(), self.mode.clone(), self.arrivals.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let arrivals = arrivals.clone();
                let note = move |id| {
                    let arrival = Arrival { id, at: Instant::now() };
                    arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
                };
                let mode = mode.subscribe();
                connections.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
                    let _ = serve(stream, mode, note).await;
                });
            }
        });
        *accepting = Some(task.abort_handle());
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn mode_at(&self, at: Instant) -> Mode {
        self.history.iter().rev().find(|(since, _)| *since <= at).map_or(Mode::Well, |(_, mode)| *mode)
    }
}

/// Answers on the port that the system gives, says which it is, then the number of each request.
pub(crate) async fn be_child() -> io::Result<()> {
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), BACKLOG)?;
    say(&listener.local_addr()?.to_string())?;
    let mode = watch::Sender::new(Mode::Well);
    loop {
        let (stream, _) = listener.accept().await?;
        let mode = mode.subscribe();
        tokio::spawn(serve(stream, mode, |id: Id| {
            let _ = say(&id.0.to_string());
        }));
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn stop(accepting: &mut Option<AbortHandle>) {
    if let Some(task) = accepting.take() {
        task.abort();
    }
}

fn listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// The task that held the port before may still be ending.
async fn retry_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..500 {
        match listen(address, BACKLOG) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
        sleep(Duration::from_millis(2)).await;
    }
    Err(last)
}

/// A listener whose queue is full: Linux drops each further SYN.
async fn black_hole(address: SocketAddr) -> io::Result<(TcpListener, Vec<TcpStream>)> {
    let mut listener = listen(address, 0);
    for _ in 0..500 {
        if listener.is_ok() {
            break;
        }
        sleep(Duration::from_millis(2)).await;
        listener = listen(address, 0);
    }
    let listener = listener?;
    let mut plugs = Vec::new();
    while let Ok(Ok(stream)) = timeout(PLUGGED_AFTER, TcpStream::connect(address)).await {
        plugs.push(stream);
    }
    Ok((listener, plugs))
}

/// Answers the requests of a connection as the mode of the moment says.
async fn serve(mut stream: TcpStream, mut mode: watch::Receiver<Mode>, note: impl Fn(Id)) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await? {
        note(request.id);
        let now = *mode.borrow();
        if now == Mode::BlackHole {
            // What a network swallowed it sends again when it is back.
            let _ = mode.wait_for(|mode| *mode != Mode::BlackHole).await;
        }
        let body = client::body_for(request.id);
        let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let half = whole.len() - body.len() / 2;
        let refused = |status: u16| format!("HTTP/1.1 {status} Sick\r\nContent-Length: 5\r\n\r\nsick\n");
        match now {
            Mode::Closes => return Ok(()),
            Mode::Garbage => {
                stream.write_all(b"\x00\x01\x02 what is this\r\n\r\n").await?;
                return Ok(());
            }
            Mode::Truncated => {
                stream.write_all(whole.get(..half).unwrap_or_default().as_bytes()).await?;
                return Ok(());
            }
            Mode::Reset => {
                stream.write_all(whole.get(..half).unwrap_or_default().as_bytes()).await?;
                // The half shall be read before the RST empties the peer's buffer.
                sleep(Duration::from_millis(20)).await;
                return stream.set_zero_linger();
            }
            Mode::Status(status) => stream.write_all(refused(status).as_bytes()).await?,
            Mode::Slow => {
                sleep(SLOW).await;
                stream.write_all(whole.as_bytes()).await?;
            }
            Mode::Well | Mode::Down | Mode::BlackHole | Mode::Stopped => match request.is_whole {
                true => stream.write_all(whole.as_bytes()).await?,
                false => stream.write_all(refused(400).as_bytes()).await?,
            },
        }
    }
    Ok(())
}

struct Request {
    id: Id,
    /// Its body is the one that the client sent.
    is_whole: bool,
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned();
            let length = client::field(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
            let total = end + 4 + length;
            if buffer.len() >= total {
                let body = buffer.get(end + 4..total).unwrap_or_default().to_vec();
                buffer.drain(..total);
                let id = head.split(['/', ' ']).find_map(|word| word.parse().ok()).map(Id);
                let id = id.ok_or_else(|| io::Error::other("a request that no client sent"))?;
                let is_whole =
                    body.is_empty() != id.is_post() && (body.is_empty() || body == client::sent_body(id).as_bytes());
                return Ok(Some(Request { id, is_whole }));
            }
        }
        if buffer.len() > REQUEST_MAX || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
