//! What is told of a query to whoever keeps a log. Knows no file and no format.

use crate::{
    Name, Rcode, RecordType,
    answer::{Reply, Transport, Truncated},
    query::{KeySpace, Query},
    snapshot::Snapshot,
};
use serde::Serialize;
use std::net::SocketAddr;

/// Takes records of queries; must not block.
pub trait QueryLog: Send + Sync {
    fn record(&self, record: &QueryRecord<'_>);
}

impl<F: Fn(&QueryRecord<'_>) + Send + Sync> QueryLog for F {
    fn record(&self, record: &QueryRecord<'_>) {
        self(record);
    }
}

/// One query and its answer.
#[derive(Debug, Serialize)]
pub struct QueryRecord<'s> {
    pub client: SocketAddr,
    pub transport: &'static str,
    pub name: Option<String>,
    #[serde(rename = "type")]
    pub of_type: Option<String>,
    /// The ECS prefix that came with it.
    pub subnet: Option<String>,
    pub rcode: &'static str,
    pub truncated: bool,
    pub zone: Option<&'s str>,
    pub service: Option<&'s str>,
}

impl<'s> QueryRecord<'s> {
    pub(crate) fn new(
        snapshot: &'s Snapshot,
        octets: &[u8],
        client: SocketAddr,
        transport: Transport,
        reply: &Reply,
    ) -> Self {
        let mut space = KeySpace::default();
        let query = Query::read(octets, &mut space).ok();
        let question = query.as_ref().and_then(|query| query.question.as_ref());
        let subnet = query.as_ref().and_then(Query::subnet);
        Self {
            client,
            transport: transport.as_str(),
            name: question.and_then(|question| Name::from_wire(question.key()).ok()).map(|name| name.to_string()),
            of_type: reply.of_type.as_ref().map(RecordType::to_string),
            subnet: subnet.and_then(|subnet| Some(format!("{}/{}", subnet.address?, subnet.source))),
            rcode: Rcode::as_str(reply.rcode),
            truncated: reply.truncated == Truncated::Yes,
            zone: reply.zone.and_then(|zone| snapshot.zones.zones.get(zone)).map(|zone| zone.name.as_str()),
            service: reply.service.and_then(|service| snapshot.service_name(service)),
        }
    }
}
