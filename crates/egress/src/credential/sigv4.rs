//! AWS Signature Version 4, of header fields. Pure: the time is an argument.
//!
//! Written here rather than taken from `aws-sigv4`, which brings the SDK's runtime crates for a page of hashing. Signed are
//! Host and the `x-amz-*` fields that this module sets: what the client may still change on its own is not covered.

use super::{Secret, header_changes::HeaderChanges};
use aws_lc_rs::{digest, hmac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use std::time::SystemTime;

#[derive(Debug)]
pub(crate) struct SigV4 {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: Secret,
    pub(crate) session_token: Option<Secret>,
    pub(crate) region: String,
    pub(crate) service: String,
    pub(crate) unsigned_payload: Option<bool>,
}

/// Whether a body whose hash is not known when the head goes out may go out without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsignedPayload {
    Allowed,
    Refused,
}

/// Whether the body is part of what is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// It streams through, and TLS alone protects it.
    Unsigned,
    Sha256([u8; 32]),
}

/// What is signed of a request: as it goes out, not as it came in.
#[derive(Debug, Clone, Copy)]
pub struct SignedParts<'a> {
    pub method: &'a str,
    /// The value of Host that the destination will see.
    pub authority: &'a str,
    /// Path and query, as they go out.
    pub target: &'a str,
    pub payload: Payload,
}

impl SigV4 {
    pub(crate) fn sign(&self, parts: &SignedParts<'_>, wall: SystemTime) -> HeaderChanges {
        let time = time_of(wall);
        let day = time.get(..8).unwrap_or_default();
        let payload = match parts.payload {
            Payload::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
            Payload::Sha256(hash) => hex(&hash),
        };
        // Other services take the hash from the body itself and need no field, unless there is none.
        let says_payload = self.is_s3() || parts.payload == Payload::Unsigned;
        let mut fields = vec![("host", parts.authority.as_bytes().to_vec())];
        if says_payload {
            fields.push(("x-amz-content-sha256", payload.clone().into_bytes()));
        }
        fields.push(("x-amz-date", time.clone().into_bytes()));
        if let Some(token) = &self.session_token {
            fields.push(("x-amz-security-token", token.expose().to_vec()));
        }
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let mut canonical = Vec::new();
        canonical.extend_from_slice(parts.method.as_bytes());
        let (path, query) = parts.target.split_once('?').unwrap_or((parts.target, ""));
        canonical.extend_from_slice(format!("\n{}\n{}\n", self.path(path), canonical_query(query)).as_bytes());
        for (name, value) in &fields {
            canonical.extend_from_slice(&[name.as_bytes(), b":", value.trim_ascii(), b"\n"].concat());
        }
        canonical.extend_from_slice(format!("\n{names}\n{payload}").as_bytes());
        let canonical = Secret::new(canonical);
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(sha256(canonical.expose()).as_ref()));
        let signature = hex(mac(self.key(day).expose(), to_sign.as_bytes()).expose());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.access_key_id
        );
        let mut changes = HeaderChanges::default();
        for name in ["x-amz-content-sha256", "x-amz-date", "x-amz-security-token", "authorization"] {
            changes.remove(name);
        }
        for (name, value) in fields.into_iter().filter(|(name, _)| *name != "host") {
            changes.set(name, Secret::new(value));
        }
        changes.set("authorization", Secret::new(authorization.into_bytes()));
        changes
    }

    fn key(&self, day: &str) -> Secret {
        let first = Secret::concat(&[b"AWS4", self.secret_access_key.expose()]);
        [day, &self.region, &self.service, "aws4_request"]
            .iter()
            .fold(first, |key, part| mac(key.expose(), part.as_bytes()))
    }

    pub(crate) fn unsigned_payload(&self) -> UnsignedPayload {
        if self.unsigned_payload.unwrap_or(self.is_s3()) { UnsignedPayload::Allowed } else { UnsignedPayload::Refused }
    }

    fn is_s3(&self) -> bool {
        matches!(self.service.as_str(), "s3" | "s3express" | "s3-object-lambda")
    }

    /// S3 signs the path as it is; all others sign its escapes escaped once more.
    fn path(&self, path: &str) -> String {
        let path = if path.is_empty() { "/" } else { path };
        let once = path.split('/').map(|segment| {
            let plain = percent_decode_str(segment).collect::<Vec<u8>>();
            percent_encoding::percent_encode(&plain, UNRESERVED).to_string()
        });
        let once = once.collect::<Vec<_>>().join("/");
        if self.is_s3() { once } else { utf8_percent_encode(&once, UNRESERVED_OR_SLASH).to_string() }
    }
}

fn canonical_query(query: &str) -> String {
    let encode = |text: &str| {
        let plain = percent_decode_str(text).collect::<Vec<u8>>();
        percent_encoding::percent_encode(&plain, UNRESERVED).to_string()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (encode(name), encode(value))
    });
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// RFC 3986 §2.3.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const UNRESERVED_OR_SLASH: &AsciiSet = &UNRESERVED.remove(b'/');

fn time_of(wall: SystemTime) -> String {
    let t = time::OffsetDateTime::from(wall);
    let (year, month, day) = (t.year(), u8::from(t.month()), t.day());
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", t.hour(), t.minute(), t.second())
}

fn mac(key: &[u8], message: &[u8]) -> Secret {
    Secret::new(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec())
}

fn sha256(octets: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, octets)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn signature(signer: &SigV4, method: &str, authority: &str, target: &str, at: u64) -> String {
        let payload = Payload::Sha256(sha256(b"").as_ref().try_into().unwrap());
        let parts = SignedParts { method, authority, target, payload };
        let changes = signer.sign(&parts, SystemTime::UNIX_EPOCH + Duration::from_secs(at));
        let value = String::from_utf8(changes.value_of("authorization").unwrap().to_vec()).unwrap();
        value.rsplit('=').next().unwrap().to_owned()
    }

    fn signer(id: &str, secret: &[u8], service: &str) -> SigV4 {
        SigV4 {
            access_key_id: id.into(),
            secret_access_key: Secret::new(secret.to_vec()),
            session_token: None,
            region: "us-east-1".into(),
            service: service.into(),
            unsigned_payload: None,
        }
    }

    #[test]
    fn the_published_test_suite_is_signed_as_published() {
        let signer = signer("AKIDEXAMPLE", b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "service");
        for (method, target, expected) in [
            ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "GET",
                "/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                "GET",
                "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
                "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
            ),
        ] {
            // 2015-08-30T12:36:00Z
            let found = signature(&signer, method, "example.amazonaws.com", target, 1_440_938_160);
            assert_eq!(found, expected, "{method} {target}");
        }
    }

    #[test]
    fn the_examples_of_the_s3_documentation_are_signed_as_documented() {
        let signer = signer("AKIAIOSFODNN7EXAMPLE", b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "s3");
        for (target, expected) in [
            ("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            // 2013-05-24T00:00:00Z
            let found = signature(&signer, "GET", "examplebucket.s3.amazonaws.com", target, 1_369_353_600);
            assert_eq!(found, expected, "{target}");
        }
    }

    #[test]
    fn escapes_are_escaped_again_except_for_s3() {
        for (service, path, canonical) in [
            ("s3", "/a%20b/c%2fd", "/a%20b/c%2Fd"),
            ("execute-api", "/a%20b/c", "/a%2520b/c"),
            ("execute-api", "/plain/x~y", "/plain/x~y"),
            ("s3", "", "/"),
        ] {
            assert_eq!(signer("a", b"b", service).path(path), canonical, "{service} {path}");
        }
        assert_eq!(canonical_query("b=2&a=%2f&a=1&c"), "a=%2F&a=1&b=2&c=");
    }
}
