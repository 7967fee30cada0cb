//! A snapshot from texts, and questions in one line.

use hickory_proto::{op::Message, rr::RData};
use portcullis_config::Document;
use portcullis_gslb::{Asked, Clocks, GslbSpec, Name, RecordType, Registries, Snapshot, Transport};
use portcullis_tls::{Certificates, Trusts};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

/// Compiles a document with the zone file `example.zone` beside it; gives the problems when there are errors.
pub(crate) fn compile(document: &str, zone: &str) -> Result<Arc<Snapshot>, Vec<String>> {
    let (snapshot, problems) = compile_all(document, zone, None);
    snapshot.ok_or(problems)
}

/// The snapshot, unless there are errors, and every problem.
pub(crate) fn compile_all(
    document: &str,
    zone: &str,
    previous: Option<&Snapshot>,
) -> (Option<Arc<Snapshot>>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("example.zone"), zone).unwrap();
    compile_in(folder.path(), document, previous)
}

pub(crate) fn compile_in(
    folder: &Path,
    document: &str,
    previous: Option<&Snapshot>,
) -> (Option<Arc<Snapshot>>, Vec<String>) {
    compile_at(folder, document, previous, clocks(0))
}

const CERTIFICATE: &str =
    r#"{ "node": { "cert": { "file": "FOLDER/node.crt" }, "key": { "file": "FOLDER/node.key" } } }"#;
const TRUST: &str = r#"{ "nodes": { "ca": { "file": "FOLDER/ca.crt" } } }"#;

fn in_folder<T: serde::de::DeserializeOwned>(json: &str, folder: &Path) -> T {
    serde_json::from_str(&json.replace("FOLDER", &folder.display().to_string())).unwrap()
}

pub(crate) fn compile_at(
    folder: &Path,
    document: &str,
    previous: Option<&Snapshot>,
    at: Clocks,
) -> (Option<Arc<Snapshot>>, Vec<String>) {
    let file = folder.join("dns.toml");
    std::fs::write(&file, document).unwrap();
    let (document, report) = Document::load(&[file]);
    let (spec, mut cx) = Arc::new(document).read::<GslbSpec>(report, &[]);
    let snapshot = spec.map(|mut spec| {
        // A node's certificate and its trust, where there are some.
        let (certificate, trust) = if folder.join("node.crt").exists() { (CERTIFICATE, TRUST) } else { ("{}", "{}") };
        let certificates = Certificates::compile(&in_folder(certificate, folder), &mut cx);
        let trusts = Trusts::compile(&in_folder(trust, folder), &mut cx);
        let registries = Registries { certificates: &certificates, trusts: &trusts, upstreams: &BTreeMap::new() };
        spec.state = Some(folder.join("zones"));
        Snapshot::compile(&spec, registries, previous, at, &mut cx)
    });
    let report = cx.finish().0;
    let folder = format!("{}/", folder.display());
    let problems = report.lines().iter().map(|line| line.replace(&folder, "")).collect();
    (snapshot.filter(|_| !report.has_errors()), problems)
}

pub(crate) const NOW: u32 = 1_800_000_000;

/// So many seconds after the tests began.
pub(crate) fn clocks(seconds: u64) -> Clocks {
    clocks_in_millis(seconds * 1_000)
}

pub(crate) fn clocks_in_millis(millis: u64) -> Clocks {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Clocks { instant: *START + Duration::from_millis(millis), unix: u64::from(NOW) + millis / 1_000 }
}

/// A question as `NAME TYPE` with any of `do`, `edns`, `tcp`, `tls`, `size=N`, `ecs=PREFIX`, `class=N`, `from=ADDRESS`,
/// `option=CODE:HEX`.
pub(crate) struct Question {
    pub(crate) octets: Vec<u8>,
    pub(crate) asked: Asked,
}

pub(crate) fn question(text: &str) -> Question {
    let mut words = text.split(' ');
    let (name, of_type) = (words.next().unwrap(), words.next().unwrap());
    let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.example.test.") };
    let name = name.strip_prefix("@.").unwrap_or(&name);
    let of_type: RecordType = of_type.parse().unwrap();
    let mut asked = Asked { client: "192.0.2.200".parse().unwrap(), transport: Transport::Udp, now: NOW, draw: 1 };
    let (mut class, mut size, mut flags, mut edns, mut options) = (1u16, 1232u16, 0u32, false, Vec::new());
    for word in words {
        edns |= !matches!(word.split('=').next().unwrap(), "tcp" | "tls" | "class" | "from" | "draw");
        match word.split_once('=').unwrap_or((word, "")) {
            ("edns", _) => {}
            ("do", _) => flags |= 0x8000,
            ("version", n) => flags |= n.parse::<u32>().unwrap() << 16,
            ("tcp", _) => asked.transport = Transport::Tcp,
            ("tls", _) => asked.transport = Transport::Tls,
            ("size", n) => size = n.parse().unwrap(),
            ("class", n) => class = n.parse().unwrap(),
            ("from", address) => asked.client = address.parse().unwrap(),
            ("draw", n) => asked.draw = n.parse().unwrap(),
            ("ecs", prefix) => options.extend(subnet(prefix)),
            ("option", option) => {
                let (code, hex) = option.split_once(':').unwrap();
                let data = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
                options.extend(code.parse::<u16>().unwrap().to_be_bytes());
                options.extend((data.len() as u16).to_be_bytes());
                options.extend(data);
            }
            _ => panic!("{word}"),
        }
    }
    let mut octets = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    octets.extend(Name::absolute(name).unwrap().as_wire());
    octets.extend(of_type.0.to_be_bytes());
    octets.extend(class.to_be_bytes());
    if edns {
        octets.extend([0, 0, 41]);
        octets.extend(size.to_be_bytes());
        octets.extend(flags.to_be_bytes());
        octets.extend((options.len() as u16).to_be_bytes());
        octets.extend(options);
    }
    Question { octets, asked }
}

fn subnet(prefix: &str) -> Vec<u8> {
    let (address, length) = prefix.split_once('/').unwrap();
    let length: u8 = length.parse().unwrap();
    let octets = usize::from(length).div_ceil(8);
    let (family, address) = match address.parse().unwrap() {
        std::net::IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        std::net::IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    [&[0, 8, 0, 4 + octets as u8, 0, family, length, 0][..], &address[..octets]].concat()
}

/// The reply, read by a strict reader of somebody else.
pub(crate) fn ask(snapshot: &Snapshot, text: &str) -> Message {
    let question = question(text);
    let octets = snapshot.answer(&question.octets, &question.asked).unwrap();
    if question.asked.transport == Transport::Udp {
        assert!(octets.len() <= 1232, "{text}: {} octets", octets.len());
    }
    Message::from_vec(&octets).unwrap_or_else(|error| panic!("{text}: {error}: {octets:?}"))
}

/// `NOERROR aa`, then the records of each section behind `|`.
pub(crate) fn shown(message: &Message) -> String {
    let mut out = format!("{:?}", message.metadata.response_code).to_uppercase();
    for (flag, name) in [
        (message.metadata.authoritative, " aa"),
        (message.metadata.truncation, " tc"),
        (message.metadata.recursion_available, " ra"),
        (message.metadata.authentic_data, " ad"),
    ] {
        if flag {
            out.push_str(name);
        }
    }
    for section in [&message.answers, &message.authorities, &message.additionals] {
        out.push_str(" |");
        for record in section {
            let data = match &record.data {
                RData::Unknown { rdata, .. } => data_encoding::HEXLOWER.encode(&rdata.anything),
                data => data.to_string(),
            };
            out.push_str(&format!(" {} {} {} {data};", record.name, record.ttl, record.record_type()));
        }
    }
    out.replace("example.test.", "~").trim_end_matches([' ', '|']).to_owned()
}
