//! Types, codes and classes of DNS by number and name. Unknown types are `TYPEnnn` (RFC 3597 §5).

use std::{fmt, str::FromStr};

/// The type of a record or of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

/// Not the name of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record type")]
pub struct UnknownType;

macro_rules! record_types {
    ($($name:ident $text:literal = $number:literal),* $(,)?) => {
        impl RecordType {
            $(pub const $name: Self = Self($number);)*
        }
        const NAMES: &[(&str, u16)] = &[$(($text, $number)),*];
    };
}

record_types! {
    A "A" = 1, NS "NS" = 2, CNAME "CNAME" = 5, SOA "SOA" = 6, PTR "PTR" = 12, HINFO "HINFO" = 13, MX "MX" = 15,
    TXT "TXT" = 16, RP "RP" = 17, AFSDB "AFSDB" = 18, AAAA "AAAA" = 28, LOC "LOC" = 29, SRV "SRV" = 33,
    NAPTR "NAPTR" = 35, KX "KX" = 36, CERT "CERT" = 37, DNAME "DNAME" = 39, OPT "OPT" = 41, DS "DS" = 43,
    SSHFP "SSHFP" = 44, RRSIG "RRSIG" = 46, NSEC "NSEC" = 47, DNSKEY "DNSKEY" = 48, DHCID "DHCID" = 49,
    NSEC3 "NSEC3" = 50, NSEC3PARAM "NSEC3PARAM" = 51, TLSA "TLSA" = 52, SMIMEA "SMIMEA" = 53, CDS "CDS" = 59,
    CDNSKEY "CDNSKEY" = 60, OPENPGPKEY "OPENPGPKEY" = 61, CSYNC "CSYNC" = 62, ZONEMD "ZONEMD" = 63,
    SVCB "SVCB" = 64, HTTPS "HTTPS" = 65, SPF "SPF" = 99, EUI48 "EUI48" = 108, EUI64 "EUI64" = 109,
    NXNAME "NXNAME" = 128, TKEY "TKEY" = 249, TSIG "TSIG" = 250, IXFR "IXFR" = 251, AXFR "AXFR" = 252,
    MAILB "MAILB" = 253, MAILA "MAILA" = 254, ANY "ANY" = 255, URI "URI" = 256, CAA "CAA" = 257,
}

impl RecordType {
    /// RFC 6895 §3.1: questions and helpers of the protocol, never data of a zone. OPT is one below the range.
    pub fn is_meta(self) -> bool {
        self == Self::OPT || (128..=255).contains(&self.0) || self.0 == 0
    }
}

impl FromStr for RecordType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        if let Some((_, number)) = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Ok(Self(*number));
        }
        let digits = text.get(..4).filter(|head| head.eq_ignore_ascii_case("TYPE")).and_then(|_| text.get(4..));
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|digits| digits.parse().ok()).map(Self).ok_or(UnknownType)
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

/// What a reply says of its query (RFC 6895 §2.3); codes above 15 need EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    /// RFC 6672 §2.2: a DNAME would make too long a name.
    YxDomain = 6,
    /// RFC 2136 §2.2: what a client takes for granted is not so, or the name lies elsewhere.
    YxRrSet = 7,
    NxRrSet = 8,
    NotAuth = 9,
    NotZone = 10,
    BadVers = 16,
    BadCookie = 23,
}

impl Rcode {
    pub const ALL: [Self; 13] = [
        Self::NoError,
        Self::FormErr,
        Self::ServFail,
        Self::NxDomain,
        Self::NotImp,
        Self::Refused,
        Self::YxDomain,
        Self::YxRrSet,
        Self::NxRrSet,
        Self::NotAuth,
        Self::NotZone,
        Self::BadVers,
        Self::BadCookie,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
            Self::YxDomain => "YXDOMAIN",
            Self::YxRrSet => "YXRRSET",
            Self::NxRrSet => "NXRRSET",
            Self::NotAuth => "NOTAUTH",
            Self::NotZone => "NOTZONE",
            Self::BadVers => "BADVERS",
            Self::BadCookie => "BADCOOKIE",
        }
    }

    /// The four bits of the header.
    pub(crate) fn low(self) -> u8 {
        (self as u16 & 0x0f) as u8
    }

    /// The eight bits of the OPT record (RFC 6891 §6.1.3).
    pub(crate) fn high(self) -> u8 {
        (self as u16 >> 4) as u8
    }
}

/// RFC 1035 §3.2.4.
pub(crate) const CLASS_IN: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3597_5_types_have_names_or_numbers() {
        for (text, number, printed) in [
            ("A", 1, "A"),
            ("https", 65, "HTTPS"),
            ("TYPE65", 65, "HTTPS"),
            ("type731", 731, "TYPE731"),
            ("CAA", 257, "CAA"),
        ] {
            let of_type: RecordType = text.parse().unwrap();
            assert_eq!((of_type.0, of_type.to_string().as_str()), (number, printed));
        }
        for bad in ["", "TYPE", "TYPE65536", "TYPE+1", "B", "TYPEé"] {
            assert!(bad.parse::<RecordType>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rfc6891_6_1_3_codes_split_between_header_and_opt() {
        for (code, low, high) in [(Rcode::NxDomain, 3, 0), (Rcode::BadVers, 0, 1), (Rcode::BadCookie, 7, 1)] {
            assert_eq!((code.low(), code.high()), (low, high));
        }
    }
}
