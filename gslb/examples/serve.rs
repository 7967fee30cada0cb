//! A DNS server from one document: `serve FILE ADDRESS [THREADS]`. For trying things with `dig` and for benches. SIGHUP: the document is read anew.

use portcullis_config::{Colour, ContentHash, Document, Live};
use portcullis_gslb::{Checks, Clocks, DnsMetrics, GslbSpec, Host, Listeners, Registries, Republish, Server, Snapshot};
use portcullis_tls::{Certificates, Trusts};
use socket2::{Domain, Socket, Type};
use std::{
    collections::BTreeMap,
    error::Error,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    time::SystemTime,
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, file, address, rest @ ..] = arguments.as_slice() else { return Err("serve FILE ADDRESS [THREADS]".into()) };
    let address: SocketAddr = address.parse()?;
    let threads: usize = rest.first().map_or(Ok(1), |threads| threads.parse())?;
    let live = Live::new(compile(file, None)?, ContentHash([0; 32]), SystemTime::now());
    let udp = (0..threads).map(|_| socket(address)).collect::<Result<_, _>>()?;
    let listeners = Listeners { udp, tcp: vec![TcpListener::bind(address)?], ..Listeners::default() };
    let registry = prometheus::Registry::new();
    let host = Host { metrics: Arc::new(DnsMetrics::new(&registry)?), log: None, republish: Republish::default() };
    let _checks = Checks::start(&live, &host)?;
    let _server = Server::start(listeners, &live, &host)?;
    // Read anew whenever it is told to, and what is wrong then is not served.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut hangup = signal(SignalKind::hangup())?;
        while hangup.recv().await.is_some() {
            match compile(file, Some(&live.load().snapshot)) {
                Ok(snapshot) => {
                    live.publish(snapshot.clone(), ContentHash([0; 32]), "signal", SystemTime::now());
                    snapshot.settle(Clocks::read());
                }
                Err(error) => eprintln!("{error}"),
            }
        }
        Ok(())
    })
}

fn compile(file: &str, previous: Option<&Snapshot>) -> Result<Arc<Snapshot>, Box<dyn Error>> {
    let (document, report) = Document::load(&[file.into()]);
    let (spec, mut cx) = Arc::new(document).read::<GslbSpec>(report, &[]);
    let certificates = Certificates::compile(&BTreeMap::new(), &mut cx);
    let trusts = Trusts::compile(&BTreeMap::new(), &mut cx);
    let registries = Registries { certificates: &certificates, trusts: &trusts, upstreams: &BTreeMap::new() };
    let snapshot = spec.map(|spec| Snapshot::compile(&spec, registries, previous, Clocks::read(), &mut cx));
    let (report, _) = cx.finish();
    eprint!("{}", report.render(Colour::Plain));
    snapshot.filter(|_| !report.has_errors()).ok_or_else(|| "not fit to run".into())
}

fn socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
