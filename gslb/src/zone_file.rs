//! Reads zone files (RFC 1035 §5, RFC 2308 §4, RFC 3597 §5) with `$ORIGIN`, `$TTL`, `$INCLUDE` and BIND's `$GENERATE`.
//!
//! Gives records in the order written, each with its place. What they mean together is judged by `zone`.

use crate::{
    Name, RecordType, rdata,
    token::{Entry, Token, Tokens},
};
use portcullis_config::{Context, Path};
use std::{fmt, path::PathBuf, sync::Arc};

/// One record as written.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) owner: Name,
    pub(crate) of_type: RecordType,
    pub(crate) ttl: u32,
    pub(crate) rdata: Box<[u8]>,
    pub(crate) origin: Origin,
}

/// Where a record was written.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    File {
        file: Arc<str>,
        line: usize,
    },
    /// In the document itself.
    Document(Path),
    /// Made from keys of the zone's table.
    Made,
    /// Sent by a client (RFC 2136).
    Update,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{file}:{line}: "),
            Self::Update => f.write_str("(sent by an update) "),
            Self::Document(_) | Self::Made => Ok(()),
        }
    }
}

/// Reads the records of one zone from any number of texts.
pub(crate) struct ZoneReader<'c> {
    cx: &'c mut Context,
    /// Where the document names the zone file.
    at: Path,
    apex: Name,
    records: Vec<Record>,
    problems: usize,
    includes: usize,
    full: bool,
}

/// What one text has said so far.
#[derive(Debug, Clone)]
struct State {
    origin: Name,
    /// `$TTL`, or the zone's `ttl`.
    default_ttl: Option<u32>,
    last_ttl: Option<u32>,
    owner: Option<Name>,
    file: Option<File>,
}

#[derive(Debug, Clone)]
struct File {
    /// As shown in messages.
    shown: Arc<str>,
    path: PathBuf,
    depth: usize,
}

/// Records of one zone.
const RECORDS_MAX: usize = 1_000_000;
/// Problems of one zone that are shown: a file in another format is wrong in every line.
const PROBLEMS_MAX: usize = 20;
const INCLUDE_DEPTH_MAX: usize = 8;
const INCLUDES_MAX: usize = 256;
/// Records that one `$GENERATE` makes.
const GENERATE_MAX: u32 = 65_536;
/// RFC 2181 §8: the top bit of a time to live is not used.
const TTL_MAX: u32 = i32::MAX as u32;

impl<'c> ZoneReader<'c> {
    pub(crate) fn new(apex: &Name, at: Path, cx: &'c mut Context) -> Self {
        Self { cx, at, apex: apex.clone(), records: Vec::new(), problems: 0, includes: 0, full: false }
    }

    pub(crate) fn finish(self) -> Vec<Record> {
        self.records
    }

    /// Reads the file that the document names.
    pub(crate) fn file(&mut self, path: &std::path::Path, default_ttl: Option<u32>) {
        let resolved = self.cx.resolve(&self.at, path);
        let shown = path.display().to_string().into();
        if let Some(bytes) = self.cx.read(&self.at.clone(), path) {
            let file = File { shown, path: resolved, depth: 0 };
            self.text(&bytes, &mut self.state(default_ttl, Some(file)));
        }
    }

    /// Reads lines that stand in the document itself.
    pub(crate) fn lines(&mut self, lines: &[String], at: &Path, default_ttl: Option<u32>) {
        let file_at = std::mem::replace(&mut self.at, at.clone());
        let mut state = self.state(default_ttl, None);
        for (index, line) in lines.iter().enumerate() {
            self.at = at.index(index);
            self.text(line.as_bytes(), &mut state);
        }
        self.at = file_at;
    }

    fn state(&self, default_ttl: Option<u32>, file: Option<File>) -> State {
        State { origin: self.apex.clone(), default_ttl, last_ttl: None, owner: None, file }
    }

    fn text(&mut self, bytes: &[u8], state: &mut State) {
        for entry in Tokens::new(bytes) {
            match entry {
                Ok(entry) => self.entry(&entry, state),
                Err(error) => self.problem(state, error.line, error.column, error.message),
            }
            if self.full {
                return;
            }
        }
    }

    fn problem(&mut self, state: &State, line: usize, column: usize, message: impl fmt::Display) {
        self.problems += 1;
        let message = match &state.file {
            Some(file) => format!("{}:{line}:{column}: {message}", file.shown),
            None => format!("character {column}: {message}"),
        };
        if self.problems <= PROBLEMS_MAX {
            self.cx.error(&self.at, message);
        } else if self.problems == PROBLEMS_MAX + 1 {
            self.cx.error(&self.at, "more problems of this zone are not shown");
            self.full = true;
        }
    }

    fn at_token(&mut self, state: &State, token: &Token, message: impl fmt::Display) {
        self.problem(state, token.line, token.column, message);
    }

    fn entry(&mut self, entry: &Entry, state: &mut State) {
        let Some(first) = entry.tokens.first() else { return };
        let directive = first.str().filter(|text| text.starts_with('$') && !first.quoted && !entry.indented);
        let rest = entry.tokens.get(1..).unwrap_or_default();
        match directive.map(str::to_ascii_uppercase).as_deref() {
            None => self.record(&entry.tokens, entry.indented, state),
            Some("$ORIGIN") => {
                if let Some(name) = self.only_name(first, rest, state) {
                    state.origin = name;
                }
            }
            Some("$TTL") => match rest {
                [ttl] => match ttl.str().and_then(rdata::seconds).filter(|ttl| *ttl <= TTL_MAX) {
                    Some(ttl) => state.default_ttl = Some(ttl),
                    None => self.at_token(state, ttl, "expected a time to live, like 3600 or 1h"),
                },
                _ => self.at_token(state, first, "$TTL takes one time to live"),
            },
            Some("$INCLUDE") => self.include(first, rest, state),
            Some("$GENERATE") => self.generate(first, rest, state),
            Some(_) => self.at_token(state, first, "unknown directive (known: $GENERATE, $INCLUDE, $ORIGIN, $TTL)"),
        }
    }

    fn only_name(&mut self, directive: &Token, rest: &[Token], state: &State) -> Option<Name> {
        let [token] = rest else {
            self.at_token(state, directive, "one name is expected here");
            return None;
        };
        self.name(token, state)
    }

    fn name(&mut self, token: &Token, state: &State) -> Option<Name> {
        let text = token.str();
        let name = text.map(|text| Name::parse(text, Some(&state.origin)));
        match name {
            Some(Ok(name)) => return Some(name),
            Some(Err(error)) => self.at_token(state, token, format_args!("not a name: {error}")),
            None => self.at_token(state, token, "not a name: write octets above 127 as \\DDD"),
        }
        None
    }

    /// RFC 1035 §5.1: the included file neither changes the origin nor the owner of the including one.
    fn include(&mut self, directive: &Token, rest: &[Token], state: &State) {
        let (Some(token), None) = (rest.first(), rest.get(2)) else {
            return self.at_token(state, directive, "$INCLUDE takes a file and, if need be, an origin");
        };
        let Some(file) = &state.file else {
            return self.at_token(state, directive, "$INCLUDE is for zone files; here write `file`");
        };
        if file.depth + 1 > INCLUDE_DEPTH_MAX || self.includes >= INCLUDES_MAX {
            return self.at_token(state, token, "too many files include one another");
        }
        let origin = match rest.get(1) {
            Some(origin) => match self.name(origin, state) {
                Some(origin) => origin,
                None => return,
            },
            None => state.origin.clone(),
        };
        let Some(name) = token.unescaped().and_then(|name| String::from_utf8(name).ok()) else {
            return self.at_token(state, token, "not the name of a file");
        };
        let folder = file.path.parent().map(ToOwned::to_owned).unwrap_or_default();
        let path = folder.join(&name);
        self.includes += 1;
        let included = File { shown: name.into(), path: path.clone(), depth: file.depth + 1 };
        let mut inner = State { origin, owner: None, file: Some(included), ..state.clone() };
        if let Some(bytes) = self.cx.read(&self.at.clone(), &path) {
            self.text(&bytes, &mut inner);
        }
    }

    /// `$GENERATE 1-10/2 host-$ 300 A 10.0.0.$`, with BIND's `${offset,width,base}`.
    fn generate(&mut self, directive: &Token, rest: &[Token], state: &mut State) {
        let Some((range, pattern)) = rest.split_first().filter(|(_, pattern)| pattern.len() >= 3) else {
            return self.at_token(state, directive, "$GENERATE takes a range and a record");
        };
        let Some((first, last, step)) = range.str().and_then(generate_range) else {
            return self.at_token(state, range, "expected a range, like 1-100 or 0-20/2");
        };
        if (last - first) / step >= GENERATE_MAX {
            return self.at_token(state, range, format_args!("more than {GENERATE_MAX} records"));
        }
        let problems = self.problems;
        for number in (first..=last).step_by(step as usize) {
            let mut tokens = Vec::with_capacity(pattern.len());
            for token in pattern {
                match substituted(&token.text, number) {
                    Some(text) => tokens.push(Token { text, ..token.clone() }),
                    None => return self.at_token(state, token, "expected `$` or `${offset,width,base}`"),
                }
            }
            self.record(&tokens, false, state);
            // What is wrong in one record of a pattern is wrong in all.
            if self.problems > problems || self.full {
                return;
            }
        }
    }

    fn record(&mut self, tokens: &[Token], indented: bool, state: &mut State) {
        let mut rest = tokens;
        let Some(first) = rest.first() else { return };
        if !indented {
            let Some(owner) = self.name(first, state) else { return };
            state.owner = Some(owner);
            rest = rest.get(1..).unwrap_or_default();
        }
        let Some(owner) = state.owner.clone() else {
            return self.at_token(state, first, "the first record needs an owner");
        };
        let Some((ttl, of_type, data)) = self.head(first, rest, state) else { return };
        let rdata = match rdata::parse(of_type, data, &state.origin) {
            Ok(rdata) => rdata,
            Err(error) => {
                let place = error.token.and_then(|at| data.get(at)).or(tokens.last()).unwrap_or(first);
                return self.at_token(state, place, format_args!("{of_type}: {}", error.message));
            }
        };
        if ttl.is_some() {
            state.last_ttl = ttl;
        }
        let Some(ttl) = ttl.or(state.default_ttl).or(state.last_ttl).or_else(|| soa_minimum(of_type, &rdata)) else {
            return self.at_token(state, first, "no time to live: give one, or a $TTL before it");
        };
        state.last_ttl = Some(ttl);
        if !owner.is_at_or_under(&self.apex) {
            let message = format!("{owner} is not in the zone {}", self.apex);
            return self.at_token(state, first, message);
        }
        if self.records.len() >= RECORDS_MAX {
            self.full = true;
            return self.at_token(state, first, format_args!("more than {RECORDS_MAX} records"));
        }
        let origin = match &state.file {
            Some(file) => Origin::File { file: file.shown.clone(), line: first.line },
            None => Origin::Document(self.at.clone()),
        };
        self.records.push(Record { owner, of_type, ttl, rdata: rdata.into(), origin });
    }

    /// Time to live and class, in any order, and the type (RFC 1035 §5.1).
    fn head<'t>(
        &mut self,
        first: &Token,
        mut rest: &'t [Token],
        state: &State,
    ) -> Option<(Option<u32>, RecordType, &'t [Token])> {
        let (mut ttl, mut class) = (None, None);
        loop {
            let Some((token, tail)) = rest.split_first() else {
                self.at_token(state, first, "the type of the record is missing");
                return None;
            };
            rest = tail;
            let text = token.str().unwrap_or_default();
            if class.is_none() && matches!(text.to_ascii_uppercase().as_str(), "IN" | "CLASS1") {
                class = Some(());
            } else if matches!(text.to_ascii_uppercase().as_str(), "CH" | "HS" | "CS") {
                self.at_token(state, token, "only class IN is served");
                return None;
            } else if let Some(of_type) = text.parse::<RecordType>().ok().filter(|_| !token.quoted) {
                if of_type.is_meta() {
                    self.at_token(state, token, format_args!("{of_type} is no data of a zone"));
                    return None;
                }
                return Some((ttl, of_type, tail));
            } else if let Some(seconds) = rdata::seconds(text).filter(|_| ttl.is_none()) {
                if seconds > TTL_MAX {
                    self.at_token(state, token, format_args!("a time to live is at most {TTL_MAX} (RFC 2181 §8)"));
                    return None;
                }
                ttl = Some(seconds);
            } else {
                self.at_token(state, token, format_args!("`{text}` is neither a time to live, a class nor a type"));
                return None;
            }
        }
    }
}

/// RFC 2308 §4: with neither $TTL nor an explicit one, the SOA's last field.
fn soa_minimum(of_type: RecordType, rdata: &[u8]) -> Option<u32> {
    let minimum = rdata.last_chunk().filter(|_| of_type == RecordType::SOA)?;
    Some(u32::from_be_bytes(*minimum).min(TTL_MAX))
}

/// `first-last` or `first-last/step`.
fn generate_range(text: &str) -> Option<(u32, u32, u32)> {
    let (range, step) = text.split_once('/').unwrap_or((text, "1"));
    let (first, last) = range.split_once('-')?;
    let (first, last, step) = (first.parse().ok()?, last.parse().ok()?, step.parse().ok()?);
    (first <= last && step > 0 && last < i32::MAX as u32).then_some((first, last, step))
}

/// The pattern with each `$` replaced by the number; `\$` and `$$` stand for a dollar.
fn substituted(pattern: &[u8], number: u32) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(pattern.len() + 4);
    let mut rest = pattern;
    while let Some((octet, tail)) = rest.split_first() {
        rest = tail;
        match (octet, tail.first()) {
            (b'\\', Some(escaped)) => {
                if *escaped != b'$' {
                    out.push(b'\\');
                }
                out.push(*escaped);
                rest = tail.get(1..)?;
            }
            (b'$', Some(b'$')) => {
                out.push(b'$');
                rest = tail.get(1..)?;
            }
            (b'$', Some(b'{')) => {
                let end = tail.iter().position(|b| *b == b'}')?;
                out.extend(formatted(std::str::from_utf8(tail.get(1..end)?).ok()?, number)?.into_bytes());
                rest = tail.get(end + 1..)?;
            }
            (b'$', _) => out.extend(number.to_string().into_bytes()),
            _ => out.push(*octet),
        }
    }
    Some(out)
}

/// `offset`, `offset,width` or `offset,width,base`.
fn formatted(format: &str, number: u32) -> Option<String> {
    const WIDTH_MAX: usize = 63;
    let mut parts = format.split(',');
    let offset: i64 = parts.next()?.parse().ok()?;
    let width: usize = parts.next().map_or(Some(0), |width| width.parse().ok()).filter(|width| *width <= WIDTH_MAX)?;
    let base = parts.next().unwrap_or("d");
    let value = u64::try_from(i64::from(number).checked_add(offset)?).ok()?;
    if parts.next().is_some() {
        return None;
    }
    Some(match base {
        "d" => format!("{value:0width$}"),
        "x" => format!("{value:0width$x}"),
        "X" => format!("{value:0width$X}"),
        "o" => format!("{value:0width$o}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("test.zone"), text).unwrap();
        std::fs::write(folder.path().join("inc.zone"), "x A 192.0.2.9\n@ A 192.0.2.8\n").unwrap();
        let mut cx = Context::default();
        let apex = Name::absolute("example.com").unwrap();
        let mut reader = ZoneReader::new(&apex, Path::root(), &mut cx);
        reader.file(&folder.path().join("test.zone"), None);
        let shown = |r: &Record| format!("{} {} {} {}", r.owner, r.ttl, r.of_type, rdata::display(r.of_type, &r.rdata));
        let records = reader.finish().iter().map(shown).collect();
        let prefix = format!("{}/", folder.path().display());
        (records, cx.finish().0.lines().iter().map(|line| line.replace(&prefix, "")).collect())
    }

    fn check(text: &str, expected: &[&str]) {
        let (records, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new(), "{text}");
        assert_eq!(records, expected, "{text}");
    }

    #[test]
    fn rfc1035_5_1_owners_times_and_classes_may_be_left_out() {
        check("$TTL 300\nwww A 192.0.2.1\n", &["www.example.com. 300 A 192.0.2.1"]);
        check(
            "www 60 IN A 192.0.2.1\n    AAAA 2001:db8::1\n",
            &["www.example.com. 60 A 192.0.2.1", "www.example.com. 60 AAAA 2001:db8::1"],
        );
        check("www IN 1h A 192.0.2.1", &["www.example.com. 3600 A 192.0.2.1"]);
        check(
            "@ SOA ns host 1 2 3 4 5\nwww A 192.0.2.1",
            &["example.com. 5 SOA ns.example.com. host.example.com. 1 2 3 4 5", "www.example.com. 5 A 192.0.2.1"],
        );
        check("$ORIGIN sub.example.com.\n@ 1 NS ns\n", &["sub.example.com. 1 NS ns.sub.example.com."]);
        check(
            "@ 1 SOA ns host (\n 1 ; serial\n 2h 3 4\n 5 )\n",
            &["example.com. 1 SOA ns.example.com. host.example.com. 1 7200 3 4 5"],
        );
    }

    #[test]
    fn data_of_every_common_type_is_read_and_printed_back() {
        for data in [
            "A 192.0.2.1",
            "AAAA 2001:db8::1",
            "NS ns.example.com.",
            "CNAME a.example.org.",
            "DNAME a.example.org.",
            "PTR a.example.org.",
            "MX 10 mx.example.com.",
            "TXT \"v=spf1 -all\" \"a\\\"b\\000\"",
            "SRV 1 2 443 a.example.com.",
            "NAPTR 1 2 \"u\" \"E2U+sip\" \"!^.*$!sip:a@b!\" .",
            "CAA 0 \"issue\" \"ca.example\"",
            "TLSA 3 1 1 AABBCC",
            "SSHFP 4 2 AABB",
            "DS 1 13 2 AABBCC",
            "DNSKEY 257 3 13 AAEC",
            "CDS 0 0 0 00",
            "HINFO \"a\" \"b\"",
            "RP a.example.com. b.example.com.",
            "URI 1 2 \"https://example.com/\"",
            "OPENPGPKEY AAEC",
            "HTTPS 1 . alpn=h2,h3 port=8443 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1",
            "SVCB 0 a.example.com.",
            "ZONEMD 1 1 1 AABB",
            "TYPE731 \\# 3 ABCDEF",
        ] {
            check(&format!("x 1 {data}"), &[&format!("x.example.com. 1 {data}")]);
        }
    }

    #[test]
    fn rfc3597_5_generic_forms_serve_unknown_and_known_types() {
        check("x 1 CLASS1 TYPE1 \\# 4 c0000201", &["x.example.com. 1 A 192.0.2.1"]);
        check("x 1 TYPE65280 \\# 0", &["x.example.com. 1 TYPE65280 \\# 0"]);
        for (data, message) in [
            ("A \\# 3 c00002", "not the wire form of A"),
            ("TYPE731 \\# 2 ab", "the length is not that of the data, 1"),
            ("TYPE731 abc", "is written as"),
        ] {
            let (_, problems) = read(&format!("x 1 {data}"));
            assert!(problems.len() == 1 && problems[0].contains(message), "{problems:?}");
        }
    }

    #[test]
    fn generate_makes_a_record_for_each_number() {
        check(
            "$GENERATE 1-3/2 h-$ 60 A 10.0.0.$",
            &["h-1.example.com. 60 A 10.0.0.1", "h-3.example.com. 60 A 10.0.0.3"],
        );
        check(
            "$TTL 1\n$GENERATE 9-10 h${-8,3} CNAME x${0,2,x}\\$",
            &["h001.example.com. 1 CNAME x09\\$.example.com.", "h002.example.com. 1 CNAME x0a\\$.example.com."],
        );
    }

    #[test]
    fn include_reads_another_file_and_leaves_origin_and_owner_alone() {
        check(
            "$TTL 1\nwww A 192.0.2.1\n$INCLUDE inc.zone sub\n  AAAA ::1\n",
            &[
                "www.example.com. 1 A 192.0.2.1",
                "x.sub.example.com. 1 A 192.0.2.9",
                "sub.example.com. 1 A 192.0.2.8",
                "www.example.com. 1 AAAA ::1",
            ],
        );
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_column() {
        for (text, problem) in [
            ("x 1 A 192.0.2\n", "test.zone:1:7: A: expected an IPv4 address"),
            ("$TTL 1\n\nx B 1", "test.zone:3:3: `B` is neither a time to live, a class nor a type"),
            ("x A 192.0.2.1", "test.zone:1:1: no time to live"),
            ("x 1 A 192.0.2.1 2", "test.zone:1:17: A: more data than A has"),
            ("x 1 MX 10", "test.zone:1:8: MX: a name is missing"),
            ("x 1 CH TXT a", "test.zone:1:5: only class IN is served"),
            ("x.example.org. 1 A 192.0.2.1", "test.zone:1:1: x.example.org. is not in the zone example.com."),
            ("  A 192.0.2.1", "test.zone:1:3: the first record needs an owner"),
            ("$FOO 1", "test.zone:1:1: unknown directive"),
            ("x 4294967295 A 192.0.2.1", "test.zone:1:3: a time to live is at most"),
            ("x 1 OPT a", "test.zone:1:5: OPT is no data of a zone"),
            ("x 1 TXT \"a", "test.zone:1:9: a quote is not closed"),
            ("$INCLUDE none.zone", "cannot read"),
            ("$INCLUDE test.zone", "too many files include one another"),
            ("$GENERATE 1-100000 h$ 1 A 192.0.2.1", "more than 65536 records"),
            ("x 1 HTTPS 1 . port=x", "HTTPS: port: a port is a number"),
            ("x 1 HTTPS 1 . mandatory=port", "HTTPS: key 3 is mandatory and not given"),
            ("x 1 HTTPS 1 . port=1 port=2", "HTTPS: `port` is given twice"),
            (&format!("x 1 TXT {}", "a".repeat(256)), "longer than 255 octets"),
        ] {
            let (_, problems) = read(text);
            assert!(problems.iter().any(|line| line.contains(problem)), "{text}: {problems:?}");
        }
        let (_, problems) = read(&"x 1 A y\n".repeat(1_000));
        assert_eq!(problems.len(), PROBLEMS_MAX + 1);
    }
}
