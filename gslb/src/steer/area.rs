//! A part of the world that clients come from, as the operator names it: `country:DE`, `asn:64500`, `net:10.0.0.0/8`.

use portcullis_names::{Cidr, ObjectName};
use std::{fmt, str::FromStr};

/// Where clients are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// Two letters: AF, AN, AS, EU, NA, OC, SA.
    Continent([u8; 2]),
    /// ISO 3166-1, two letters.
    Country([u8; 2]),
    /// ISO 3166-2: country and part, `US-CA`.
    Subdivision(String),
    /// Autonomous system.
    Asn(u32),
    Net(Cidr),
    /// A list of `[dns.geo] nets`.
    Nets(ObjectName),
    /// Everybody.
    Any,
}

/// Not an area.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an area: \"continent:EU\", \"country:DE\", \"subdivision:US-CA\", \"asn:64500\", \"net:10.0.0.0/8\", \
     \"nets:NAME\" or \"*\""
)]
pub struct AreaError(String);

impl Area {
    /// The narrower one wins where several hold a client.
    pub(crate) fn rank(&self) -> u16 {
        match self {
            Self::Any => 0,
            Self::Continent(_) => 1,
            Self::Country(_) => 2,
            Self::Subdivision(_) => 3,
            Self::Asn(_) => 4,
            Self::Nets(_) => 5,
            Self::Net(cidr) => 6 + u16::from(prefix_of(cidr)),
        }
    }
}

/// Of the printed form: `Cidr` keeps its length to itself.
pub(crate) fn prefix_of(cidr: &Cidr) -> u8 {
    cidr.to_string().rsplit('/').next().and_then(|length| length.parse().ok()).unwrap_or(0)
}

impl FromStr for Area {
    type Err = AreaError;

    fn from_str(text: &str) -> Result<Self, AreaError> {
        let wrong = || AreaError(text.chars().take(60).collect());
        if text == "*" {
            return Ok(Self::Any);
        }
        let (kind, value) = text.split_once(':').ok_or_else(wrong)?;
        let letters = || {
            let upper = value.to_ascii_uppercase().into_bytes();
            <[u8; 2]>::try_from(upper)
                .ok()
                .filter(|letters| letters.iter().all(u8::is_ascii_uppercase))
                .ok_or_else(wrong)
        };
        match kind {
            "continent" => letters().map(Self::Continent),
            "country" => letters().map(Self::Country),
            "subdivision" => {
                let upper = value.to_ascii_uppercase();
                let (country, part) = upper.split_once('-').ok_or_else(wrong)?;
                let plain = |text: &str, max| {
                    !text.is_empty() && text.len() <= max && text.bytes().all(|b| b.is_ascii_alphanumeric())
                };
                if country.len() == 2 && plain(country, 2) && plain(part, 3) {
                    Ok(Self::Subdivision(upper))
                } else {
                    Err(wrong())
                }
            }
            "asn" => value.parse().map(Self::Asn).map_err(|_| wrong()),
            "net" => value.parse().map(Self::Net).map_err(|_| wrong()),
            "nets" => value.parse().map(Self::Nets).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Continent(code) => write!(f, "continent:{}", String::from_utf8_lossy(code)),
            Self::Country(code) => write!(f, "country:{}", String::from_utf8_lossy(code)),
            Self::Subdivision(code) => write!(f, "subdivision:{code}"),
            Self::Asn(number) => write!(f, "asn:{number}"),
            Self::Net(cidr) => write!(f, "net:{cidr}"),
            Self::Nets(name) => write!(f, "nets:{name}"),
        }
    }
}

impl serde::Serialize for Area {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Area {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Area {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Area".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "x-expects": "an area like \"country:DE\", \"continent:EU\" or \"net:10.0.0.0/8\"" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_read_and_print_alike_and_the_narrower_ranks_higher() {
        let texts = [
            "*",
            "continent:EU",
            "country:DE",
            "subdivision:US-CA",
            "asn:64500",
            "nets:office",
            "net:10.0.0.0/8",
            "net:10.1.0.0/16",
        ];
        let areas = texts.map(|text| text.parse::<Area>().unwrap());
        assert_eq!(areas.each_ref().map(Area::to_string), texts);
        assert!(areas.windows(2).all(|pair| pair[0].rank() < pair[1].rank()));
        for bad in
            ["", "DE", "country:DEU", "country:D1", "asn:x", "asn:-1", "net:10.0.0.1/8", "planet:X", "subdivision:US"]
        {
            assert!(bad.parse::<Area>().is_err(), "{bad}");
        }
    }
}
