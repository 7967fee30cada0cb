//! What the parent of a zone has of it, asked over TCP, against what it should have.

use anyhow::{Context, Result, anyhow};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RData, Record, RecordType},
    serialize::binary::BinEncodable,
};
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An operator waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lines for each record that one has and the other has not; none: the delegation is right. `wanted` are lines of a zone file.
pub(crate) fn compare(zone: &str, wanted: &[String], parent: SocketAddr) -> Result<Vec<String>> {
    let name = Name::from_ascii(zone).with_context(|| format!("`{zone}` is not a name"))?;
    let mut found = BTreeSet::new();
    let mut address_owners = BTreeSet::new();
    // A referral has the name servers in its authority section; a server of both zones has them in the answer.
    let referral = exchange(&name, RecordType::NS, parent)?;
    for record in referral.answers.iter().chain(&referral.authorities).chain(&referral.additionals) {
        if matches!(record.record_type(), RecordType::NS | RecordType::A | RecordType::AAAA) {
            found.insert(parts(record));
        }
        if record.record_type() == RecordType::NS {
            address_owners.insert(record.data.to_string().to_lowercase());
        }
    }
    let ds = exchange(&name, RecordType::DS, parent)?;
    found.extend(ds.answers.iter().filter(|record| record.record_type() == RecordType::DS).map(parts));
    let wanted: BTreeSet<_> = wanted.iter().filter_map(|line| parts_of_line(line)).collect();
    // Who serves both zones gives no glue with its answer; a parent answers these with the same referral.
    for (owner, of_type, _) in wanted.iter().filter(|(_, of_type, _)| of_type == "a" || of_type == "aaaa") {
        let reply = exchange(&Name::from_ascii(owner)?, of_type.to_uppercase().parse()?, parent)?;
        found.extend(reply.answers.iter().chain(&reply.additionals).map(parts));
    }
    // Addresses of servers elsewhere may ride along; they are not ours to judge.
    let below = format!(".{}.", zone.trim_end_matches('.').to_lowercase());
    let is_glue = |owner: &str| address_owners.contains(owner) && format!(".{owner}").ends_with(&below);
    found.retain(|(owner, of_type, _)| of_type == "ns" || of_type == "ds" || is_glue(owner));
    let line = |what: &str, (owner, of_type, data): &(String, String, String)| {
        format!("; {what}: {owner} {} {data}", of_type.to_uppercase())
    };
    let missing = wanted.difference(&found).map(|record| line("the parent lacks", record));
    let surplus = found.difference(&wanted).map(|record| line("the parent has, and should not", record));
    Ok(missing.chain(surplus).collect())
}

fn exchange(name: &Name, of_type: RecordType, server: SocketAddr) -> Result<Message> {
    let failed = || format!("{server} does not answer");
    let mut query = Message::query();
    query.add_query(Query::query(name.clone(), of_type));
    let octets = query.to_vec()?;
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).with_context(failed)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = u16::try_from(octets.len())?.to_be_bytes();
    stream.write_all(&[&length[..], &octets].concat()).with_context(failed)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).with_context(failed)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).with_context(failed)?;
    let reply = Message::from_vec(&reply).with_context(|| format!("{server} answers what is no message"))?;
    if reply.metadata.id != query.metadata.id {
        return Err(anyhow!("{server} answers another question"));
    }
    Ok(reply)
}

/// Owner, type and data, without case and spaces.
fn parts(record: &Record) -> (String, String, String) {
    let ds = Some(record).filter(|record| record.record_type() == RecordType::DS).and_then(|record| ds(&record.data));
    let text = ds.unwrap_or_else(|| record.data.to_string());
    let data = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    (record.name.to_string().to_lowercase(), record.record_type().to_string().to_lowercase(), data)
}

/// RFC 4034 §5.3, from the wire: without DNSSEC of its own the library knows the type by number alone.
fn ds(data: &RData) -> Option<String> {
    let octets = data.to_bytes().ok()?;
    let ([tag0, tag1, algorithm, digest_type], digest) = octets.split_first_chunk()?;
    let digest: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
    Some(format!("{} {algorithm} {digest_type} {digest}", u16::from_be_bytes([*tag0, *tag1])))
}

/// Of `owner ttl IN type data`.
fn parts_of_line(line: &str) -> Option<(String, String, String)> {
    let line = line.to_lowercase();
    let mut words = line.split_whitespace();
    let (owner, _ttl, _class, of_type) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some((owner.to_owned(), of_type.to_owned(), words.collect::<Vec<_>>().join(" ")))
}
