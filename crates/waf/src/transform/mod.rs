//! The transformations a value passes before an operator sees it.
//!
//! Byte-exact with ModSecurity 2, including where that is odd. Each takes the value and gives it back untouched, without
//! a copy, when there is nothing to change.

mod command;
mod encoding;
mod escape;
mod path;
mod text;
mod unicode;
mod url;

use std::io::Write;

use crate::operator::ByteSet;

pub(crate) use unicode::UnicodeMap;
pub(crate) use url::{decode_form, decode_path, is_valid_percent_encoding};

macro_rules! transforms {
    ($($variant:ident $($name:literal)|+)+) => {
        /// One transformation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum Transform { $($variant),+ }

        impl Transform {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$variant),+];

            /// Names are matched in any case.
            pub(crate) fn parse(name: &str) -> Option<Self> {
                $($(if name.eq_ignore_ascii_case($name) { return Some(Self::$variant); })+)+
                None
            }
        }
    };
}

transforms! {
    Base64Decode "base64Decode"
    Base64DecodeExt "base64DecodeExt"
    Base64Encode "base64Encode"
    CmdLine "cmdLine"
    CompressWhitespace "compressWhitespace"
    CssDecode "cssDecode"
    EscapeSeqDecode "escapeSeqDecode"
    HexDecode "hexDecode"
    HexEncode "hexEncode"
    HtmlEntityDecode "htmlEntityDecode"
    JsDecode "jsDecode"
    Length "length"
    Lowercase "lowercase"
    Md5 "md5"
    NormalizePath "normalizePath" | "normalisePath"
    NormalizePathWin "normalizePathWin" | "normalisePathWin"
    ParityEven7Bit "parityEven7bit"
    ParityOdd7Bit "parityOdd7bit"
    ParityZero7Bit "parityZero7bit"
    RemoveComments "removeComments"
    RemoveCommentsChar "removeCommentsChar"
    RemoveNulls "removeNulls"
    RemoveWhitespace "removeWhitespace"
    ReplaceComments "replaceComments"
    ReplaceNulls "replaceNulls"
    Sha1 "sha1"
    SqlHexDecode "sqlHexDecode"
    Trim "trim"
    TrimLeft "trimLeft"
    TrimRight "trimRight"
    Uppercase "uppercase"
    UrlDecode "urlDecode"
    UrlDecodeUni "urlDecodeUni"
    UrlEncode "urlEncode"
    Utf8ToUnicode "utf8toUnicode"
}

impl Transform {
    /// Bytes without any of which a value that does not begin with a dot passes unchanged; `None` when any value may
    /// change.
    pub(crate) fn triggers(self) -> Option<ByteSet> {
        Some(match self {
            Self::CmdLine => {
                let mut set = ByteSet::of(b"\\\"'^,; \t\r\n");
                (b'A'..=b'Z').for_each(|byte| set.insert(byte));
                set
            }
            Self::CompressWhitespace | Self::RemoveWhitespace => ByteSet::of(b" \t\n\x0b\x0c\r\xa0"),
            Self::CssDecode | Self::EscapeSeqDecode | Self::JsDecode => ByteSet::of(b"\\"),
            Self::HtmlEntityDecode => ByteSet::of(b"&"),
            Self::Lowercase => ByteSet::of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            Self::Uppercase => ByteSet::of(b"abcdefghijklmnopqrstuvwxyz"),
            Self::NormalizePath => ByteSet::of(b"/"),
            Self::NormalizePathWin => ByteSet::of(b"/\\"),
            Self::RemoveComments => ByteSet::of(b"/-#<"),
            Self::RemoveCommentsChar => ByteSet::of(b"*-#"),
            Self::RemoveNulls | Self::ReplaceNulls => ByteSet::of(b"\0"),
            Self::ReplaceComments => ByteSet::of(b"*"),
            Self::SqlHexDecode => ByteSet::of(b"xX"),
            Self::Trim | Self::TrimLeft | Self::TrimRight => ByteSet::of(b" \t\n\x0b\x0c\r"),
            Self::UrlDecode | Self::UrlDecodeUni => ByteSet::of(b"%+"),
            Self::Utf8ToUnicode => {
                let mut set = ByteSet::default();
                (0x80..=0xff).for_each(|byte| set.insert(byte));
                set
            }
            Self::Base64Decode
            | Self::Base64DecodeExt
            | Self::Base64Encode
            | Self::HexDecode
            | Self::HexEncode
            | Self::Length
            | Self::Md5
            | Self::ParityEven7Bit
            | Self::ParityOdd7Bit
            | Self::ParityZero7Bit
            | Self::Sha1
            | Self::UrlEncode => return None,
        })
    }

    /// Whether values that differ in case alone come out differing in case alone.
    pub(crate) fn is_blind_to_case(self) -> bool {
        match self {
            Self::CmdLine
            | Self::CompressWhitespace
            | Self::CssDecode
            | Self::HtmlEntityDecode
            | Self::Length
            | Self::Lowercase
            | Self::NormalizePath
            | Self::NormalizePathWin
            | Self::RemoveComments
            | Self::RemoveCommentsChar
            | Self::RemoveNulls
            | Self::RemoveWhitespace
            | Self::ReplaceComments
            | Self::ReplaceNulls
            | Self::SqlHexDecode
            | Self::Trim
            | Self::TrimLeft
            | Self::TrimRight
            | Self::Uppercase
            | Self::UrlDecode
            | Self::UrlDecodeUni
            | Self::Utf8ToUnicode => true,
            Self::Base64Decode
            | Self::Base64DecodeExt
            | Self::Base64Encode
            | Self::EscapeSeqDecode
            | Self::HexDecode
            | Self::HexEncode
            | Self::JsDecode
            | Self::Md5
            | Self::ParityEven7Bit
            | Self::ParityOdd7Bit
            | Self::ParityZero7Bit
            | Self::Sha1
            | Self::UrlEncode => false,
        }
    }

    /// Appends the new value, when it differs or may differ; else appends nothing.
    pub(crate) fn write(self, value: &[u8], map: &UnicodeMap, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Base64Decode => encoding::base64_decode(value, out),
            Self::Base64DecodeExt => encoding::base64_decode_lenient(value, out),
            Self::Base64Encode => encoding::base64_encode(value, out),
            Self::CmdLine => return command::cmd_line(value, out),
            Self::CompressWhitespace => return text::compress_whitespace(value, out),
            Self::CssDecode => return escape::css_decode(value, out),
            Self::EscapeSeqDecode => return escape::escape_seq_decode(value, out),
            Self::HexDecode => encoding::hex_decode(value, out),
            Self::HexEncode => encoding::hex_encode(value, out),
            Self::HtmlEntityDecode => return escape::html_entity_decode(value, out),
            Self::JsDecode => return escape::js_decode(value, out),
            // Writing to memory does not fail.
            Self::Length => _ = write!(out, "{}", value.len()),
            Self::Lowercase => {
                value.iter().any(u8::is_ascii_uppercase).then_some(())?;
                out.extend(value.iter().map(u8::to_ascii_lowercase));
            }
            Self::Md5 => encoding::md5(value, out),
            Self::NormalizePath => return path::normalize(value, out),
            Self::NormalizePathWin => return path::normalize_windows(value, out),
            Self::ParityEven7Bit => encoding::parity(value, encoding::Parity::Even, out),
            Self::ParityOdd7Bit => encoding::parity(value, encoding::Parity::Odd, out),
            Self::ParityZero7Bit => encoding::parity(value, encoding::Parity::Zero, out),
            Self::RemoveComments => return command::remove_comments(value, out),
            Self::RemoveCommentsChar => return command::remove_comment_marks(value, out),
            Self::RemoveNulls => return text::remove(value, |byte| byte == 0, out),
            Self::RemoveWhitespace => return text::remove(value, text::is_space_or_nbsp, out),
            Self::ReplaceComments => return command::replace_comments(value, out),
            Self::ReplaceNulls => return text::replace_nulls(value, out),
            Self::Sha1 => encoding::sha1(value, out),
            Self::SqlHexDecode => return escape::sql_hex_decode(value, out),
            Self::Trim => return text::trimmed(value, text::Ends::Both, out),
            Self::TrimLeft => return text::trimmed(value, text::Ends::Left, out),
            Self::TrimRight => return text::trimmed(value, text::Ends::Right, out),
            Self::Uppercase => {
                value.iter().any(u8::is_ascii_lowercase).then_some(())?;
                out.extend(value.iter().map(u8::to_ascii_uppercase));
            }
            Self::UrlDecode => return url::decode(value, out),
            Self::UrlDecodeUni => return url::decode_unicode(value, map, out),
            Self::UrlEncode => url::encode(value, out),
            Self::Utf8ToUnicode => return unicode::utf8_to_unicode(value, out),
        }
        Some(())
    }
}

/// The value of one hexadecimal digit.
pub(crate) fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Two hexadecimal digits at the start of `text`.
pub(crate) fn hex_pair(text: &[u8]) -> Option<u8> {
    let (high, low) = (hex(*text.first()?)?, hex(*text.get(1)?)?);
    Some(high << 4 | low)
}

/// White space as C's `isspace` sees it.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(transform: Transform, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        transform.write(value, &UnicodeMap::default(), &mut out).map_or_else(|| value.to_vec(), |()| out)
    }

    #[track_caller]
    fn check(name: &str, cases: &[(&[u8], &[u8])]) {
        let transform = Transform::parse(name).unwrap();
        for (input, expected) in cases {
            let got = apply(transform, input);
            assert_eq!(
                got.escape_ascii().to_string(),
                expected.escape_ascii().to_string(),
                "{name} {}",
                input.escape_ascii()
            );
        }
    }

    #[test]
    fn encodings() {
        check("base64Decode", &[(b"VGVzdA==", b"Test"), (b"VGVzdA", b"Test"), (b"VGVz.dA", b"Tes"), (b"", b"")]);
        check("base64DecodeExt", &[(b"VG.Vz dA==", b"Test"), (b"P.HNjcmlwdD4=", b"<script>")]);
        check("base64Encode", &[(b"Test", b"VGVzdA=="), (b"Tes", b"VGVz"), (b"", b"")]);
        check("hexDecode", &[(b"5465", b"Te"), (b"546", b"T")]);
        check("hexEncode", &[(b"T\0e", b"540065")]);
        check("length", &[(b"", b"0"), (b"abc", b"3")]);
        check("md5", &[(b"", b"\xd4\x1d\x8c\xd9\x8f\x00\xb2\x04\xe9\x80\x09\x98\xec\xf8\x42\x7e")]);
        check("sha1", &[(b"", b"\xda9\xa3\xee^kK\r2U\xbf\xef\x95`\x18\x90\xaf\xd8\x07\x09")]);
        check("parityEven7bit", &[(b"abc", b"\xe1\xe2\x63")]);
        check("parityOdd7bit", &[(b"abc", b"\x61\x62\xe3")]);
        check("parityZero7bit", &[(b"\xe1\xe2c", b"abc")]);
    }

    #[test]
    fn url_decoding() {
        check("urlDecode", &[(b"a+b%20c%zz%4", b"a b c%zz%4"), (b"%00", b"\0"), (b"%u0041", b"%u0041")]);
        check(
            "urlDecodeUni",
            &[
                (b"a+b%20c", b"a b c"),
                (b"%u0041%u00e9", b"A\xe9"),
                (b"%uff1cscript%uff1e", b"<script>"),
                (b"%u00zz%2", b"%u00zz%2"),
                (b"%%41", b"%A"),
                (b"plain", b"plain"),
            ],
        );
        check("urlEncode", &[(b"a b*/\xff", b"a+b*%2f%ff")]);
    }

    #[test]
    fn escapes() {
        check(
            "jsDecode",
            &[
                (br"\x41\u0042\103\n\q", b"ABC\nq"),
                (br"\uff1c", b"<"),
                (br"\777", b"?7"),
                (br"\u00", b"u00"),
                (b"\\", b"\\"),
            ],
        );
        check(
            "cssDecode",
            &[
                (br"\6a avascript", b"javascript"),
                (br"\00006aavascript", b"javascript"),
                (br"j\avascript", b"j\nvascript"),
                (b"a\\\nb", b"ab"),
                (br"\zx", b"zx"),
                (b"a\\", b"a"),
                (br"\ff1cx", b"<x"),
            ],
        );
        check(
            "htmlEntityDecode",
            &[
                (b"&lt;a&gt;&quot;&amp;&nbsp;", b"<a>\"&\xa0"),
                (b"&#60;&#x3c;&#X3C", b"<<<"),
                (b"&ltx&unknown;&", b"&ltx&unknown;&"),
                (b"&lt x", b"< x"),
                (b"&#;&#x;", b"&#;&#x;"),
            ],
        );
        check("escapeSeqDecode", &[(br"\a\x41\101\q\'", b"\x07AA\\q'"), (b"x\\", b"x\\")]);
        check("sqlHexDecode", &[(b"select 0x414243", b"select ABC"), (b"0x4", b"0x4")]);
    }

    #[test]
    fn commands_and_comments() {
        check(
            "cmdLine",
            &[
                (b"C^OMMAND /C", b"command/c"),
                (b"\"command\"  /c \\DiR", b"command/c dir"),
                (b"a,b;c  d (e", b"a b c d(e"),
                (b"'x'", b"x"),
            ],
        );
        check("replaceComments", &[(b"a/*x*/b", b"a b"), (b"a/*x", b"a "), (b"a*/b", b"a*/b"), (b"/**/", b" ")]);
        check("removeCommentsChar", &[(b"a/*b*/c--d#e", b"abcde"), (b"<!--x-->", b"x")]);
        check("removeComments", &[(b"a/*x*/b", b"ab"), (b"a<!-- x -->b", b"ab"), (b"a--b", b"a "), (b"a#b", b"a ")]);
    }

    #[test]
    fn paths() {
        check(
            "normalizePath",
            &[
                (b"/foo/bar/baz", b"/foo/bar/baz"),
                (b"/foo/../bar", b"/bar"),
                (b"./foo", b"foo"),
                (b"foo/./bar//baz", b"foo/bar/baz"),
                (b"../../x", b"../../x"),
                (b"/../../x", b"/x"),
                (b"a/b/..", b"a"),
                (b"a/b/../", b"a/"),
                (b"", b""),
                (b".", b""),
                (b"a/..", b""),
                (b"dir/./.././../../foo/bar/.", b"../../foo/bar"),
                (b"dir/./.././../../foo/bar/../", b"../../foo/"),
                (b"dir//.//..//.//..//..//foo//bar", b"../../foo/bar"),
                (b"/", b"/"),
            ],
        );
        check("normalizePathWin", &[(b"a\\b\\..\\c", b"a/c"), (b"\\foo\\.\\bar", b"/foo/bar")]);
    }

    #[test]
    fn text() {
        check("lowercase", &[(b"ABC\xc9", b"abc\xc9")]);
        check("uppercase", &[(b"abc", b"ABC")]);
        check("compressWhitespace", &[(b"a \t\r\n b", b"a b"), (b"a\xa0b", b"a b"), (b"a b", b"a b")]);
        check("removeWhitespace", &[(b" a\tb\xa0c\x0b", b"abc")]);
        check("removeNulls", &[(b"a\0b", b"ab")]);
        check("replaceNulls", &[(b"a\0b", b"a b")]);
        check("trim", &[(b"  a b ", b"a b")]);
        check("trimLeft", &[(b"  a ", b"a ")]);
        check("trimRight", &[(b"  a ", b"  a")]);
        check(
            "utf8toUnicode",
            &[("aé€".as_bytes(), b"a%u00e9%u20ac"), ("😀".as_bytes(), b"%u1f600"), (b"\xff\xc3x", b"\xff\xc3x")],
        );
    }

    /// The prefilter relies on both claims.
    #[test]
    fn without_triggers_nothing_changes_and_case_does_not_matter_where_said() {
        let samples: [&[u8]; 14] = [
            b"plain",
            b"Two Words",
            b"a  b\t",
            b"%41%u0042+",
            b"&lt;&#X41;x",
            b"\\6A \\N\\x41",
            b"/*C*/ --d#",
            b"a/./B//../c",
            b"..\\X\\..\\y",
            b"0X4142",
            "é€".as_bytes(),
            b"a\0b",
            b"C^md, /C ; (X)",
            b"a.b-C",
        ];
        for (transform, sample) in
            Transform::ALL.iter().flat_map(|transform| samples.map(|sample| (*transform, sample)))
        {
            let apply = |value: &[u8]| apply(transform, value);
            let triggered = transform.triggers().is_none_or(|triggers| triggers.meets(ByteSet::of(sample)));
            if !triggered && !sample.starts_with(b".") {
                assert_eq!(apply(sample), sample, "{transform:?}");
            }
            if transform.is_blind_to_case() {
                let (lower, upper) = (apply(&sample.to_ascii_lowercase()), apply(&sample.to_ascii_uppercase()));
                assert!(lower.eq_ignore_ascii_case(&upper), "{transform:?} {}", sample.escape_ascii());
                assert!(lower.eq_ignore_ascii_case(&apply(sample)), "{transform:?} {}", sample.escape_ascii());
            }
        }
    }

    #[test]
    fn names_are_found_in_any_case_and_spelling() {
        assert_eq!(Transform::parse("NORMALISEPATH"), Some(Transform::NormalizePath));
        assert_eq!(Transform::parse("rot13"), None);
    }
}
