//! `application/x-www-form-urlencoded`, also the query string, and cookies.

use crate::pairs::Pairs;
use crate::transform::decode_form;

/// What was wrong with a form; reading goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Faults {
    pub(crate) invalid_escapes: bool,
    pub(crate) too_many: bool,
}

/// Reads fields into `args`, which may grow to `most` entries.
pub(crate) fn read(text: &[u8], separator: u8, most: usize, args: &mut Pairs) -> Faults {
    let mut faults = Faults::default();
    if text.is_empty() {
        return faults;
    }
    let text = text.strip_suffix(&[separator]).unwrap_or(text);
    for field in text.split(|byte| *byte == separator) {
        if args.len() >= most {
            faults.too_many = true;
            break;
        }
        let equals = memchr::memchr(b'=', field);
        let name = field.get(..equals.unwrap_or(field.len())).unwrap_or_default();
        let value = equals.and_then(|at| field.get(at + 1..)).unwrap_or_default();
        let mut invalid = 0;
        let mut invalid_value = 0;
        args.push_with(|out| invalid = decode_form(name, out), |out| invalid_value = decode_form(value, out));
        faults.invalid_escapes |= invalid + invalid_value > 0;
    }
    faults
}

/// Reads one `Cookie` header; values stay encoded. A cookie without `=` has a name and an empty value. Says whether there
/// were more than `most`.
pub(crate) fn read_cookies(header: &[u8], most: usize, cookies: &mut Pairs) -> bool {
    for cookie in header.split(|byte| *byte == b';') {
        let cookie = cookie.trim_ascii_start();
        if cookie.is_empty() {
            continue;
        }
        if cookies.len() >= most {
            return true;
        }
        let equals = memchr::memchr(b'=', cookie);
        let name = cookie.get(..equals.unwrap_or(cookie.len())).unwrap_or_default();
        let value = equals.and_then(|at| cookie.get(at + 1..)).unwrap_or_default();
        cookies.push(name.trim_ascii_end(), value);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(pairs: &Pairs) -> String {
        let one = |(name, value): (&[u8], &[u8])| format!("{}={}", name.escape_ascii(), value.escape_ascii());
        pairs.iter().map(one).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn fields_are_decoded_once() {
        let cases = [
            ("", "", Faults::default()),
            ("a=1&b=2", "a=1|b=2", Faults::default()),
            ("a=b=c", "a=b=c", Faults::default()),
            ("a&b=", "a=|b=", Faults::default()),
            ("a=1&&b=2&", "a=1|=|b=2", Faults::default()),
            ("a+b=%41%2541+", "a b=A%41 ", Faults::default()),
            ("a=%zz", "a=%zz", Faults { invalid_escapes: true, too_many: false }),
            ("a=1&b=2&c=3&d=4", "a=1|b=2|c=3", Faults { invalid_escapes: false, too_many: true }),
        ];
        for (text, expected, faults) in cases {
            let mut args = Pairs::default();
            assert_eq!(read(text.as_bytes(), b'&', 3, &mut args), faults, "{text}");
            assert_eq!(show(&args), expected, "{text}");
        }
    }

    #[test]
    fn cookies_stay_encoded() {
        for (text, expected) in [("a=1; b=%20;c", "a=1|b=%20|c="), (";; a=b=c ;", "a=b=c "), ("", "")] {
            let mut cookies = Pairs::default();
            read_cookies(text.as_bytes(), 100, &mut cookies);
            assert_eq!(show(&cookies), expected, "{text}");
        }
    }
}
