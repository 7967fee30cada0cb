//! All consumers, found by API key or by user name and password.

use crate::{
    AuthRefusal, ConsumerSpec, password_hash::PasswordHash, password_turns::PasswordTurns,
    verified_cache::VerifiedCache,
};
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use subtle::ConstantTimeEq;

/// Who an API key or password stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Consumer {
    name: ObjectName,
    groups: Vec<String>,
}

/// The consumers of one configuration.
#[derive(Debug)]
pub struct Consumers {
    by_name: BTreeMap<ObjectName, Arc<Consumer>>,
    by_key: HashMap<[u8; 32], Arc<Consumer>>,
    users: Vec<User>,
    by_username: HashMap<String, usize>,
    /// Checking a password takes milliseconds, by design, and a client sends it with every request.
    checked: VerifiedCache<Option<Arc<Consumer>>>,
    turns: PasswordTurns,
}

struct User {
    consumer: Arc<Consumer>,
    hash: PasswordHash,
}

/// Longer API keys are refused unread.
const KEY_MAX_BYTES: usize = 512;
/// User name and password together.
const PASSWORD_MAX_BYTES: usize = 1024;
/// Of checked passwords.
const CACHE_BYTES: u64 = 4 << 20;
/// A password that was right is believed this long without being checked again.
const RIGHT_SECS: i64 = 300;
/// A wrong one is refused this long, so that a client with an old password does not keep a core busy.
const WRONG_SECS: i64 = 10;

impl Consumer {
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    pub(crate) fn is_in_any(&self, groups: &[String]) -> bool {
        self.groups.iter().any(|own| groups.contains(own))
    }
}

impl Consumers {
    /// Every `[consumer.NAME]` of a document, below `at`. What is wrong is in the report and left out.
    pub fn compile(specs: &BTreeMap<ObjectName, ConsumerSpec>, at: &Path, cx: &mut Context) -> Self {
        let mut consumers = Self {
            by_name: BTreeMap::new(),
            by_key: HashMap::new(),
            users: Vec::new(),
            by_username: HashMap::new(),
            checked: VerifiedCache::new(CACHE_BYTES),
            turns: PasswordTurns::new(std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))),
        };
        for (name, spec) in specs {
            consumers.add(name, spec, &at.key(name), cx);
        }
        consumers
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Consumer>> {
        self.by_name.get(name)
    }

    /// Whether some consumer has an API key.
    pub fn has_keys(&self) -> bool {
        !self.by_key.is_empty()
    }

    /// Whether some consumer has a password.
    pub fn has_passwords(&self) -> bool {
        !self.users.is_empty()
    }

    /// Whether some consumer is in that group.
    pub fn has_group(&self, group: &str) -> bool {
        self.by_name.values().any(|consumer| consumer.groups.iter().any(|own| own == group))
    }

    /// Who an API key stands for. Looked up by its digest, so that no comparison depends on the key itself.
    pub fn by_key(&self, key: &[u8]) -> Option<&Arc<Consumer>> {
        if key.is_empty() || key.len() > KEY_MAX_BYTES {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(key).into();
        let (known, consumer) = self.by_key.get_key_value(&digest)?;
        bool::from(known.ct_eq(&digest)).then_some(consumer)
    }

    /// What is known about these credentials without checking them.
    pub(crate) fn remembered(&self, basic: &BasicCredentials, now: i64) -> Option<Result<Arc<Consumer>, AuthRefusal>> {
        let fingerprint = self.checked.fingerprint(&[basic.username.as_bytes(), &basic.password]);
        self.checked.get(fingerprint, now).map(|found| found.ok_or(AuthRefusal::PasswordWrong))
    }

    /// Checks a password; takes milliseconds, and blocks until there is a turn. An unknown user costs the same as a wrong
    /// password.
    pub(crate) fn check(&self, basic: &BasicCredentials, now: i64) -> Result<Arc<Consumer>, AuthRefusal> {
        let _turn = self.turns.take().ok_or(AuthRefusal::PasswordBusy)?;
        // A client's requests come in a bunch, and the first of them has perhaps been answered meanwhile.
        if let Some(known) = self.remembered(basic, now) {
            return known;
        }
        let known = self.by_username.get(&basic.username).and_then(|at| self.users.get(*at));
        let user = known.or_else(|| self.stand_in(&basic.username)).ok_or(AuthRefusal::PasswordWrong)?;
        let verifies = user.hash.verifies(&basic.password);
        let found = (verifies && known.is_some()).then(|| user.consumer.clone());
        let lasts = if found.is_some() { RIGHT_SECS } else { WRONG_SECS };
        let fingerprint = self.checked.fingerprint(&[basic.username.as_bytes(), &basic.password]);
        let length = basic.username.len().saturating_add(basic.password.len());
        let until = now.saturating_add(lasts);
        self.checked.put(fingerprint, found.clone(), until, self.checked.generation(), length);
        found.ok_or(AuthRefusal::PasswordWrong)
    }

    /// Whose hash an unknown user is checked against: always the same one, unforeseeable, and spread over all, so that
    /// hashes of different cost do not tell who is unknown.
    fn stand_in(&self, username: &str) -> Option<&User> {
        let draw = self.checked.fingerprint(&[b"stand-in", username.as_bytes()]).number();
        let at = draw.checked_rem(self.users.len() as u64)?;
        self.users.get(usize::try_from(at).ok()?)
    }

    fn add(&mut self, name: &ObjectName, spec: &ConsumerSpec, at: &Path, cx: &mut Context) {
        let groups = spec.groups.clone().unwrap_or_default();
        let consumer = Arc::new(Consumer { name: name.clone(), groups });
        if spec.keys.as_ref().is_none_or(Vec::is_empty) && spec.basic.is_none() {
            cx.error(at, format!("consumer \"{name}\" has no credentials")).help("give it `keys` or `basic`");
        }
        for (index, key) in spec.keys.iter().flatten().enumerate() {
            let at = at.key("keys").index(index).key("sha256");
            let Some(text) = cx.secret(&at, &key.sha256) else { continue };
            let Some(digest) = hexadecimal(text.trim_ascii()) else {
                cx.error(&at, "not a SHA-256 as 64 hexadecimal digits").help("printf %s KEY | sha256sum | cut -c1-64");
                continue;
            };
            if digest == <[u8; 32]>::from(Sha256::digest(b"")) {
                cx.error(&at, "this is the SHA-256 of nothing at all");
            }
            if let Some(other) = self.by_key.insert(digest, consumer.clone()) {
                cx.error(&at, format!("consumer \"{}\" has the same key", other.name));
            }
        }
        if let Some(basic) = &spec.basic {
            self.add_user(&consumer, &basic.username, &basic.password_hash, &at.key("basic"), cx);
        }
        self.by_name.insert(name.clone(), consumer);
    }

    fn add_user(
        &mut self,
        consumer: &Arc<Consumer>,
        username: &str,
        hash: &portcullis_names::SecretRef,
        at: &Path,
        cx: &mut Context,
    ) {
        // RFC 7617 §2: a colon ends the user name.
        if username.is_empty() || username.contains(':') || username.chars().any(char::is_control) {
            cx.error(&at.key("username"), format!("\"{}\" cannot be a user name", username.escape_debug()))
                .help("any text without colons and control characters");
        }
        let hash_at = at.key("password_hash");
        let Some(text) = cx.secret(&hash_at, hash) else { return };
        let hash = match PasswordHash::parse(&String::from_utf8_lossy(text.trim_ascii())) {
            Ok(hash) => hash,
            Err(error) => {
                cx.error(&hash_at, error.to_string());
                return;
            }
        };
        let place = self.users.len();
        self.users.push(User { consumer: consumer.clone(), hash });
        if let Some(other) = self.by_username.insert(username.to_owned(), place) {
            let other = self.users.get(other).map_or("", |user| user.consumer.name.as_str());
            cx.error(&at.key("username"), format!("consumer \"{other}\" has the same user name"));
        }
    }
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("consumer", &self.consumer.name).finish_non_exhaustive()
    }
}

/// What Basic authentication sends (RFC 7617).
#[derive(Clone)]
pub(crate) struct BasicCredentials {
    username: String,
    password: Vec<u8>,
}

impl BasicCredentials {
    /// From what stands behind `Basic `.
    pub(crate) fn read(encoded: &[u8]) -> Option<Self> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        if encoded.len() > PASSWORD_MAX_BYTES.saturating_mul(4) / 3 {
            return None;
        }
        let text = STANDARD.decode(encoded).ok()?;
        let colon = text.iter().position(|octet| *octet == b':')?;
        let (username, password) = text.split_at_checked(colon)?;
        let username = std::str::from_utf8(username).ok()?.to_owned();
        Some(Self { username, password: password.get(1..)?.to_vec() })
    }
}

fn hexadecimal(text: &[u8]) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut octets = [0; 32];
    for (octet, digits) in octets.iter_mut().zip(text.chunks_exact(2)) {
        *octet = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(octets)
}
