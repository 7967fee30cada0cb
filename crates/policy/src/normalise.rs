//! One spelling for each path, so that a rule cannot be walked around with another spelling of the same place.

use std::borrow::Cow;

/// Why a path has no safe spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathRefusal {
    /// `%` without two hexadecimal digits (RFC 3986 §2.1).
    BadEscape,
    /// An encoded control octet or backslash: origins disagree on what they mean, and nobody honest sends them.
    ForbiddenEscape,
    NotAbsolute,
}

/// Decodes unreserved characters, writes escapes in capitals, merges slashes and removes dot segments (RFC 3986 §6.2.2).
/// `%2F` stays as it is: it is data, not a separator. The result is what rules match *and* what the origin is sent, so
/// both speak of the same place. Idempotent; borrows when there is nothing to do.
pub fn normalise_path(path: &str) -> Result<Cow<'_, str>, PathRefusal> {
    if !path.starts_with('/') {
        return Err(PathRefusal::NotAbsolute);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path.as_bytes())?;
    Ok(Cow::Owned(remove_dot_segments(&decoded)))
}

/// No escapes, no dot segments, no double slashes.
fn is_plain(path: &[u8]) -> bool {
    let mut after_slash = false;
    for octet in path {
        match octet {
            b'%' => return false,
            b'/' | b'.' if after_slash => return false,
            _ => {}
        }
        after_slash = *octet == b'/';
    }
    true
}

fn decode(path: &[u8]) -> Result<String, PathRefusal> {
    let mut text = String::with_capacity(path.len());
    let mut at = 0;
    while let Some(octet) = path.get(at) {
        if *octet != b'%' {
            text.push(char::from(*octet));
            at += 1;
            continue;
        }
        let digit = |at: usize| path.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else { return Err(PathRefusal::BadEscape) };
        // Two hexadecimal digits fit an octet.
        let value = (high << 4 | low) as u8;
        match value {
            0..0x20 | 0x7f | b'\\' => return Err(PathRefusal::ForbiddenEscape),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(value)),
            _ => text.push_str(&format!("%{value:02X}")),
        }
        at += 3;
    }
    Ok(text)
}

/// RFC 3986 §5.2.4, with empty segments dropped too.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut trailing = false;
    for segment in path.split('/').skip(1) {
        trailing = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let mut result = String::with_capacity(path.len());
    for segment in &kept {
        result.push('/');
        result.push_str(segment);
    }
    if trailing || kept.is_empty() {
        result.push('/');
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_place_becomes_one() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/a/%2e%2E/b", "/b"),
            ("/%61dmin", "/admin"),
            ("//admin", "/admin"),
            ("/a//b/", "/a/b/"),
            ("/a%2fb", "/a%2Fb"),
            ("/%e2%82%ac", "/%E2%82%AC"),
            ("/a.b/...", "/a.b/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/%7Euser", "/~user"),
        ] {
            let once = normalise_path(path).unwrap();
            assert_eq!(once, normal, "{path}");
            assert_eq!(normalise_path(&once).unwrap(), once, "idempotent: {path}");
        }
    }

    #[test]
    fn what_has_no_safe_spelling_is_refused() {
        for path in ["/%", "/%4", "/%zz", "/%00", "/%1f", "/%7F", "/%5c", "/%0d%0a", "a", ""] {
            assert!(normalise_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn normalising_twice_changes_nothing_for_random_paths() {
        let mut random = fastrand::Rng::with_seed(7);
        let parts = ["/", ".", "..", "%2e", "%2F", "a", "%41", "//", "%25", "~"];
        for _ in 0..20_000 {
            let path: String = std::iter::once("/")
                .chain((0..random.usize(..12)).map(|_| parts[random.usize(..parts.len())]))
                .collect();
            if let Ok(once) = normalise_path(&path) {
                assert_eq!(normalise_path(&once).unwrap(), once, "{path}");
                assert!(!once.contains("/../") && !once.contains("//"), "{path} -> {once}");
            }
        }
    }
}
