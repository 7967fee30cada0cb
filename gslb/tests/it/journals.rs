//! Journals over restarts: changes are given after one as before it; what is wrong on disk costs whole transfers and nothing else.

use crate::{
    support::{ask, clocks, compile_at, question},
    transfers::{exchange, serve},
};
use hickory_proto::{op::Message, rr::RData};
use portcullis_gslb::Snapshot;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

fn document(address: &str, serial: &str) -> String {
    format!(
        "[zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\n\
         soa = {{ mname = \"ns.other.test\", rname = \"noc.other.test\"{serial} }}\n\
         records = [\"www 60 A {address}\", \"$GENERATE 1-30 host-$ 60 A 10.0.0.1\", \"t TXT \\\"a \\\\\\\" b\\\"\"]\n\
         transfer = {{ to = [\"127.0.0.0/8\"] }}\n\
         [public_service.shop]\nhost = \"shop.example.test\"\nsites = {{ a = [\"{address}\"] }}\n"
    )
}

fn compile(folder: &Path, text: &str, previous: Option<&Snapshot>, second: u64) -> Arc<Snapshot> {
    let (snapshot, problems) = compile_at(folder, text, previous, clocks(second));
    let snapshot = snapshot.unwrap_or_else(|| panic!("{problems:#?}"));
    match previous {
        Some(_) => snapshot.settle(clocks(second)),
        None => snapshot.keep_journals(),
    }
    snapshot
}

fn serial(snapshot: &Snapshot) -> u32 {
    let reply = ask(snapshot, "@ SOA");
    let RData::SOA(soa) = &reply.answers[0].data else { panic!("{reply:?}") };
    soa.serial
}

/// What a secondary with this serial gets.
fn since(snapshot: &Arc<Snapshot>, serial: u32) -> Vec<String> {
    let (_live, _server, mut stream) = serve(snapshot.clone());
    let mut octets = question("@ IXFR").octets;
    octets[9] = 1;
    octets.extend(b"\xc0\x0c\0\x06\0\x01\0\0\0\0\0\x16\0\0");
    octets.extend(serial.to_be_bytes());
    octets.extend([0; 16]);
    let answers = Message::from_vec(&exchange(&mut stream, &octets)).unwrap().answers;
    answers.iter().map(|record| format!("{} {} {}", record.name, record.record_type(), record.data)).collect()
}

fn journal(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder.join("zones")).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "journal")).unwrap()
}

#[test]
fn rfc1995_changes_are_given_after_a_restart_as_before_it() {
    for counts in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let of =
            |n: u32| document(&format!("192.0.2.{n}"), &if counts { String::new() } else { format!(", serial = {n}") });
        let first = compile(folder.path(), &of(1), None, 0);
        let second = compile(folder.path(), &of(2), Some(&first), 10);
        let told = since(&second, serial(&first));
        // The new SOA, the old one, what goes, the new one, what comes, the new SOA: `www`, and the service's member.
        assert_eq!(told.len(), 1 + 1 + 2 + 1 + 2 + 1, "{told:#?}");
        let again = compile(folder.path(), &of(2), None, 500);
        assert_eq!(serial(&again), serial(&second), "nothing has changed");
        assert_eq!(since(&again, serial(&first)), told);
        // It goes on from there, over a second restart as well.
        let third = compile(folder.path(), &of(3), Some(&again), 510);
        let again = compile(folder.path(), &of(3), None, 900);
        assert_eq!(since(&again, serial(&first)), since(&third, serial(&first)));
        assert_eq!(since(&again, serial(&first)).len(), 2 + 2 * 6, "two steps");
        // What changes while nobody runs is known to nobody: the serial moves on, and the zone is given whole.
        let other = compile(folder.path(), &of(4), None, 1_000);
        assert!(serial(&other) > serial(&third));
        assert!(since(&other, serial(&third)).len() > 30);
        // And what was before it is not taken up again.
        let back = compile(folder.path(), &of(3), None, 1_100);
        assert!(!counts || serial(&back) > serial(&other));
        assert!(since(&back, serial(&first)).len() > 30 || serial(&back) == serial(&first));
    }
}

#[test]
fn a_journal_that_is_damaged_is_not_used_and_the_zone_is_served_and_given_whole() {
    let folder = tempfile::tempdir().unwrap();
    let of = |n: u32| document(&format!("192.0.2.{n}"), &format!(", serial = {n}"));
    let first = compile(folder.path(), &of(1), None, 0);
    let second = compile(folder.path(), &of(2), Some(&first), 10);
    let file = journal(folder.path());
    let whole = std::fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut octets = whole.clone();
        octets[at] ^= 1;
        octets
    };
    let mut damages = vec![Vec::new(), b"journal 1".to_vec(), vec![0xff; 100], vec![b'x'; 5 << 20], b"\n".to_vec()];
    damages.extend((0..whole.len()).step_by(97).map(|at| whole[..at].to_vec()));
    damages.extend((0..whole.len()).step_by(61).map(flipped));
    for damaged in damages {
        std::fs::write(&file, &damaged).unwrap();
        let (again, problems) = compile_at(folder.path(), &of(2), None, clocks(500));
        let again = again.unwrap_or_else(|| panic!("{problems:#?}"));
        assert_eq!(ask(&again, "www A").answers.len(), 1);
        // Not one octet may be changed: whatever reads well is what was written.
        let given = since(&again, 1).len();
        assert!(given > 30, "{given}: {:?}", String::from_utf8_lossy(&damaged));
    }
    std::fs::write(&file, b"nothing of use").unwrap();
    let again = compile(folder.path(), &of(2), None, 500);
    assert!(since(&again, 1).len() > 30 && serial(&again) == serial(&second));
    assert!(!file.exists(), "it is gone when the zone serves");
}

#[test]
fn without_a_place_for_journals_changes_are_given_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let of = |n: u32| document(&format!("192.0.2.{n}"), &format!(", serial = {n}"));
    // No folder can be made there, as none can be written to when a disk is full.
    std::fs::write(folder.path().join("zones"), "in the way").unwrap();
    let first = compile(folder.path(), &of(1), None, 0);
    let second = compile(folder.path(), &of(2), Some(&first), 10);
    assert_eq!(since(&second, 1).len(), 8);
    // When there is room again, the next change is kept.
    std::fs::remove_file(folder.path().join("zones")).unwrap();
    let third = compile(folder.path(), &of(3), Some(&second), 20);
    let again = compile(folder.path(), &of(3), None, 500);
    assert_eq!(since(&again, 1), since(&third, 1));
}
