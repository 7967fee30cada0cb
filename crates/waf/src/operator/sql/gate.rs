//! A quick look at whether a value can be more to an SQL tokenizer than names, numbers and operators.
//!
//! libinjection knows no fingerprint of those alone, nor with functions, commas, dots, colons and semicolons among them. It
//! takes a quote, a comment, a parenthesis, a variable or a word that begins a statement or a clause; other keywords
//! count only beside an operator or a semicolon. Values without any of these need no tokenizer. False alarms cost time and
//! nothing else.

use std::sync::LazyLock;

/// Whether the tokenizer has to look.
pub(crate) fn may_be_sql(value: &[u8]) -> bool {
    let (mut keyword, mut operator) = (false, false);
    let mut previous = b' ';
    let mut rest = value;
    while let Some((byte, tail)) = rest.split_first() {
        if is_word(*byte) {
            let (run, after) = rest.split_at(rest.iter().position(|byte| !is_word(*byte)).unwrap_or(rest.len()));
            match kinds_in(run, previous) {
                NAME => {}
                KEYWORD => keyword = true,
                OPERATOR => operator = true,
                _ => return true,
            }
            rest = after;
            previous = b'a';
            continue;
        }
        match byte {
            b'\'' | b'"' | b'`' | b'(' | b')' | b'#' | b'@' | b'$' | b'\\' => return true,
            b'-' | b'&' | b'|' if previous == *byte => return true,
            b'*' if previous == b'/' => return true,
            b'+' | b'-' | b'*' | b'/' | b'%' | b'=' | b'<' | b'>' | b'!' | b'~' | b'^' | b'|' | b'&' | b';' => {
                operator = true;
            }
            b':' if previous == b':' => operator = true,
            _ => {}
        }
        previous = *byte;
        rest = tail;
    }
    keyword && operator
}

/// The kind of a run of word bytes; with a number at its beginning, of all that may be left when the number has ended.
fn kinds_in(run: &[u8], before: u8) -> u8 {
    let number = before == b'.' || run.first().is_some_and(u8::is_ascii_digit);
    let (mut hash, mut kinds) = (SEED, NAME);
    for byte in run.iter().rev() {
        hash = step(hash, *byte);
        if number {
            kinds |= WORDS.kind(hash);
        }
    }
    kinds | WORDS.kind(hash)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

const SEED: u32 = 0x811c_9dc5;

fn step(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
}

/// Places of the filter.
const PLACES: u32 = 1 << 13;

const NAME: u8 = 0;
const KEYWORD: u8 = 1;
const OPERATOR: u8 = 2;
const STATEMENT: u8 = 4;

/// A filter that knows the kind of every word in the lists, by its hash; of a few others it thinks it does.
struct Words([Place; PLACES as usize]);

#[derive(Clone, Copy)]
struct Place {
    /// The part of the hash that is not the place.
    tag: u16,
    kind: u8,
}

impl Words {
    fn kind(&self, hash: u32) -> u8 {
        match self.0.get((hash % PLACES) as usize) {
            Some(place) if place.tag == (hash >> 16) as u16 => place.kind,
            // Two words in one place stand for all that come to it.
            Some(place) if place.kind > STATEMENT => place.kind,
            Some(_) | None => NAME,
        }
    }
}

/// Where two words share a place.
const SHARED: u8 = 8;

static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let mut words = Words([Place { tag: 0, kind: NAME }; PLACES as usize]);
    for (list, kind) in [(KEYWORDS, KEYWORD), (OPERATORS, OPERATOR), (STATEMENTS, STATEMENT)] {
        for word in list.split_ascii_whitespace() {
            let hash = word.bytes().rev().fold(SEED, step);
            if let Some(place) = words.0.get_mut((hash % PLACES) as usize) {
                let kind = if place.kind == NAME { kind } else { SHARED };
                *place = Place { tag: (hash >> 16) as u16, kind };
            }
        }
    }
    words
});

/// Operators in words.
const OPERATORS: &str = "\
    between div eqv is like mod not regexp rlike sounds uescape";

/// Keywords that count only beside operators; of phrases the rarest word.
const KEYWORDS: &str = "\
    abort accessible against all_users alter analyze as asc asensitive autoincrement before blob both cascade \
    change column condition constraint continue count_big cursor databases day_hour day_microsecond day_minute \
    day_second dec default delay delayed desc describe deterministic distinct distinctrow each else elseif \
    enclosed escaped exit explain fetch force foreign from fulltext function grant high_priority \
    hour_microsecond hour_minute hour_second ignore in index infile inner inout insensitive interval iterate \
    join keys kill leading leave linear lines longblob longtext loop low_priority master_bind \
    master_ssl_verify_server_cert match maxvalue mediumblob mediumint mediumtext merge middleint \
    minute_microsecond minute_second modifies natural no_write_to_binlog notnull nowait offset one_shot open \
    optimize option optionally outer outfile precision primary procedure purge range read read_write reads \
    references release rename repeat replace require resignal restrict return revoke rollup schema schemas \
    second_microsecond sensitive separator signal similar spatial specific sql sql_big_result sql_buffer_result \
    sql_cache sql_calc_found_rows sql_no_cache sql_small_result sqlexception sqlstate sqlwarning ssl starting \
    straight_join syscolumns sysobjects sysusers table tables terminated then time tinyblob tinyint tinytext top \
    trigger undo unlock unsigned usage utc_date utc_time utc_timestamp value values varbinary varcharacter \
    varying wait when where xp_execresultset year_month zerofill";

/// Words that begin statements and clauses, types, logic; `if` becomes a statement before a semicolon, and `into` counts
/// by itself.
const STATEMENTS: &str = "\
    _armscii8 _ascii _big5 _binary _cp1250 _cp1251 _cp1257 _cp850 _cp852 _cp866 _cp932 _dec8 _eucjpms _euckr \
    _gb2312 _gbk _geostd8 _greek _hebrew _hp8 _keybcs2 _koi8r _koi8u _latin1 _latin2 _latin5 _latin7 _macce \
    _macroman _sjis _swe7 _tis620 _ujis _usc2 _utf8 and anyarray anyelement anynonarry begin bigint bigserial \
    binary boolean by bytea call case character collate create cstring current current_date current_path \
    current_server current_time current_timestamp current_timezone current_user decimal declare delete double \
    drop except exec execute float float4 float8 go goto handler having if insert int int1 int2 int3 int4 int8 \
    integer intersect into limit load localtime localtimestamp money null numeric oid or print raiseerror real \
    regclass regconfig regdictionary regoper regoperator regproc regprocedure regtype select serial serial2 \
    serial4 serial8 set shutdown smallint smallserial text timestamp try uni_on union unknown update use varchar \
    void waitfor while xor";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_pass_and_sql_does_not() {
        for plain in [
            "",
            "shoes",
            "8f14e45fceea",
            "garden chair 12",
            "https://a.example/b?c=d&e=1.5",
            "2026-11-01T10:00",
            "a, b; c: {d}",
            "Please leave it with the neighbour on the left.",
        ] {
            assert!(!may_be_sql(plain.as_bytes()), "{plain}");
        }
        for sql in [
            "1 union select 2",
            "1UNION",
            "1e5union",
            "0x1funion",
            "a or b",
            "x'",
            "a--",
            "/*",
            "a||b",
            "f(",
            "@x",
            "`a`",
            "1&&1",
            "a into b",
            "where a = b",
        ] {
            assert!(may_be_sql(sql.as_bytes()), "{sql}");
        }
    }

    /// Whatever the tokenizer finds, the quick look lets through to it.
    #[test]
    fn nothing_that_is_found_is_passed_over() {
        let pieces = [
            "1", "a", "or", "union", "select", "from", "users", " ", " ", "\t", "-", "--", "/*", "*/", "=", "<", ">",
            ",", ".", ";", "and", "not", "null", "like", "0x1f", "1.5e3", "e", "x", "%", "!", "&&", "||", ":", "[",
            "]", "{", "}", "?", "^", "~", "+", "\x0b", "\u{a0}", "case", "when", "then", "end", "sleep", "if", "date",
            "current", "group", "by", "order", "having", "1limit", "drop", "table", "t1", "with", "as", "from",
            "where", "is", "mod", "left", "count", "on", "into", "outfile", "for", "index", "asc",
        ];
        // A fixed generator (Knuth's constants): the test is the same every time.
        let mut seed = 1u64;
        let mut draw = |most: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % most
        };
        let mut found = 0;
        for _ in 0..150_000 {
            let value: String = (0..1 + draw(7)).map(|_| pieces[draw(pieces.len())]).collect();
            if super::super::super::injection::sqli(value.as_bytes()).is_some() {
                found += 1;
                assert!(may_be_sql(value.as_bytes()), "{value}");
            }
        }
        assert!(found > 500, "{found}");
    }
}
