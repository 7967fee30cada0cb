//! Why a request is not let through by an `auth` rule.

use crate::JwtRefusal;

/// Why; its name is the metric label and the log field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthRefusal {
    #[error(transparent)]
    Jwt(#[from] JwtRefusal),
    #[error("no credentials were sent")]
    CredentialsMissing,
    #[error("credentials were sent more than once in one place")]
    CredentialsRepeated,
    #[error("the API key is not known")]
    ApiKeyUnknown,
    #[error("the Basic credentials cannot be read")]
    PasswordMalformed,
    #[error("user or password is wrong")]
    PasswordWrong,
    #[error("too many passwords are being checked")]
    PasswordBusy,
    #[error("who is asking is in none of the groups that may")]
    NotInGroup,
    #[error("no client certificate was shown")]
    CertificateMissing,
    #[error("the client certificate has none of the names that may")]
    CertificateName,
}

impl AuthRefusal {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt(refusal) => refusal.as_str(),
            Self::CredentialsMissing => "credentials_missing",
            Self::CredentialsRepeated => "credentials_repeated",
            Self::ApiKeyUnknown => "api_key_unknown",
            Self::PasswordMalformed => "password_malformed",
            Self::PasswordWrong => "password_wrong",
            Self::PasswordBusy => "password_busy",
            Self::NotInGroup => "not_in_group",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateName => "certificate_name",
        }
    }

    pub const fn status(self) -> u16 {
        match self {
            Self::Jwt(refusal) => refusal.status(),
            // RFC 6750 §3.1 invalid_request: more than one method to send a token.
            Self::CredentialsRepeated => 400,
            Self::CredentialsMissing | Self::ApiKeyUnknown | Self::PasswordMalformed | Self::PasswordWrong => 401,
            // No credentials of HTTP would help, so there is nothing to challenge (RFC 9110 §15.5.4).
            Self::NotInGroup | Self::CertificateMissing | Self::CertificateName => 403,
            Self::PasswordBusy => 503,
        }
    }
}
