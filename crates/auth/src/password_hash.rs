//! Passwords as they are kept: argon2 (RFC 9106) or bcrypt. Slow by design; who asks must be able to wait.

use argon2::{
    Argon2, Params, PasswordVerifier,
    password_hash::phc::{PasswordHash as Phc, PasswordHash as ParsedPhc},
};

/// One password's hash.
#[derive(Clone)]
pub(crate) enum PasswordHash {
    Argon2(Box<ParsedPhc>),
    Bcrypt(String),
}

/// Why a text is no hash that can be used; it never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HashError {
    #[error("neither an argon2 hash ($argon2id$…) nor a bcrypt hash ($2b$…)")]
    Unknown,
    #[error(
        "the hash takes more than 256 MiB, 32 passes or cost 15 to check, which lets a flood of wrong passwords stop the gateway"
    )]
    TooCostly,
}

const ARGON2_MEMORY_MAX_KIB: u32 = 256 << 10;
const ARGON2_PASSES_MAX: u32 = 32;
const BCRYPT_COST_MAX: u32 = 15;

impl PasswordHash {
    pub(crate) fn parse(text: &str) -> Result<Self, HashError> {
        if text.starts_with("$2") {
            let parts: bcrypt::HashParts = text.parse().map_err(|_| HashError::Unknown)?;
            return if parts.get_cost() > BCRYPT_COST_MAX {
                Err(HashError::TooCostly)
            } else {
                Ok(Self::Bcrypt(text.to_owned()))
            };
        }
        let phc = Phc::new(text).map_err(|_| HashError::Unknown)?;
        let known = matches!(phc.algorithm.as_str(), "argon2id" | "argon2i" | "argon2d");
        if !known || phc.hash.is_none() || phc.salt.is_none() {
            return Err(HashError::Unknown);
        }
        let params = Params::try_from(&phc).map_err(|_| HashError::Unknown)?;
        if params.m_cost() > ARGON2_MEMORY_MAX_KIB || params.t_cost() > ARGON2_PASSES_MAX {
            return Err(HashError::TooCostly);
        }
        Ok(Self::Argon2(Box::new(phc)))
    }

    /// Takes milliseconds.
    pub(crate) fn verifies(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2(phc) => Argon2::default().verify_password(password, phc.as_ref()).is_ok(),
            // Longer passwords than bcrypt reads are refused, not cut: two of them with the same start are not the same.
            Self::Bcrypt(hash) => bcrypt::non_truncating_verify(password, hash).unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashes_that_can_be_checked_in_reason_are_taken() {
        for (text, expected) in [
            ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ", None),
            ("$2b$04$abcdefghijklmnopqrstuuBJmNIjQ4ejNPWu8VqlSRRqzrEhCFvpK", None),
            ("$2b$16$abcdefghijklmnopqrstuuBJmNIjQ4ejNPWu8VqlSRRqzrEhCFvpK", Some(HashError::TooCostly)),
            (
                "$argon2id$v=19$m=1048576,t=1,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ",
                Some(HashError::TooCostly),
            ),
            (
                "$argon2id$v=19$m=64,t=33,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ",
                Some(HashError::TooCostly),
            ),
            ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ", Some(HashError::Unknown)),
            (
                "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
                Some(HashError::Unknown),
            ),
            ("$2b$04$short", Some(HashError::Unknown)),
            ("$apr1$x$y", Some(HashError::Unknown)),
            ("$1$x$y", Some(HashError::Unknown)),
            ("{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=", Some(HashError::Unknown)),
            ("hunter2", Some(HashError::Unknown)),
            ("", Some(HashError::Unknown)),
        ] {
            assert_eq!(PasswordHash::parse(text).err(), expected, "{text}");
        }
    }
}
