//! Suites that are refused one by one: those that openssl can still offer, and all others by number.

use super::{HANDSHAKE_FAILURE, lab::Lab};
use crate::support::{
    hello::{Answer, Hello, ask},
    s_client::s_client,
};
use std::sync::Arc;

/// What openssl needs to be told before it lists what is out of date.
const OLD: &str = "ALL:COMPLEMENTOFALL:@SECLEVEL=0";

/// Families of openssl's own list, by its columns: key exchange, authentication, encryption.
pub(super) const FAMILIES: &[(&str, fn(&Suite) -> bool)] = &[
    ("CBC with ECDHE", |suite| suite.kx == "ECDH" && suite.is_cbc() && suite.au != "None"),
    ("RSA key exchange", |suite| suite.kx == "RSA" && suite.enc != "None"),
    ("finite-field DHE", |suite| suite.kx == "DH" && suite.au != "None"),
    ("anonymous", |suite| suite.au == "None"),
    ("no encryption", |suite| suite.enc == "None"),
    ("CCM and ARIA with ECDHE", |suite| {
        suite.kx == "ECDH" && (suite.enc.contains("CCM") || suite.enc.contains("ARIA"))
    }),
];

pub(super) struct Suite {
    name: String,
    kx: String,
    au: String,
    enc: String,
}

impl Suite {
    fn is_cbc(&self) -> bool {
        self.enc.starts_with("AES(") || self.enc.starts_with("Camellia(")
    }

    /// What openssl can offer without further secrets.
    async fn all() -> Vec<Self> {
        let output = tokio::process::Command::new("openssl").args(["ciphers", "-v", OLD]).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let suites = text.lines().filter_map(|line| {
            let mut columns = line.split_whitespace();
            let (name, _) = (columns.next()?.to_owned(), columns.next()?);
            let mut column = || Some(columns.next()?.split_once('=')?.1.to_owned());
            Some(Self { name, kx: column()?, au: column()?, enc: column()? })
        });
        suites.filter(|suite| !suite.kx.contains("PSK") && suite.au != "PSK" && suite.kx != "SRP").collect()
    }
}

pub(super) async fn refuses_each(lab: Arc<Lab>, belongs: fn(&Suite) -> bool) {
    let suites: Vec<_> = Suite::all().await.into_iter().filter(belongs).collect();
    assert!(!suites.is_empty(), "openssl has none of them");
    for suite in suites {
        let arguments = format!("-tls1_2 -cipher {}:@SECLEVEL=0", suite.name);
        s_client(lab.addr("https"), &arguments).await.must_be_refused(HANDSHAKE_FAILURE);
    }
}

/// What openssl has forgotten, by number.
pub(super) const FORGOTTEN: &[(&str, &[u16])] = &[
    ("RC4", &[0x0004, 0x0005, 0x0018, 0x008a, 0x008e, 0x0092, 0xc002, 0xc007, 0xc00c, 0xc011, 0xc016, 0xc033]),
    ("triple DES", &[0x000a, 0x000d, 0x0010, 0x0013, 0x0016, 0x001b, 0x008b, 0xc003, 0xc008, 0xc00d, 0xc012, 0xc017]),
    ("export", &[0x0003, 0x0006, 0x0008, 0x000b, 0x000e, 0x0011, 0x0014, 0x0017, 0x0019, 0x0062, 0x0063, 0x0064]),
    ("single DES and IDEA", &[0x0007, 0x0009, 0x000c, 0x000f, 0x0012, 0x0015, 0x001a]),
];

/// Ours, and the two that are no suites but signals (RFC 5746, RFC 7507).
const NOT_OTHERS: [u16; 8] = [0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9, 0x00ff, 0x5600];

pub(super) fn other_numbers() -> Vec<u16> {
    let blocks = (0x0000..=0x00ff).chain(0xc000..=0xc0ff).chain(0xcca0..=0xccaf).chain(0xd000..=0xd00f);
    blocks.filter(|number| !NOT_OTHERS.contains(number)).collect()
}

pub(super) async fn refuses_numbers(lab: Arc<Lab>, suites: Vec<u16>) {
    let offer = |suite: u16| Hello::tls12().with(|hello| hello.suites = vec![suite, 0x00ff]).records();
    assert_eq!(ask(lab.addr("https"), &offer(0xc02b)).await.hello().suite, 0xc02b, "one of ours is served like this");
    for suite in suites {
        let answer = ask(lab.addr("https"), &offer(suite)).await;
        assert_eq!(answer, Answer::Alert(HANDSHAKE_FAILURE), "{suite:#06x}");
    }
}
