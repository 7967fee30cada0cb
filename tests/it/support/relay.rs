//! A wire between two processes that a test can cut.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

/// Passes on what comes to its address. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    target: Mutex<Option<SocketAddr>>,
    cut: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Leads nowhere yet.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { target: Mutex::default(), cut: AtomicBool::new(false), open: Mutex::default() };
        let relay = Self { address, state: Arc::new(state) };
        let state = relay.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                state.clone().pass(stream.unwrap());
            }
        });
        relay
    }

    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.state.target.lock().unwrap() = Some(target);
    }

    /// What is open ends, and nothing gets through.
    pub(crate) fn cut(&self) {
        self.state.cut.store(true, SeqCst);
        for stream in self.state.open.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    pub(crate) fn mend(&self) {
        self.state.cut.store(false, SeqCst);
    }
}

impl State {
    fn pass(self: Arc<Self>, from: TcpStream) {
        let target = *self.target.lock().unwrap();
        let (Some(target), false) = (target, self.cut.load(SeqCst)) else { return };
        let Ok(to) = TcpStream::connect(target) else { return };
        for stream in [&from, &to] {
            stream.set_nodelay(true).unwrap();
        }
        let mut open = self.open.lock().unwrap();
        open.extend([from.try_clone().unwrap(), to.try_clone().unwrap()]);
        drop(open);
        let (back_from, back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
        std::thread::spawn(move || pour(from, to));
        std::thread::spawn(move || pour(back_from, back_to));
    }
}

fn pour(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) if to.write_all(&buffer[..read]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break,
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}
