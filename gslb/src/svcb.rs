//! Parameters of SVCB and HTTPS records (RFC 9460): text to wire and back. Used by `rdata` and by steered answers.

use crate::token::Token;
use data_encoding::BASE64;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Parameters by key, in the order that the wire has them.
pub(crate) type Params = BTreeMap<u16, Vec<u8>>;

pub(crate) const MANDATORY: u16 = 0;
pub(crate) const ALPN: u16 = 1;
pub(crate) const NO_DEFAULT_ALPN: u16 = 2;
pub(crate) const PORT: u16 = 3;
pub(crate) const IPV4HINT: u16 = 4;
pub(crate) const ECH: u16 = 5;
pub(crate) const IPV6HINT: u16 = 6;

/// RFC 9460 §14.3.2, with RFC 9461's dohpath and RFC 9540's ohttp.
const KEYS: [(&str, u16); 9] = [
    ("mandatory", MANDATORY),
    ("alpn", ALPN),
    ("no-default-alpn", NO_DEFAULT_ALPN),
    ("port", PORT),
    ("ipv4hint", IPV4HINT),
    ("ech", ECH),
    ("ipv6hint", IPV6HINT),
    ("dohpath", 7),
    ("ohttp", 8),
];

/// Reads parameters; an error says which token is wrong.
pub(crate) fn parse(tokens: &[Token]) -> Result<Vec<u8>, (usize, String)> {
    let mut params = BTreeMap::new();
    for (at, token) in tokens.iter().enumerate() {
        let (key, value) = match token.text.iter().position(|b| *b == b'=') {
            Some(cut) => (token.text.get(..cut).unwrap_or_default(), token.text.get(cut + 1..)),
            None => (token.text.as_slice(), None),
        };
        let key_text = String::from_utf8_lossy(key);
        let key = key_of(&key_text).ok_or_else(|| (at, format!("unknown parameter `{key_text}`")))?;
        let value = value.map(|text| Token { text: text.to_vec(), ..token.clone() }.unescaped());
        let value = match value {
            Some(None) => return Err((at, "a wrong escape".to_owned())),
            Some(Some(value)) => Some(value),
            None => None,
        };
        let value = param(key, value).map_err(|message| (at, format!("{key_text}: {message}")))?;
        if params.insert(key, value).is_some() {
            return Err((at, format!("`{key_text}` is given twice")));
        }
    }
    check(&params).map_err(|message| (0, message))?;
    Ok(wire(&params))
}

/// The parameters in wire form; a map is in the order of RFC 9460 §2.2.
pub(crate) fn wire(params: &BTreeMap<u16, Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in params {
        out.extend(key.to_be_bytes());
        // A value comes from one token or one list of addresses, each far below 64 KiB; the caller bounds the whole.
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(value);
    }
    out
}

/// The list of protocols as a value.
pub(crate) fn alpn_value<'p>(protocols: impl IntoIterator<Item = &'p [u8]>) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::new();
    for protocol in protocols {
        let length = u8::try_from(protocol.len()).ok().filter(|length| *length > 0);
        out.push(length.ok_or("a protocol has 1 to 255 octets")?);
        out.extend(protocol);
    }
    if out.is_empty() { Err("a protocol is missing") } else { Ok(out) }
}

fn key_of(text: &str) -> Option<u16> {
    let named = KEYS.iter().find(|(name, _)| *name == text).map(|(_, key)| *key);
    named.or_else(|| {
        let digits = text.strip_prefix("key")?;
        // RFC 9460 §2.1: without leading zeros; 65535 is reserved.
        let plain = !digits.is_empty() && (digits == "0" || !digits.starts_with('0'));
        digits.parse().ok().filter(|key| plain && *key != u16::MAX && digits.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn param(key: u16, value: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
    let given = |value: Option<Vec<u8>>| value.ok_or_else(|| "a value is missing".to_owned());
    let text = |value: Vec<u8>| String::from_utf8(value).map_err(|_| "not a text".to_owned());
    match key {
        MANDATORY => {
            let mut keys = Vec::new();
            for name in text(given(value)?)?.split(',') {
                keys.push(key_of(name).ok_or_else(|| format!("unknown parameter `{name}`"))?);
            }
            keys.sort_unstable();
            let before = keys.len();
            keys.dedup();
            if keys.len() != before || keys.contains(&MANDATORY) {
                return Err("names each other parameter once".to_owned());
            }
            Ok(keys.into_iter().flat_map(u16::to_be_bytes).collect())
        }
        ALPN => {
            let items = items(&given(value)?);
            alpn_value(items.iter().map(Vec::as_slice)).map_err(str::to_owned)
        }
        NO_DEFAULT_ALPN | 8 => match value {
            None => Ok(Vec::new()),
            Some(_) => Err("takes no value".to_owned()),
        },
        PORT => {
            let port: u16 = text(given(value)?)?.parse().map_err(|_| "a port is a number up to 65535".to_owned())?;
            Ok(port.to_be_bytes().to_vec())
        }
        IPV4HINT => addresses::<Ipv4Addr, 4>(&text(given(value)?)?, |address| address.octets()),
        IPV6HINT => addresses::<Ipv6Addr, 16>(&text(given(value)?)?, |address| address.octets()),
        ECH => BASE64.decode(&given(value)?).map_err(|_| "not base 64".to_owned()),
        7 => given(value),
        _ => Ok(value.unwrap_or_default()),
    }
}

fn addresses<A: std::str::FromStr, const N: usize>(text: &str, octets: fn(&A) -> [u8; N]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for item in text.split(',') {
        let address: A = item.parse().map_err(|_| format!("`{item}` is not an address of this family"))?;
        out.extend(octets(&address));
    }
    Ok(out)
}

/// RFC 9460 appendix A.1: a list at commas, where `\,` is a comma of an item.
fn items(text: &[u8]) -> Vec<Vec<u8>> {
    let mut items = vec![Vec::new()];
    let mut rest = text.iter().copied();
    while let Some(octet) = rest.next() {
        let item = match octet {
            b',' => {
                items.push(Vec::new());
                continue;
            }
            b'\\' => rest.next().unwrap_or(b'\\'),
            _ => octet,
        };
        if let Some(last) = items.last_mut() {
            last.push(item);
        }
    }
    items
}

/// RFC 9460 §8 and §7.1.1.
fn check(params: &BTreeMap<u16, Vec<u8>>) -> Result<(), String> {
    let mandatory = params.get(&MANDATORY).map_or(&[][..], Vec::as_slice);
    let missing = mandatory.as_chunks::<2>().0.iter().find(|key| !params.contains_key(&u16::from_be_bytes(**key)));
    if let Some(key) = missing {
        return Err(format!("key {} is mandatory and not given", u16::from_be_bytes(*key)));
    }
    if params.contains_key(&NO_DEFAULT_ALPN) && !params.contains_key(&ALPN) {
        return Err("`no-default-alpn` needs `alpn`".to_owned());
    }
    Ok(())
}

fn read(mut rest: &[u8]) -> Option<BTreeMap<u16, Vec<u8>>> {
    let mut params = BTreeMap::new();
    while !rest.is_empty() {
        let (key, tail) = rest.split_first_chunk()?;
        let (length, tail) = tail.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let key = u16::from_be_bytes(*key);
        // RFC 9460 §2.2: in strictly rising order.
        if params.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        params.insert(key, tail.get(..length)?.to_vec());
        rest = tail.get(length..)?;
    }
    Some(params)
}

pub(crate) fn is_wire_form(octets: &[u8]) -> bool {
    read(octets).is_some_and(|params| check(&params).is_ok())
}

/// For people; values of list and address keys as texts, others as hexadecimal.
pub(crate) fn display(octets: &[u8]) -> String {
    let params = read(octets).unwrap_or_default();
    let one = |(key, value): (u16, Vec<u8>)| {
        let name =
            KEYS.iter().find(|(_, number)| *number == key).map_or_else(|| format!("key{key}"), |(n, _)| (*n).into());
        let list = |items: Vec<String>| items.join(",");
        let text = match key {
            NO_DEFAULT_ALPN => return name,
            PORT => value.iter().fold(0u32, |port, octet| port << 8 | u32::from(*octet)).to_string(),
            IPV4HINT => list(value.as_chunks().0.iter().map(|a: &[u8; 4]| Ipv4Addr::from(*a).to_string()).collect()),
            IPV6HINT => list(value.as_chunks().0.iter().map(|a: &[u8; 16]| Ipv6Addr::from(*a).to_string()).collect()),
            ALPN => {
                let (mut rest, mut names) = (value.as_slice(), Vec::new());
                while let Some((length, tail)) = rest.split_first() {
                    let (protocol, behind) = tail.split_at_checked(usize::from(*length)).unwrap_or((tail, &[]));
                    names.push(String::from_utf8_lossy(protocol).into_owned());
                    rest = behind;
                }
                list(names)
            }
            ECH => BASE64.encode(&value),
            _ => data_encoding::HEXUPPER.encode(&value),
        };
        format!("{name}={text}")
    };
    params.into_iter().map(one).collect::<Vec<_>>().join(" ")
}
