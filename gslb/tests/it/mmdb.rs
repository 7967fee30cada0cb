//! Writes small databases in MaxMind's format (version 2.0, 24-bit records), so that none has to be shipped.

use std::{collections::HashMap, net::IpAddr};

/// A value of a record.
pub(crate) enum Value {
    Text(&'static str),
    Number(u32),
    Short(u16),
    Long(u64),
    Map(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}

/// A database of these networks, which must not overlap.
pub(crate) fn database(networks: Vec<(&str, Value)>) -> Vec<u8> {
    let mut nodes: Vec<[Option<Child>; 2]> = vec![[None, None]];
    let mut data = Vec::new();
    for (network, value) in networks {
        let (address, length) = network.split_once('/').unwrap();
        let length: usize = length.parse().unwrap();
        // IPv4 lies at ::/96.
        let (bits, length) = match address.parse().unwrap() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), length + 96),
            IpAddr::V6(v6) => (u128::from(v6), length),
        };
        let place = data.len();
        write(&value, &mut data);
        let mut node = 0;
        for depth in 0..length {
            let side = (bits >> (127 - depth) & 1) as usize;
            if depth + 1 == length {
                nodes[node][side] = Some(Child::Data(place));
            } else {
                let next = match nodes[node][side] {
                    Some(Child::Node(next)) => next,
                    Some(Child::Data(_)) => panic!("networks overlap"),
                    None => {
                        nodes.push([None, None]);
                        let next = nodes.len() - 1;
                        nodes[node][side] = Some(Child::Node(next));
                        next
                    }
                };
                node = next;
            }
        }
    }
    let count = nodes.len();
    let mut out = Vec::new();
    for node in &nodes {
        for child in node {
            let record = match child {
                None => count,
                Some(Child::Node(next)) => *next,
                Some(Child::Data(place)) => count + 16 + place,
            };
            out.extend(&(record as u32).to_be_bytes()[1..]);
        }
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata = Value::Map(vec![
        ("binary_format_major_version", Value::Short(2)),
        ("binary_format_minor_version", Value::Short(0)),
        ("build_epoch", Value::Long(1)),
        ("database_type", Value::Text("Test")),
        ("description", Value::Map(vec![])),
        ("ip_version", Value::Short(6)),
        ("languages", Value::List(vec![])),
        ("node_count", Value::Number(count as u32)),
        ("record_size", Value::Short(24)),
    ]);
    write(&metadata, &mut out);
    out
}

#[derive(Clone, Copy)]
enum Child {
    Node(usize),
    Data(usize),
}

fn write(value: &Value, out: &mut Vec<u8>) {
    // Sizes stay below 29, where they fit the control octet.
    match value {
        Value::Text(text) => text_of(text, out),
        Value::Number(number) => {
            // Type 6: an unsigned number of 32 bits.
            out.push(6 << 5 | 4);
            out.extend(number.to_be_bytes());
        }
        Value::Short(number) => {
            // Type 5: 16 bits.
            out.push(5 << 5 | 2);
            out.extend(number.to_be_bytes());
        }
        Value::Long(number) => {
            // An extended type: 9 is 7 + 2, 64 bits.
            out.extend([8, 2]);
            out.extend(number.to_be_bytes());
        }
        Value::Map(entries) => {
            out.push(7 << 5 | entries.len() as u8);
            for (key, value) in entries {
                text_of(key, out);
                write(value, out);
            }
        }
        Value::List(items) => {
            // An extended type: 11 is 7 + 4.
            out.extend([items.len() as u8, 4]);
            items.iter().for_each(|item| write(item, out));
        }
    }
}

fn text_of(text: &str, out: &mut Vec<u8>) {
    assert!(text.len() < 29);
    out.push(2 << 5 | text.len() as u8);
    out.extend(text.bytes());
}

/// The flat form of smaller databases.
pub(crate) fn country(code: &'static str) -> Value {
    Value::Map(vec![("country_code", Value::Text(code))])
}

#[test]
fn what_is_written_is_what_is_read() {
    let octets = database(vec![("203.0.113.0/24", country("DE")), ("2001:db8::/32", country("US"))]);
    let reader = maxminddb::Reader::from_source(octets).unwrap();
    for (address, expected) in [("203.0.113.9", Some("DE")), ("203.0.114.0", None), ("2001:db8::1", Some("US"))] {
        let found: Option<HashMap<String, String>> = reader.lookup(address.parse().unwrap()).unwrap().decode().unwrap();
        assert_eq!(found.map(|record| record["country_code"].clone()).as_deref(), expected, "{address}");
    }
}
