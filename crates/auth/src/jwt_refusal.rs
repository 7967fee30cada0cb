//! Why a token is not believed, and what the client is told about it (RFC 6750 §3).

macro_rules! refusals {
    ($($variant:ident = $label:literal, $status:literal, $doc:literal;)*) => {
        /// Why a token was not accepted; its name is the metric label and the log field.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum JwtRefusal {
            $(#[doc = $doc] #[error($doc)] $variant,)*
        }

        impl JwtRefusal {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }

            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)*
                }
            }

            /// One line for people; also the `error_description`, so free of `"` and `\` (RFC 6750 §3).
            pub const fn doc(self) -> &'static str {
                match self {
                    $(Self::$variant => $doc,)*
                }
            }
        }
    };
}

refusals! {
    Missing = "jwt_missing", 401, "no token was sent";
    Malformed = "jwt_malformed", 401, "the token is not a signed JWT";
    TooLarge = "jwt_too_large", 401, "the token is larger than 8 KiB";
    AlgNone = "jwt_alg_none", 401, "the token is not signed";
    AlgNotAllowed = "jwt_alg_not_allowed", 401, "the signature algorithm is not allowed for this key";
    UnknownKey = "jwt_unknown_key", 401, "the signing key is not known";
    BadKid = "jwt_bad_kid", 401, "the key id is not a short printable text";
    BadSignature = "jwt_bad_signature", 401, "the signature does not fit";
    Expired = "jwt_expired", 401, "the token has expired";
    NotYetValid = "jwt_not_yet_valid", 401, "the token is not valid yet";
    WrongIssuer = "jwt_wrong_issuer", 401, "the token is from another issuer";
    WrongAudience = "jwt_wrong_audience", 401, "the token is for another audience";
    MissingClaim = "jwt_missing_claim", 401, "the token lacks a claim that is required";
    InsufficientScope = "jwt_insufficient_scope", 403, "the token does not grant what is needed here";
    KeysUnavailable = "jwt_keys_unavailable", 503, "the keys of the issuer could not be fetched";
}

impl JwtRefusal {
    /// The value of WWW-Authenticate; `realm` and `scope` are configuration free of `"` and `\`. `None` where the client's
    /// credentials are not at fault.
    pub fn www_authenticate(self, realm: &str, scope: Option<&str>) -> Option<String> {
        let scope = scope.map(|scope| format!(", scope=\"{scope}\"")).unwrap_or_default();
        let error = match self {
            // RFC 6750 §3.1: who sent no credentials is told no error code.
            Self::Missing => return Some(format!("Bearer realm=\"{realm}\"{scope}")),
            Self::InsufficientScope => "insufficient_scope",
            Self::KeysUnavailable => return None,
            Self::Malformed
            | Self::TooLarge
            | Self::AlgNone
            | Self::AlgNotAllowed
            | Self::UnknownKey
            | Self::BadKid
            | Self::BadSignature
            | Self::Expired
            | Self::NotYetValid
            | Self::WrongIssuer
            | Self::WrongAudience
            | Self::MissingClaim => {
                return Some(format!(
                    "Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{}\"",
                    self.doc()
                ));
            }
        };
        Some(format!("Bearer realm=\"{realm}\", error=\"{error}\", error_description=\"{}\"{scope}", self.doc()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6750_3_challenges_name_the_error_and_only_for_a_token_that_was_sent() {
        for refusal in JwtRefusal::ALL {
            let challenge = refusal.www_authenticate("corp", Some("read write"));
            let label = refusal.as_str();
            match refusal.status() {
                401 if *refusal == JwtRefusal::Missing => {
                    assert_eq!(challenge.unwrap(), "Bearer realm=\"corp\", scope=\"read write\"");
                }
                401 => assert!(challenge.unwrap().contains("error=\"invalid_token\", error_description=\""), "{label}"),
                403 => assert!(
                    challenge.unwrap().contains("error=\"insufficient_scope\"") && label == "jwt_insufficient_scope",
                ),
                status => assert!(status == 503 && challenge.is_none(), "{label}"),
            }
            // RFC 6750 §3: %x20-21 / %x23-5B / %x5D-7E.
            assert!(refusal.doc().bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\'), "{label}");
        }
        assert_eq!(JwtRefusal::Missing.www_authenticate("x", None).unwrap(), "Bearer realm=\"x\"");
    }
}
