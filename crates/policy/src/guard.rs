//! What must be passed before an upstream is picked.

use crate::{Plan, Reason};

/// Proof that a request passed every guard of its plan. Only [`clear`] makes it and picking an endpoint takes it, so a
/// forgotten check does not compile.
#[derive(Debug)]
pub struct Cleared(());

/// Runs the guards in their fixed order. This version has one: the body that the request announces fits.
pub fn clear(_plan: &Plan, announced_body: Option<u64>, body_limit: u64) -> Result<Cleared, Reason> {
    if announced_body.is_some_and(|announced| announced > body_limit) {
        return Err(Reason::BodyTooLarge);
    }
    Ok(Cleared(()))
}
