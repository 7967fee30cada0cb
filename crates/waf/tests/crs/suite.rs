//! The test files of a checkout, and the transactions they run in.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use portcullis_waf::ftw::Test;
use portcullis_waf::{Connection, Transaction, Waf};

/// All tests below a folder, in the order of their files.
pub(crate) fn load(folder: &Path) -> Vec<Test> {
    let sorted = |folder: &Path| {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries
    };
    let files = sorted(folder).into_iter().filter(|path| path.is_dir()).flat_map(|folder| sorted(&folder));
    let files = files.filter(|path| path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml"));
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Test::read(&name, &fs::read_to_string(path).unwrap()).unwrap()
    };
    files.flat_map(read).collect()
}

/// A transaction at the paranoia level of the rules.
pub(crate) fn begin(waf: &Waf) -> Transaction<'_> {
    waf.transaction(Connection {
        client: IpAddr::V4(Ipv4Addr::new(172, 18, 0, 1)),
        client_port: 40_000,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 80,
        unique_id: "test".to_owned(),
        now: Duration::from_secs(1_700_000_000),
    })
}
