//! gRPC passing through, case by case and counted: h2 frames from a client and an origin that read no protobuf, so that each message,
//! status and field of metadata can be compared. The gateway knows calls only as streams that may last.

mod calls;
mod faults;
mod lab;
mod metadata;

use crate::support::cases::Cases;
use lab::Lab;
use std::sync::Arc;

/// The peers were measured by so many.
const CASES: usize = 21;

#[tokio::test]
async fn every_case_of_grpc_passes() {
    let lab = Arc::new(Lab::start("limits = { body = \"64MiB\" }", "", "").await);
    let mut cases = Cases::new("gRPC");
    calls::add_cases(&lab, &mut cases);
    metadata::add_cases(&lab, &mut cases);
    faults::add_cases(&lab, &mut cases);
    cases.all_pass(CASES).await;
}
