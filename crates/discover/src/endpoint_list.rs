//! A file of endpoints: `endpoints = ["10.0.0.11:8080", …]` in TOML, or the same in JSON when its name ends in `.json`.

use crate::{ENDPOINTS_MAX, EndpointSpec, Endpoints, Found};
use serde::Deserialize;
use std::{fs::File, io::Read, path::Path};

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointList {
    pub endpoints: Vec<EndpointSpec>,
}

/// Why a file of endpoints is not used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    #[error("larger than {} KiB", FILE_MAX >> 10)]
    TooLarge,
    #[error("not UTF-8")]
    NotText,
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("{0} endpoints are more than {ENDPOINTS_MAX}")]
    TooMany(usize),
    #[error("{0} is listed twice; use `weight` to give it a larger share")]
    Twice(portcullis_names::EndpointAddress),
    #[error("the weights sum to zero: nobody would get a request")]
    Weightless,
}

/// A thousand endpoints with everything written out take less than half of it.
const FILE_MAX: u64 = 256 << 10;

impl EndpointList {
    pub const MAX_BYTES: usize = FILE_MAX as usize;

    /// `{ "endpoints": [ … ] }`.
    pub fn from_json(bytes: &[u8]) -> Result<Endpoints, ListError> {
        serde_json::from_slice::<Self>(bytes)?.into_endpoints()
    }

    pub fn read(path: &Path) -> Result<Endpoints, ListError> {
        let mut bytes = Vec::new();
        // A device or pipe has no length to look at.
        File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(ListError::TooLarge);
        }
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let list: Self = if is_json {
            serde_json::from_slice(&bytes)?
        } else {
            toml::from_str(std::str::from_utf8(&bytes).map_err(|_| ListError::NotText)?)?
        };
        list.into_endpoints()
    }

    /// An empty list is taken at its word; a list that is wrong in any item is not taken at all.
    fn into_endpoints(self) -> Result<Endpoints, ListError> {
        let count = self.endpoints.len();
        if count > ENDPOINTS_MAX {
            return Err(ListError::TooMany(count));
        }
        if count > 0 && self.endpoints.iter().all(|endpoint| endpoint.weight == 0) {
            return Err(ListError::Weightless);
        }
        let mut addresses: Vec<_> = self.endpoints.iter().map(|endpoint| &endpoint.address).collect();
        addresses.sort();
        if let Some(twice) =
            addresses.windows(2).find_map(|pair| (pair.first() == pair.last()).then(|| pair.first())?)
        {
            return Err(ListError::Twice((*twice).clone()));
        }
        let found = self.endpoints.into_iter().map(|endpoint| Found {
            priority: endpoint.priority,
            address: endpoint.address,
            weight: endpoint.weight,
            zone: endpoint.zone,
            host: None,
        });
        Ok(Endpoints::new(found.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: impl AsRef<[u8]>) -> Result<Endpoints, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        EndpointList::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = read(
            "a.toml",
            "endpoints = [\"10.0.0.1:80\", { address = \"10.0.0.2:80\", weight = 5, priority = 1, zone = \"a\" }]",
        );
        let json = read(
            "a.json",
            r#"{"endpoints":["10.0.0.1:80",{"address":"10.0.0.2:80","weight":5,"priority":1,"zone":"a"}]}"#,
        );
        assert_eq!(toml, json);
        let endpoints = toml.unwrap();
        let last = endpoints.as_slice().last().unwrap();
        assert_eq!((last.weight, last.priority, last.zone.as_deref()), (5, 1, Some("a")));
        assert!(read("a.toml", "endpoints = []").unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_wrong_in_any_item_is_not_taken() {
        let many =
            format!("endpoints = [{}]", (0..1_001).map(|i| format!("\"10.0.0.1:{}\",", i + 1)).collect::<String>());
        for (name, text, why) in [
            ("a.toml", "", "missing field `endpoints`"),
            ("a.toml", "endpoints = [\"10.0.0.1\"]", "the port is missing"),
            ("a.toml", "endpoints = [{ address = \"10.0.0.1:1\", wieght = 1 }]", "unknown field `wieght`"),
            ("a.toml", "endpoints = [{ address = \"10.0.0.1:1\", weight = 65536 }]", "weight 65536 is more than 65535"),
            ("a.toml", "endpoints = [{ address = \"10.0.0.1:1\", priority = 128 }]", "priority 128 is more than 127"),
            ("a.toml", "endpoints = [{ address = \"10.0.0.1:1\", zone = \"\" }]", "1 to 63 characters"),
            ("a.toml", "endpoints = [{ address = \"10.0.0.1:1\", weight = 0 }]", "sum to zero"),
            ("a.toml", "endpoints = [\"10.0.0.1:1\", \"10.0.0.1:1\"]", "10.0.0.1:1 is listed twice"),
            ("a.toml", "endpoints = [7]", "\"address:port\" or"),
            ("a.toml", many.as_str(), "1001 endpoints are more than 1000"),
            ("a.json", "{\"endpoints\":[", "EOF"),
        ] {
            let error = read(name, text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(read("a.toml", b"\xff").unwrap_err().contains("UTF-8"));
        assert!(read("a.toml", vec![b'#'; 300 << 10]).unwrap_err().contains("larger than 256 KiB"));
        let absent = EndpointList::read(Path::new("/nonexistent/endpoints.toml")).unwrap_err();
        assert!(absent.to_string().contains("cannot read it"));
    }
}
