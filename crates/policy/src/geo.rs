//! `[geo]`: where an address is, by any database in MaxMind's format.

use maxminddb::{PathElement, Reader};
use portcullis_config::{Context, Path};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, path::PathBuf};

/// The database that `country` conditions and keys are answered by.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeoSpec {
    /// A file in MaxMind's format (.mmdb) with countries; a change of it is a reload.
    pub file: PathBuf,
}

/// A database in memory.
pub struct Geo(Reader<Vec<u8>>);

/// Where databases keep the country's code (ISO 3166-1): the nested form first, then the flat one.
const PATHS: [&[PathElement<'static>]; 2] =
    [&[PathElement::Key("country"), PathElement::Key("iso_code")], &[PathElement::Key("country_code")]];

impl GeoSpec {
    pub fn compile(&self, at: &Path, cx: &mut Context) -> Option<Geo> {
        let at = at.key("file");
        let octets = cx.read(&at, &self.file)?;
        match Reader::from_source(octets) {
            Ok(reader) => Some(Geo(reader)),
            Err(error) => {
                cx.error(&at, format!("{} is no database in MaxMind's format: {error}", self.file.display()));
                None
            }
        }
    }
}

impl Geo {
    /// The country of an address, as the database writes it (two capital letters).
    pub fn country(&self, address: IpAddr) -> Option<&str> {
        let found = self.0.lookup(address).ok()?;
        PATHS.iter().find_map(|path| found.decode_path::<&str>(path).ok().flatten())
    }
}

impl fmt::Debug for Geo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Geo").field(&self.0.metadata().database_type).finish()
    }
}
