//! A DNS server from one document: `serve FILE ADDRESS [THREADS]`. For trying things with `dig` and for benches.

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

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, file, address, rest @ ..] = arguments.as_slice() else { return Err("serve FILE ADDRESS [THREADS]".into()) };
    let address: SocketAddr = address.parse()?;
    let threads: usize = rest.first().map_or(Ok(1), |threads| threads.parse())?;
    let now = SystemTime::now();
    let (document, report) = Document::load(&[file.into()]);
    let (spec, mut cx) = Arc::new(document).read::<GslbSpec>(report, &[]);
    let certificates = Certificates::compile(&BTreeMap::new(), &mut cx);
    let trusts = Trusts::compile(&BTreeMap::new(), &mut cx);
    let registries = Registries { certificates: &certificates, trusts: &trusts, upstreams: &BTreeMap::new() };
    let snapshot = spec.map(|spec| Snapshot::compile(&spec, registries, None, Clocks::read(), &mut cx));
    let (report, _) = cx.finish();
    eprint!("{}", report.render(Colour::Plain));
    let (Some(snapshot), false) = (snapshot, report.has_errors()) else { return Err("not fit to run".into()) };
    let live = Live::new(snapshot, ContentHash([0; 32]), now);
    let udp = (0..threads).map(|_| socket(address)).collect::<Result<_, _>>()?;
    let listeners = Listeners { udp, tcp: vec![TcpListener::bind(address)?], ..Listeners::default() };
    let registry = prometheus::Registry::new();
    let host = Host { metrics: Arc::new(DnsMetrics::new(&registry)?), log: None, republish: Republish::default() };
    let _checks = Checks::start(&live, &host)?;
    let _server = Server::start(listeners, &live, &host)?;
    loop {
        std::thread::park();
    }
}

fn socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
