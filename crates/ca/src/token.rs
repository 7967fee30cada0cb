//! Words that are good for one identity: how a workload that has no certificate yet gets its first.
//!
//! The authority keeps only their hashes, one small file each: whoever reads the folder learns no token.

use crate::{
    CaError, Namespace, Overwrite, Workload,
    file::{self, SECRET},
};
use portcullis_names::{SpiffeId, TrustDomain};
use rustls::crypto::aws_lc_rs;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// How often a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    Once,
    /// Until it ends: for a deployment whose replicas share it.
    UntilItsEnd,
}

/// A token that was shown and is good. Dropped without [`Redeemed::keep_spent`], it is as it was.
#[derive(Debug)]
pub struct Redeemed {
    pub id: SpiffeId,
    /// Where it is while somebody has it, and where it was.
    claimed: Option<(PathBuf, PathBuf)>,
}

/// Longer than any clock is wrong; a token in a file that lies about is a risk that grows with time.
pub(crate) const LIFE_MOST: time::Duration = time::Duration::days(30);
const DRAWN: usize = 32;
const PREFIX: &str = "pct_";

/// A new token for `workload`; only its hash is written.
pub(crate) fn make(folder: &Path, workload: &Workload, end: OffsetDateTime, uses: TokenUse) -> Result<String, CaError> {
    let mut drawn = [0_u8; DRAWN];
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut drawn).map_err(|_| CaError::Token("no randomness can be had"))?;
    let token = format!("{PREFIX}{}", hex(&drawn));
    let uses = match uses {
        TokenUse::Once => "once",
        TokenUse::UntilItsEnd => "until-its-end",
    };
    let text = format!("{} {} {uses}\n", workload.id(), end.unix_timestamp());
    file::write(&place(folder, &token), &text, SECRET, Overwrite::Never)?;
    Ok(token)
}

/// What `token` is good for. One that is good once is out of the way from here on: of two that show it, one has it.
pub(crate) fn redeem(folder: &Path, token: &str, now: OffsetDateTime) -> Result<Redeemed, CaError> {
    // One answer for all that is wrong: which tokens there are is nobody's business.
    let wrong = || CaError::Token("it is not known, was used, or has ended");
    if !token.starts_with(PREFIX) || token.len() != PREFIX.len() + 2 * DRAWN {
        return Err(wrong());
    }
    // Looked up by hash: how long that takes says nothing about the token.
    let place = place(folder, token);
    let text = file::read(&place, "").map_err(|_| wrong())?;
    let mut parts = text.split_ascii_whitespace();
    let (Some(id), Some(end), Some(uses)) = (parts.next(), parts.next(), parts.next()) else { return Err(wrong()) };
    let (id, end): (SpiffeId, i64) = (id.parse().map_err(|_| wrong())?, end.parse().map_err(|_| wrong())?);
    if end <= now.unix_timestamp() {
        let _ = std::fs::remove_file(&place);
        return Err(wrong());
    }
    if uses == "until-its-end" {
        return Ok(Redeemed { id, claimed: None });
    }
    let claimed = place.with_extension("claimed");
    // A rename succeeds for one of two.
    std::fs::rename(&place, &claimed).map_err(|_| wrong())?;
    Ok(Redeemed { id, claimed: Some((claimed, place)) })
}

impl Redeemed {
    /// It was used.
    pub fn keep_spent(mut self) {
        if let Some((claimed, _)) = self.claimed.take() {
            let _ = std::fs::remove_file(claimed);
        }
    }
}

impl Drop for Redeemed {
    fn drop(&mut self) {
        if let Some((claimed, place)) = self.claimed.take() {
            let _ = std::fs::rename(claimed, place);
        }
    }
}

/// The workload that `id` names, if this authority names workloads so.
pub(crate) fn workload(domain: &TrustDomain, id: &SpiffeId) -> Result<Workload, CaError> {
    let namespace: Namespace = id.namespace().unwrap_or_default().parse()?;
    let service = id.path().rsplit('/').next().unwrap_or_default();
    let workload = Workload::new(domain, namespace, service)?;
    if workload.id() == id {
        return Ok(workload);
    }
    Err(CaError::Unreadable {
        what: format!("the id {id}"),
        why: format!("this authority names workloads like {}", workload.id()),
    })
}

fn place(folder: &Path, token: &str) -> PathBuf {
    folder.join(hex(&sha256(token.as_bytes())))
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_one_identity_once_and_until_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (at, now) = (folder.path(), OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap());
        let domain = "corp".parse().unwrap();
        let cart = Workload::new(&domain, "acme".parse().unwrap(), "cart").unwrap();
        let later = |seconds| now + time::Duration::seconds(seconds);
        let once = make(at, &cart, later(60), TokenUse::Once).unwrap();
        // What failed gives it back.
        drop(redeem(at, &once, now).unwrap());
        let held = redeem(at, &once, now).unwrap();
        assert!(held.id == *cart.id() && redeem(at, &once, now).is_err());
        held.keep_spent();
        assert!(redeem(at, &once, now).is_err());
        let shared = make(at, &cart, later(60), TokenUse::UntilItsEnd).unwrap();
        for _ in 0..2 {
            redeem(at, &shared, now).unwrap().keep_spent();
        }
        assert!(redeem(at, &shared, later(60)).is_err() && redeem(at, &shared, now).is_err());
        let names: Vec<_> = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.is_empty(), "{names:?}");
        let bad = once.replace("pct_", "PCT_");
        for bad in ["", "pct_", "../../etc/passwd", bad.as_str()] {
            assert!(redeem(at, bad, now).is_err(), "{bad}");
        }
        assert_eq!(workload(&domain, cart.id()).unwrap(), cart);
        for id in ["spiffe://corp/cart", "spiffe://other/ns/acme/sa/cart", "spiffe://corp/ns/acme/x/cart"] {
            assert!(workload(&domain, &id.parse().unwrap()).is_err(), "{id}");
        }
    }
}
