//! How long a name server takes for one query while so many are under way: each socket has one outstanding, and asks again as soon as
//! it is answered. Never sleeps and prints nothing meanwhile, as either would be measured. `latency ADDRESS [OUTSTANDING] [SECONDS]`

use std::{
    error::Error,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// Of the zone that `benches/dns.py` serves.
const NAMES: u64 = 1_000;
/// A query that was lost is asked again.
const PATIENCE: Duration = Duration::from_secs(1);

struct Asker {
    socket: UdpSocket,
    id: u16,
    sent: Instant,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, address, rest @ ..] = arguments.as_slice() else {
        return Err("latency ADDRESS [OUTSTANDING] [SECONDS]".into());
    };
    let address: SocketAddr = address.parse()?;
    let outstanding: usize = rest.first().map_or(Ok(8), |text| text.parse())?;
    let seconds: u64 = rest.get(1).map_or(Ok(2), |text| text.parse())?;
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut askers = (0..outstanding).map(|_| Asker::new(address)).collect::<Result<Vec<_>, _>>()?;
    for asker in &mut askers {
        asker.ask(&mut random)?;
    }
    let (mut took, mut lost): (Vec<u64>, u64) = (Vec::with_capacity(4 << 20), 0);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        for asker in &mut askers {
            match asker.answered() {
                Some(nanoseconds) => took.push(nanoseconds),
                None if asker.sent.elapsed() > PATIENCE => lost += 1,
                None => continue,
            }
            asker.ask(&mut random)?;
        }
    }
    took.sort_unstable();
    let at = |permille: usize| took.get(took.len() * permille / 1_000).copied().unwrap_or_default() as f64 / 1_000.0;
    println!("queries {} lost {lost} p50 {:.1} p99 {:.1} p99.9 {:.1}", took.len(), at(500), at(990), at(999));
    Ok(())
}

impl Asker {
    fn new(address: SocketAddr) -> std::io::Result<Self> {
        let local: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(local)?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, id: 0, sent: Instant::now() })
    }

    fn ask(&mut self, random: &mut u64) -> std::io::Result<()> {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        self.id = self.id.wrapping_add(1);
        let label = format!("n{}", *random % NAMES);
        let mut query = self.id.to_be_bytes().to_vec();
        query.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, label.len() as u8]);
        query.extend(label.as_bytes());
        query.extend(b"\x07example\x04test\0\0\x01\0\x01");
        self.sent = Instant::now();
        self.socket.send(&query).map(|_| ())
    }

    /// Nanoseconds from the question to its good answer.
    fn answered(&self) -> Option<u64> {
        let mut reply = [0; 512];
        let length = self.socket.recv(&mut reply).ok()?;
        let is_ours = length > 12 && reply[..2] == self.id.to_be_bytes() && reply[3] & 15 == 0;
        is_ours.then(|| self.sent.elapsed().as_nanos() as u64)
    }
}
