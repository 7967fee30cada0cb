//! A file in which somebody else says how members are: lines of `ADDRESS up` and `ADDRESS down`.

use crate::Failure;
use std::{net::IpAddr, path::Path};

const OCTETS_MAX: u64 = 1 << 20;

pub(super) async fn ask(file: &Path, member: IpAddr) -> Result<(), Failure> {
    let length = tokio::fs::metadata(file).await.map_err(|_| Failure::NoWord)?.len();
    if length > OCTETS_MAX {
        return Err(Failure::NoWord);
    }
    judge(&tokio::fs::read_to_string(file).await.map_err(|_| Failure::NoWord)?, member)
}

/// Who is not named, or named otherwise, stays as it is.
fn judge(text: &str, member: IpAddr) -> Result<(), Failure> {
    let mut words = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    let word = words.find(|(address, _)| address.parse() == Ok(member)).map(|(_, word)| word.trim());
    match word {
        Some("up") => Ok(()),
        Some("down") => Err(Failure::Told),
        Some(_) | None => Err(Failure::NoWord),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_member_says_how_it_is() {
        let text =
            "# by the night watch\n192.0.2.1 up\n 192.0.2.2\tdown \n2001:db8::1 up\n192.0.2.3 perhaps\n192.0.2.4\n";
        for (member, expected) in [
            ("192.0.2.1", Ok(())),
            ("192.0.2.2", Err(Failure::Told)),
            ("2001:db8:0::1", Ok(())),
            ("192.0.2.3", Err(Failure::NoWord)),
            ("192.0.2.4", Err(Failure::NoWord)),
            ("192.0.2.5", Err(Failure::NoWord)),
        ] {
            assert_eq!(judge(text, member.parse().unwrap()), expected, "{member}");
        }
    }
}
