//! Numbers that carry check digits: payment cards and identity numbers.

/// Which kind of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Luhn.
    Card,
    /// Brazil's CPF.
    Cpf,
    /// United States social security number.
    SocialSecurity,
}

impl Identity {
    /// Judges the digits in a candidate; what stands between them is ignored.
    pub(crate) fn is_valid(self, candidate: &[u8]) -> bool {
        let digits: Vec<u32> = candidate.iter().filter_map(|byte| char::from(*byte).to_digit(10)).collect();
        match self {
            Self::Card => luhn(&digits),
            Self::Cpf => cpf(&digits),
            Self::SocialSecurity => social_security(&digits),
        }
    }
}

fn luhn(digits: &[u32]) -> bool {
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let weigh = |(place, digit): (usize, &u32)| if place % 2 == 1 { doubled(*digit) } else { *digit };
    !digits.is_empty() && digits.iter().rev().enumerate().map(weigh).sum::<u32>() % 10 == 0
}

fn cpf(digits: &[u32]) -> bool {
    let check = |known: &[u32]| {
        let sum: u32 = known.iter().rev().zip(2..).map(|(digit, weight)| digit * weight).sum();
        if sum % 11 < 2 { 0 } else { 11 - sum % 11 }
    };
    match digits {
        [body @ .., first, second] if body.len() == 9 => {
            let repeated = digits.windows(2).all(|pair| pair.first() == pair.last());
            let with_first: Vec<u32> = body.iter().copied().chain([*first]).collect();
            !repeated && check(body) == *first && check(&with_first) == *second
        }
        _ => false,
    }
}

fn social_security(digits: &[u32]) -> bool {
    let [a, b, c, d, e, f, g, h, i] = digits else { return false };
    let (area, group, serial) = (a * 100 + b * 10 + c, d * 10 + e, f * 1000 + g * 100 + h * 10 + i);
    let repeated = digits.windows(2).all(|pair| pair.first() == pair.last());
    area != 0 && area != 666 && area < 740 && group != 0 && serial != 0 && !repeated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_digits_decide() {
        let cases = [
            (Identity::Card, "4111 1111 1111 1111", true),
            (Identity::Card, "4111-1111-1111-1112", false),
            (Identity::Cpf, "529.982.247-25", true),
            (Identity::Cpf, "529.982.247-26", false),
            (Identity::Cpf, "111.111.111-11", false),
            (Identity::SocialSecurity, "078-05-1120", true),
            (Identity::SocialSecurity, "666-05-1120", false),
            (Identity::SocialSecurity, "078-00-1120", false),
        ];
        for (identity, number, expected) in cases {
            assert_eq!(identity.is_valid(number.as_bytes()), expected, "{identity:?} {number}");
        }
    }
}
