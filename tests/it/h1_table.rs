//! The table of `h1_cases`: each raw request, what may become of it, and the clause that says so.

pub(crate) struct Case {
    pub name: String,
    pub raw: Vec<u8>,
    pub expected: Expected,
}

pub(crate) enum Expected {
    /// One of these statuses, and no whole request of it arrives; then the second request, where nobody can be wrong about its
    /// beginning, or the end of the connection.
    Refused { statuses: &'static [u16], then: Then },
    /// 200, and exactly this arrives; then the second request, or the end of the connection.
    Served { line: String, body: Vec<u8>, then: Then },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Next,
    End,
}

const BAD: &[u16] = &[400];
/// What we do not speak may be told as such (RFC 9110 §15.6.2, §15.6.6) or as bad.
const UNKNOWN_CODING: &[u16] = &[400, 501];
const UNKNOWN_VERSION: &[u16] = &[400, 505];

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn refused(&mut self, name: impl Into<String>, raw: impl AsRef<[u8]>, statuses: &'static [u16]) {
        let expected = Expected::Refused { statuses, then: Then::End };
        self.0.push(Case { name: name.into(), raw: raw.as_ref().to_vec(), expected });
    }

    fn served(
        &mut self,
        name: impl Into<String>,
        raw: impl AsRef<[u8]>,
        line: &str,
        body: impl AsRef<[u8]>,
        then: Then,
    ) {
        let expected = Expected::Served { line: line.to_owned(), body: body.as_ref().to_vec(), then };
        self.0.push(Case { name: name.into(), raw: raw.as_ref().to_vec(), expected });
    }

    /// A field that is passed on with what stands around it.
    fn field(&mut self, name: &str, field: impl AsRef<[u8]>) {
        let raw = [b"GET /f HTTP/1.1\r\nHost: a\r\n", field.as_ref(), b"\r\n\r\n"].concat();
        self.served(name, raw, "GET /f HTTP/1.1", "", Then::Next);
    }

    fn bad_field(&mut self, name: impl Into<String>, field: impl AsRef<[u8]>) {
        let raw = [b"GET /f HTTP/1.1\r\nHost: a\r\n", field.as_ref(), b"\r\n\r\n"].concat();
        self.refused(name, raw, BAD);
    }

    fn target(&mut self, name: &str, target: &str, arrives: &str) {
        let raw = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        self.served(name, raw, &format!("GET {arrives} HTTP/1.1"), "", Then::Next);
    }

    fn bad_target(&mut self, name: impl Into<String>, target: impl AsRef<[u8]>) {
        let raw = [b"GET ", target.as_ref(), b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        self.refused(name, raw, BAD);
    }

    /// `framing` is one or more whole fields.
    fn bad_framing(&mut self, framing: &str, statuses: &'static [u16]) {
        let raw = format!("POST /b HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        self.refused(format!("framing {framing:?}"), raw, statuses);
    }

    fn chunked(&mut self, body: &str, arrives: &str) {
        let raw = format!("POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        self.served(format!("chunks {body:?}"), raw, "POST /c HTTP/1.1", arrives, Then::Next);
    }

    fn bad_chunks(&mut self, body: impl AsRef<[u8]>) {
        let head = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let name = format!("chunks {:?}", String::from_utf8_lossy(&body.as_ref()[..body.as_ref().len().min(60)]));
        self.refused(name, [head, body.as_ref()].concat(), BAD);
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut table = Table::default();
    good_lines(&mut table);
    good_fields(&mut table);
    good_bodies(&mut table);
    bad_lines(&mut table);
    bad_hosts(&mut table);
    bad_fields(&mut table);
    bad_lengths(&mut table);
    bad_codings(&mut table);
    bad_chunks(&mut table);
    too_large(&mut table);
    old_clients(&mut table);
    tunnels(&mut table);
    table.0
}

/// RFC 9112 §3, RFC 3986 §3.3 and §3.4: what may stand in a target.
fn good_lines(table: &mut Table) {
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH"] {
        let raw = format!("{method} /m HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        table.served(format!("method {method}"), raw, &format!("{method} /m HTTP/1.1"), "", Then::Next);
    }
    for target in [
        "/",
        "/a/b",
        "/a.b-c_d~e",
        "/!$&'()*+,;=:@",
        "/a?b",
        "/?",
        "/?a=b&c=d",
        "/?a/b?c",
        "/%41%7a",
        "/a%20b",
        "/%E2%82%AC",
        "/a?x=%00",
        "/a;b=c",
        "/a/",
        "/?http://b/",
        "/?a=[b]",
        "/?a=b|c",
        "/a?x='",
    ] {
        let arrives = if target == "/%41%7a" { "/Az" } else { target };
        table.target(&format!("target {target}"), target, arrives);
    }
    table.target("characters that browsers encode", "/a\"<>?b=\"<>", "/a%22%3C%3E?b=%22%3C%3E");
    table.target("characters that nobody reserves", "/a^`{|}?b=^{|}", "/a^%60{|}?b=^{|}");
    table.target("absolute target", "http://a/abs?q", "/abs?q");
    table.target("absolute target, scheme in capitals", "HTTP://a/abs", "/abs");
    table.target("absolute target, host in capitals", "http://A/abs", "/abs");
    table.target("absolute target without a path", "http://a", "/");
    table.target("absolute target with a query only", "http://a?q", "/?q");
    table.served("an empty line before", "\r\nGET /e HTTP/1.1\r\nHost: a\r\n\r\n", "GET /e HTTP/1.1", "", Then::Next);
    table.target("a long path", &format!("/{}", "a".repeat(4000)), &format!("/{}", "a".repeat(4000)));
    table.target("a long query", &format!("/?{}", "a".repeat(4000)), &format!("/?{}", "a".repeat(4000)));
}

/// RFC 9110 §5.5 and §5.6: tokens, visible octets, what is not ASCII, white space around.
fn good_fields(table: &mut Table) {
    for host in ["a", "A.B", "a.b.", "127.0.0.1", "[::1]", "a:80", "[::1]:8080", "xn--bcher-kva.example", "a_b", "a-b"]
    {
        let raw = format!("GET /h HTTP/1.1\r\nHost: {host}\r\n\r\n");
        table.served(format!("host {host}"), raw, "GET /h HTTP/1.1", "", Then::Next);
    }
    table.field("a name of all token octets", "x!#$%&'*+-.^`|~09: v");
    table.field("an empty value", "x-e:");
    table.field("white space around a value", "x-w: \t v \t ");
    table.field("a tab in a value", "x-t: a\tb");
    table.field("octets above ASCII", b"x-o: \x80\xa9\xff");
    table.field("a colon in a value", "x-c: a:b: c");
    table.field("the same name twice", "x-d: a\r\nx-d: b");
    table.field("a value of 4,000 octets", format!("x-l: {}", "v".repeat(4000)));
    table.field("eighty fields", (0..80).map(|n| format!("x-{n}: v")).collect::<Vec<_>>().join("\r\n"));
    table.field("no white space before a value", "x-n:v");
    table.field("keep-alive", "Connection: keep-alive\r\nKeep-Alive: timeout=5");
    table.field("a field for this hop only", "Connection: x-hop\r\nx-hop: v");
    table.field("te: trailers", "Connection: te\r\nTE: trailers");
    table.field("length nought of a GET", "Content-Length: 0");
    table.field("an upgrade that is not granted", "Connection: upgrade\r\nUpgrade: foo/1");
    table.field(
        "h2c that is not granted",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
    );
    table.served("close", "GET /f HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET /f HTTP/1.1", "", Then::End);
    table.served(
        "close among others",
        "GET /f HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n",
        "GET /f HTTP/1.1",
        "",
        Then::End,
    );
}

/// RFC 9112 §6 and §7.1: what frames a body rightly.
fn good_bodies(table: &mut Table) {
    for (length, body) in
        [("3", "abc"), ("003", "abc"), (" 3\t", "abc"), ("1", "\n"), ("4", "\r\n\r\n"), ("5", "0\r\n\r\n")]
    {
        let raw = format!("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length:{length}\r\n\r\n{body}");
        table.served(format!("length {length:?} of {body:?}"), raw, "POST /l HTTP/1.1", body, Then::Next);
    }
    let inner = "GET /smuggled HTTP/1.1\r\nHost: b\r\n\r\n";
    let raw = format!("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    table.served("a body that looks like a request", raw, "POST /l HTTP/1.1", inner, Then::Next);
    for (body, arrives) in [
        ("0\r\n\r\n", ""),
        ("3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("1\r\na\r\n1\r\nb\r\n0\r\n\r\n", "ab"),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("0003\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3\r\nabc\r\n0000\r\n\r\n", "abc"),
        ("3;e\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3;e=v\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3;e=\"v;w\"\r\nabc\r\n0;last\r\n\r\n", "abc"),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
        ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
        ("3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n", "abc"),
        ("3\r\nabc\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n", "abc"),
    ] {
        table.chunked(body, arrives);
    }
    for coding in ["Chunked", "CHUNKED", " \tchunked\t "] {
        let raw = format!("POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:{coding}\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        table.served(format!("coding {coding:?}"), raw, "POST /c HTTP/1.1", "abc", Then::Next);
    }
    let raw = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc";
    table.served("a body that does not wait for 100", raw, "POST /x HTTP/1.1", "abc", Then::Next);
    let raw = "GET /g HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    table.served("a GET with a body", raw, "GET /g HTTP/1.1", "abc", Then::Next);
    let raw = "DELETE /g HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    table.served("a DELETE with chunks", raw, "DELETE /g HTTP/1.1", "abc", Then::Next);
}

/// RFC 9112 §2.2 and §3: one space, one version, CRLF.
fn bad_lines(table: &mut Table) {
    // Tokens, and yet no method that anybody knows: refused as nginx does, where RFC 9110 §9.1 has 501 or the origin's own answer.
    for method in ["X!#$%&'*+.^_`|~9", "get"] {
        table.refused(format!("method {method}"), format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"), &[400, 501]);
    }
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET / HTTP/1.1 x",
        "GET",
        "GET /",
        "/ HTTP/1.1",
        "GET HTTP/1.1",
        "G@T / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET: / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "\"GET\" / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP1.1",
        "GET / HTTP/1",
        "GET / HTTP/.1",
        "GET / HTTP/1.",
        "GET / HTTP/1.1.1",
        "GET / HTTP/ 1.1",
        "GET / HTTP /1.1",
        "GET / XTTP/1.1",
        "GET / HTTP/1,1",
        "GET / HTTP/+1.1",
        "GET / HTTP/01.1",
        "GET / HTTP/1.01",
    ] {
        table.refused(format!("line {line:?}"), format!("{line}\r\nHost: a\r\n\r\n"), UNKNOWN_VERSION);
    }
    for version in ["0.9", "1.2", "1.9", "1.10", "2.0", "2", "3.0", "9.9", "11.1"] {
        let raw = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n");
        // RFC 9110 §2.5: a later minor of the same major may be served as the highest that we know; we refuse.
        table.refused(format!("version {version}"), raw, UNKNOWN_VERSION);
    }
    for (name, raw) in [
        ("LF ends the line", "GET / HTTP/1.1\nHost: a\r\n\r\n"),
        ("LF ends a field", "GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n"),
        ("LF ends the head", "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("LF everywhere", "GET / HTTP/1.1\nHost: a\n\n"),
        ("CR ends the line", "GET / HTTP/1.1\rHost: a\r\n\r\n"),
        ("CR ends a field", "GET / HTTP/1.1\r\nHost: a\rx: y\r\n\r\n"),
        ("CR CR LF", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
        ("CR CR LF after a field", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
        ("LF CR", "GET / HTTP/1.1\n\rHost: a\r\n\r\n"),
        ("white space before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("a space alone in a line", "GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n"),
        ("an empty line of LF before", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/0.9", "GET /\r\n\r\n"),
        ("the preface of h2 in the middle of nowhere", "PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"),
        ("a hello of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n"),
    ] {
        table.refused(name, raw, UNKNOWN_VERSION);
    }
    for octet in (0..0x20).chain([0x7f]).filter(|octet| !b"\t\n\r".contains(octet)) {
        table.bad_target(format!("octet {octet:#04x} in a target"), [b"/a", &[octet][..], b"b"].concat());
        let method = [b"G", &[octet][..], b"T / HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        table.refused(format!("octet {octet:#04x} in a method"), method, BAD);
    }
    for target in [
        "/a#b",
        "/a\\b",
        "a",
        "*",
        "a/b",
        "?",
        "http:/a",
        "http://",
        "http://a b/",
        "http://b/",
        "ftp://a/",
        "http://a@a/",
        "http://a#b",
    ] {
        table.bad_target(format!("target {target:?}"), target);
    }
    table.bad_target("octets above ASCII in a target", b"/\xc3\xa9");
    // The message is whole and framed; only its path is none.
    for path in ["/%00", "/%4", "/%zz", "/%0d%0a"] {
        let raw = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let expected = Expected::Refused { statuses: BAD, then: Then::Next };
        table.0.push(Case { name: format!("path {path}"), raw: raw.into(), expected });
    }
}

/// RFC 9112 §3.2.
fn bad_hosts(table: &mut Table) {
    table.refused("no host", "GET / HTTP/1.1\r\n\r\n", BAD);
    table.refused("no host, absolute target", "GET http://a/ HTTP/1.1\r\n\r\n", BAD);
    table.refused("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BAD);
    table.refused("the same host twice", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", BAD);
    table.refused("another host than the target's", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD);
    for host in [
        "a b",
        "a/b",
        "a\\b",
        "a@b",
        "a?b",
        "a#b",
        "a<b",
        "a>b",
        "a\"b",
        "a^b",
        "a`b",
        "a{b",
        "a|b",
        "a}b",
        "a,b",
        "a:b",
        "a:80:80",
        "a:99999",
        "[::1",
        "::1",
        "[::1]x",
        "[zz]",
        "a%00b",
        "a\tb",
        "user@a",
        "a:-1",
        "[1.2.3.4]",
    ] {
        table.refused(format!("host {host:?}"), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), BAD);
    }
    for octet in [0x00_u8, 0x01, 0x0b, 0x7f, 0x80, 0xff] {
        let raw = [b"GET / HTTP/1.1\r\nHost: a", &[octet][..], b"b\r\n\r\n"].concat();
        table.refused(format!("octet {octet:#04x} in a host"), raw, BAD);
    }
}

/// RFC 9112 §5: names are tokens, nothing stands between name and colon, lines are not folded.
fn bad_fields(table: &mut Table) {
    for octet in b" \t\"(),/;<=>?@[\\]{}".iter().copied().chain(0..0x09).chain([0x0b, 0x0c, 0x7f, 0x80, 0xff]) {
        table.bad_field(format!("octet {octet:#04x} in a name"), [b"x", &[octet][..], b"y: v"].concat());
    }
    for octet in (0..0x20).chain([0x7f]).filter(|octet| !b"\t\n\r".contains(octet)) {
        table.bad_field(format!("octet {octet:#04x} in a value"), [b"x: a", &[octet][..], b"b"].concat());
    }
    for field in [
        "x : v",
        "x\t: v",
        ": v",
        "x",
        " x: v",
        "x: a\r\n b",
        "x: a\r\n\tb",
        "x: a\r\n ",
        "x: a\rb",
        "x: a\r",
        "x\r: v",
    ] {
        table.bad_field(format!("field {field:?}"), field);
    }
    table.refused("an expectation that nobody meets", "GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", &[417]);
}

/// RFC 9112 §6.2 and §6.3: one length, of digits.
fn bad_lengths(table: &mut Table) {
    for value in [
        "+3",
        "-3",
        "3.0",
        "3 3",
        "3,3",
        "3, 3",
        "3,4",
        "0x3",
        "3h",
        "",
        "three",
        "3;",
        "\"3\"",
        "3_0",
        "\u{663}",
        "1e1",
        "3\x0b",
        "99999999999999999999",
        "18446744073709551616",
        "-0",
        "3\t3",
        ",3",
        "3,",
    ] {
        table.bad_framing(&format!("Content-Length: {value}"), BAD);
    }
    for both in [
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 0\r\ncontent-length: 3",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Transfer-Encoding: identity\r\nContent-Length: 3",
        "Content-Length : 3",
        "Content-Length\t: 3",
        "Content_Length: 3",
        "x: y\r\n Content-Length: 3",
    ] {
        table.bad_framing(both, UNKNOWN_CODING);
    }
}

/// RFC 9112 §6.1: chunked, once, last; what we cannot take off, we do not pass on.
fn bad_codings(table: &mut Table) {
    for value in [
        "chunked, identity",
        "identity, chunked",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "\"chunked\"",
        "chunk",
        "",
        "chu\tnked",
        "\x0bchunked",
        "chunked\x0c",
        "chunked gzip",
        "x",
        "chunked\u{a0}",
        "cow, chunked",
        "deflate, chunked",
    ] {
        table.bad_framing(&format!("Transfer-Encoding: {value}"), UNKNOWN_CODING);
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer_Encoding: chunked",
        " Transfer-Encoding: chunked",
        "x: y\rTransfer-Encoding: chunked",
        "x: y\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding:",
    ] {
        table.bad_framing(fields, UNKNOWN_CODING);
    }
}

/// RFC 9112 §7.1. The head was passed on when they come: the request breaks off.
fn bad_chunks(table: &mut Table) {
    for body in [
        "0x3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3h\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\r\n0\n\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\r\nabc\r\n0\r\nx: y\n\r\n",
        "3;\nx\r\nabc\r\n0\r\n\r\n",
        "3;a\rb\r\nabc\r\n0\r\n\r\n",
        "3;a\0b\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "3_\r\nabc\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        "3,3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
        "3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\nabc\r\n0\r\nHost: b\r\n\r\n",
        "3\r\nabc\r\n0\r\nx\r\n\r\n",
        "3\r\nabc\r\n0\r\nx : y\r\n\r\n",
        "3\r\nabc\r\n0\r\n x: y\r\n\r\n",
        "3\r\nabc\r\n0\r\nx: a\r\n b\r\n\r\n",
        "3\r\nabc\r\n0\r\nx: \x01\r\n\r\n",
        "3\r\nabc\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ] {
        table.bad_chunks(body);
    }
    table.bad_chunks(format!("3;{}\r\nabc\r\n0\r\n\r\n", "e".repeat(70_000)));
    table.bad_chunks(format!("3\r\nabc\r\n0\r\nx: {}\r\n\r\n", "v".repeat(300_000)));
    table.bad_chunks(format!("3\r\nabc\r\n0\r\n{}\r\n", "x: v\r\n".repeat(20_000)));
    table.bad_chunks(format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(70_000)));
}

/// RFC 9110 §15.5.15, RFC 6585 §5.
fn too_large(table: &mut Table) {
    let long = "a".repeat(300_000);
    table.refused("a target of 300 kB", format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), &[414, 431]);
    table.refused("a field of 300 kB", format!("GET / HTTP/1.1\r\nHost: a\r\nx: {long}\r\n\r\n"), &[431]);
    table.refused("a name of 300 kB", format!("GET / HTTP/1.1\r\nHost: a\r\n{long}: x\r\n\r\n"), &[431]);
    table.refused("20,000 fields", format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(20_000)), &[431]);
    table.refused("a method of 300 kB", format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n"), &[400, 414, 431, 501]);
    table.refused("a host of 1,000 octets", format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", &long[..1000]), BAD);
    table.refused("empty lines without end", "\r\n".repeat(10_000), BAD);
}

/// RFC 9112 appendix C, §6.1 and §9.3: of HTTP/1.0 nothing is believed that it could not know.
fn old_clients(table: &mut Table) {
    table.served("HTTP/1.0", "GET /o HTTP/1.0\r\nHost: a\r\n\r\n", "GET /o HTTP/1.1", "", Then::End);
    table.served(
        "HTTP/1.0 with a length",
        "POST /o HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST /o HTTP/1.1",
        "abc",
        Then::End,
    );
    table.refused(
        "HTTP/1.0 with chunks",
        "POST /o HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        UNKNOWN_CODING,
    );
    table.refused(
        "HTTP/1.0, chunks, kept alive",
        "POST /o HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        UNKNOWN_CODING,
    );
    table.refused(
        "HTTP/1.0 with both",
        "POST /o HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        UNKNOWN_CODING,
    );
}

/// RFC 9110 §7.8 and §9.3.6: nobody gets a tunnel that no one granted.
fn tunnels(table: &mut Table) {
    table.refused("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", &[400, 405, 501]);
    table.refused("CONNECT to a path", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", &[400, 405, 501]);
    table.refused("CONNECT without a port", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", &[400, 405, 501]);
    let websocket = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let raw = format!("GET /w HTTP/1.1\r\nHost: a\r\n{websocket}\r\n\r\n");
    table.served("a WebSocket that the origin answers with 200", raw, "GET /w HTTP/1.1", "", Then::Next);
    let raw = format!("POST /w HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n{websocket}\r\n\r\nabc");
    table.served("an upgrade with a body", raw, "POST /w HTTP/1.1", "abc", Then::Next);
}
