//! A proxy between this gateway and the internet. Which one, and for which destinations, is configuration alone: nothing that a
//! client sends chooses a parent.
//!
//! Sans sockets but for the words spoken on one: connecting and TLS are the caller's, by the same checks as any address.

use crate::{BasicCredentialSpec, DialLimits, Host, PrivateRanges, Secret, Target, credential::read};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use portcullis_auth::{HttpUrl, Transport};
use portcullis_config::{Context, Path};
use portcullis_names::{Cidr, ObjectName, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{io, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// `[egress.parent.NAME]`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ParentSpec {
    /// `"http://proxy.corp.example:3128"`, or https for TLS towards the parent.
    pub url: String,
    /// With https: the `[trust.X]` whose authorities may certify the parent (default the system's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    /// With https: the `[certificate.X]` that is shown to the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ObjectName>,
    /// As whom the gateway asks (RFC 7617).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicCredentialSpec>,
    /// What the parent is asked for (default address).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<Asks>,
    /// Ranges outside the public internet that the parent may be in (default none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_addresses: Option<Vec<Cidr>>,
    /// For the connection, TLS and the parent's answer, each (default 5s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<TimeSpan>,
}

/// What a parent is told of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Asks {
    /// One of the addresses that this gateway resolved and checked: what the parent dials is what was checked.
    #[default]
    Address,
    /// The name, which the parent resolves: it is trusted to check what it finds. For networks where only the parent can resolve.
    Name,
}

/// A parent, compiled. Its `Debug` shows no secret.
#[derive(Debug)]
pub struct Parent {
    name: ObjectName,
    target: Target,
    transport: Transport,
    authorization: Option<Secret>,
    asks: Asks,
    private: PrivateRanges,
    timeout: Duration,
}

/// Why a parent does not lead there.
#[derive(Debug, thiserror::Error)]
pub enum ParentTrouble {
    #[error("the parent proxy answered CONNECT with status {0}")]
    Refused(u16),
    #[error("the parent proxy's answer to CONNECT is no HTTP/1.1, or too long")]
    NotHttp,
    #[error("the parent proxy did not answer in time")]
    Silent,
    #[error("the connection to the parent proxy failed")]
    Broken(#[from] io::Error),
}

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_MAX_BYTES: usize = 8 << 10;

impl Parent {
    /// TLS towards it is compiled by whoever opens it.
    pub fn compile(name: &ObjectName, spec: &ParentSpec, at: &Path, cx: &mut Context) -> Option<Self> {
        let url: Option<HttpUrl> = match spec.url.parse() {
            Ok(url) => Some(url),
            Err(_) => {
                cx.error(&at.key("url"), "this is no proxy's URL")
                    .help("write \"http://host:port\" or \"https://host:port\"");
                None
            }
        };
        let wordy = url.as_ref().is_some_and(|url| url.target() != "/");
        if wordy {
            cx.error(&at.key("url"), "a proxy has no path").help("write \"http://host:port\"");
        }
        let transport = url.as_ref().map(HttpUrl::transport);
        for (key, said) in [("trust", spec.trust.is_some()), ("certificate", spec.certificate.is_some())] {
            if said && transport == Some(Transport::Clear) {
                cx.error_at_key(
                    &at.key(key),
                    format!("`{key}` is about TLS, and this parent is spoken to in the clear"),
                )
                .help("write \"https://…\" as its `url`");
            }
        }
        if spec.connect_timeout.is_some_and(TimeSpan::is_zero) {
            cx.error(&at.key("connect_timeout"), "no time at all is never enough").help("leave it out for the default");
        }
        let authorization = match &spec.basic {
            None => None,
            Some(basic) => {
                let password = read(&basic.password, &at.key("basic").key("password"), cx)?;
                if basic.user.contains(':') {
                    cx.error(&at.key("basic").key("user"), "a user name has no colon (RFC 7617 §2)");
                }
                let pair = Secret::concat(&[basic.user.as_bytes(), b":", password.expose()]);
                let encoded = Secret::new(STANDARD.encode(pair.expose()).into_bytes());
                Some(Secret::concat(&[b"Proxy-Authorization: Basic ", encoded.expose(), b"\r\n"]))
            }
        };
        let url = url.filter(|_| !wordy)?;
        let host = if url.host().contains(':') { format!("[{}]", url.host()) } else { url.host().to_owned() };
        let host = match Host::parse(&host) {
            Ok(host) => host,
            Err(reason) => {
                cx.error(&at.key("url"), reason.to_string());
                return None;
            }
        };
        Some(Self {
            name: name.clone(),
            target: Target::new(host, url.port()),
            transport: url.transport(),
            authorization,
            asks: spec.asks.unwrap_or_default(),
            private: PrivateRanges::new(spec.private_addresses.as_deref().unwrap_or_default()),
            timeout: spec.connect_timeout.map_or(TIMEOUT, TimeSpan::get),
        })
    }

    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Where it is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    pub fn asks(&self) -> Asks {
        self.asks
    }

    /// For [`crate::Resolved::checked`] on what was resolved for its own name.
    pub fn private_ranges(&self) -> &PrivateRanges {
        &self.private
    }

    /// For each step.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub fn dial_limits(&self) -> DialLimits {
        DialLimits { attempt_timeout: self.timeout, ..DialLimits::default() }
    }

    /// Asks for a tunnel on an open connection. Gives what the far end said already.
    pub async fn ask(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        authority: &str,
    ) -> Result<Bytes, ParentTrouble> {
        match tokio::time::timeout(self.timeout, self.exchange(stream, authority)).await {
            Ok(answered) => answered,
            Err(_) => Err(ParentTrouble::Silent),
        }
    }

    async fn exchange(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        authority: &str,
    ) -> Result<Bytes, ParentTrouble> {
        let line = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        let who = self.authorization.as_ref().map_or(&b""[..], Secret::expose);
        let head = Secret::concat(&[line.as_bytes(), who, b"\r\n"]);
        stream.write_all(head.expose()).await?;
        stream.flush().await?;
        let mut answer = BytesMut::with_capacity(256);
        loop {
            let searched = answer.len().saturating_sub(3);
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(ParentTrouble::NotHttp);
            }
            let fresh = answer.get(searched..).unwrap_or_default();
            if let Some(end) = fresh.windows(4).position(|four| four == b"\r\n\r\n") {
                let front = answer.split_off(searched + end + 4).freeze();
                return accepted(&answer).map(|()| front);
            }
            if answer.len() > ANSWER_MAX_BYTES {
                return Err(ParentTrouble::NotHttp);
            }
        }
    }
}

/// RFC 9110 §9.3.6: any 2xx opens the tunnel.
fn accepted(head: &[u8]) -> Result<(), ParentTrouble> {
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "));
    let status = status.and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
    match status {
        Some(200..=299) => Ok(()),
        Some(status) => Err(ParentTrouble::Refused(status)),
        None => Err(ParentTrouble::NotHttp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    fn parent(toml: &str) -> Result<Parent, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "s3cret\n").unwrap();
        let toml = toml.replace("\"password\"", &format!("{file:?}"));
        let (spec, mut cx): (ParentSpec, _) = (toml::from_str(&toml).unwrap(), Context::default());
        let parent = Parent::compile(&"corp".parse().unwrap(), &spec, &Path::root(), &mut cx);
        let report = cx.report();
        if report.has_errors() { Err(format!("{:?}", report.lines())) } else { Ok(parent.unwrap()) }
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_with_the_password_and_what_comes_early_is_kept() {
        let parent = parent(
            "url = \"http://proxy.corp.example:3128\"\nbasic = { user = \"gw\", password = { file = \"password\" } }",
        );
        let parent = parent.unwrap();
        assert!(!format!("{parent:?}").contains("s3cret") && !format!("{parent:?}").contains("Z3c6"));
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nVia: x\r\n\r\nSSH-2.0-x\r\n", Ok("SSH-2.0-x\r\n")),
            ("HTTP/1.0 204 yes\r\n\r\n", Ok("")),
            ("HTTP/1.1 407 who?\r\nContent-Length: 0\r\n\r\n", Err("status 407")),
            ("SMTP ready\r\n\r\n", Err("no HTTP/1.1")),
            ("HTTP/1.1 200 OK\r\n", Err("no HTTP/1.1")),
        ] {
            let (mut ours, mut theirs) = duplex(64);
            let served = async {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(theirs.read_u8().await.unwrap());
                }
                theirs.write_all(answer.as_bytes()).await.unwrap();
                drop(theirs);
                String::from_utf8(head).unwrap()
            };
            let (asked, head) = tokio::join!(parent.ask(&mut ours, "192.0.2.7:443"), served);
            assert_eq!(
                head,
                "CONNECT 192.0.2.7:443 HTTP/1.1\r\nHost: 192.0.2.7:443\r\nProxy-Authorization: Basic Z3c6czNjcmV0\r\n\r\n"
            );
            match (asked, expected) {
                (Ok(front), Ok(early)) => {
                    let mut all = front.to_vec();
                    ours.read_to_end(&mut all).await.unwrap();
                    assert_eq!(all, early.as_bytes(), "{answer}");
                }
                (Err(trouble), Err(words)) => assert!(trouble.to_string().contains(words), "{trouble}"),
                (asked, _) => panic!("{answer}: {asked:?}"),
            }
        }
    }

    #[test]
    fn parents_that_cannot_be_are_refused() {
        for (toml, words) in [
            ("url = \"socks5://x:1\"", "no proxy's URL"),
            ("url = \"http://x:1/path\"", "no path"),
            ("url = \"http://127.1:1\"", "spelling"),
            ("url = \"http://x:1\"\ntrust = \"t\"", "in the clear"),
            ("url = \"https://x:1\"\nconnect_timeout = \"0s\"", "never enough"),
            ("url = \"https://x:1\"\nbasic = { user = \"a:b\", password = { file = \"password\" } }", "colon"),
        ] {
            let wrong = parent(toml).unwrap_err();
            assert!(wrong.contains(words), "{toml}: {wrong}");
        }
    }
}
