//! Which process of this machine holds the other end of a connection, as the kernel's tables say.
//!
//! Read from procfs: the row of the *client's* socket in `net/tcp` has its owner, and its inode leads to a process and that
//! one's control group. Nothing of it is the client's own word. Looked up once a connection, and only when a rule asks.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The owner of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalProcess {
    pub(crate) uid: u32,
    /// Absent where this gateway may not look into the process.
    pub(crate) cgroup: Option<String>,
}

/// Processes looked at before giving up: a machine may have very many.
const PROCESSES_MAX: usize = 20_000;

/// The owner of the socket whose own end is `client` and whose other end is `ours`. Reads files: not for a core's thread.
pub(crate) fn find(client: SocketAddr, ours: SocketAddr) -> Option<LocalProcess> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let (uid, inode) = tables.iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|row| owner(row, client, ours))
    })?;
    Some(LocalProcess { uid, cgroup: cgroup_of(inode) })
}

/// `sl local remote st tx:rx tr:when retrnsmt uid timeout inode …` (proc(5)).
fn owner(row: &str, client: SocketAddr, ours: SocketAddr) -> Option<(u32, u64)> {
    let columns: Vec<&str> = row.split_ascii_whitespace().collect();
    let [_, local, remote, _, _, _, _, uid, _, inode, ..] = columns.as_slice() else { return None };
    if address(local)? != client || address(remote)? != ours {
        return None;
    }
    Some((uid.parse().ok()?, inode.parse().ok()?))
}

/// `0100007F:1F90`: the kernel prints each 32-bit word of the address as this machine holds it in memory.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = host.as_bytes().chunks(8).map(|word| {
        let whole = std::str::from_utf8(word).ok().filter(|word| word.len() == 8)?;
        let word = u32::from_str_radix(whole, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let octets: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let address = match (<[u8; 4]>::try_from(octets.as_slice()), <[u8; 16]>::try_from(octets.as_slice())) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

fn cgroup_of(inode: u64) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok).take(PROCESSES_MAX);
    let is_number = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    };
    let holder = processes.map(|entry| entry.path()).filter(is_number).find(|process| holds(process, inode))?;
    let text = fs::read_to_string(holder.join("cgroup")).ok()?;
    // cgroup(7): of the unified hierarchy the number is 0 and the list of controllers is empty.
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

fn holds(process: &Path, inode: u64) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.filter_map(Result::ok).any(|entry| {
        // Followed to the socket itself, whose inode is the table's.
        fs::metadata(entry.path()).is_ok_and(|found| found.ino() == inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_prints_them() {
        let sample = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(address(&format!("{sample:08X}:1F90")), Some("127.0.0.1:8080".parse().unwrap()));
        let mapped = format!("{:08X}{:08X}{:08X}{sample:08X}:0050", 0, 0, u32::from_ne_bytes([0, 0, 255, 255]));
        assert_eq!(address(&mapped), Some("127.0.0.1:80".parse().unwrap()));
        for wrong in ["", ":", "7F:1", "0100007F", "xxxxxxxx:0050"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_other_end_of_a_connection_of_this_test_is_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let found = find(client.local_addr().unwrap(), client.peer_addr().unwrap()).unwrap();
        let own = fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(found.uid, own);
        let group = fs::read_to_string("/proc/self/cgroup").unwrap();
        let group = group.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned);
        assert_eq!(found.cgroup, group);
    }
}
