//! What a captured workload is told about a name: services of the mesh are answered here, everything else elsewhere.
//!
//! A name under a namespace that the mesh has is never asked for outside: nobody there shall learn it, or answer it.

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

/// Services by their names, in lower case and without the root's dot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    own_namespace: String,
    /// `cart.acme.lab`; `None` has a name and no address here.
    services: BTreeMap<String, Option<IpAddr>>,
    ttl: Duration,
}

/// What is done with a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered {
    /// This is the answer.
    Here(Vec<u8>),
    /// It is for others to answer.
    Elsewhere,
    /// It is no question.
    Dropped,
}

impl Names {
    pub fn new(own_namespace: &str, services: BTreeMap<String, Option<IpAddr>>, ttl: Duration) -> Self {
        Self { own_namespace: own_namespace.to_owned(), services, ttl }
    }

    /// A bare `cart` is the own namespace's only.
    fn find(&self, name: &str) -> Known {
        let full = if name.contains('.') { name.to_owned() } else { format!("{name}.{}", self.own_namespace) };
        if let Some(address) = self.services.get(&full) {
            return Known::Service(*address);
        }
        let is_below = |namespace: &str| {
            name == namespace || name.strip_suffix(namespace).is_some_and(|front| front.ends_with('.'))
        };
        let namespaces = self.services.keys().filter_map(|service| Some(service.split_once('.')?.1));
        let is_ours = namespaces.chain([self.own_namespace.as_str()]).any(is_below);
        if is_ours { Known::Namespace } else { Known::Nothing }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Service(Option<IpAddr>),
    /// Below a namespace of the mesh, and no service of it.
    Namespace,
    Nothing,
}

pub fn answer(query: &[u8], names: &Names) -> Answered {
    let Ok(query) = Message::from_vec(query) else { return Answered::Dropped };
    if query.metadata.message_type != MessageType::Query {
        return Answered::Dropped;
    }
    let [question] = query.queries.as_slice() else { return Answered::Elsewhere };
    if query.metadata.op_code != OpCode::Query || question.query_class() != DNSClass::IN {
        return Answered::Elsewhere;
    }
    let text = question.name().to_ascii().to_ascii_lowercase();
    let known = names.find(text.trim_end_matches('.'));
    let (code, data) = match (known, question.query_type()) {
        (Known::Nothing, _) => return Answered::Elsewhere,
        (Known::Namespace, _) => (ResponseCode::NXDomain, None),
        (Known::Service(Some(IpAddr::V4(address))), RecordType::A) => {
            (ResponseCode::NoError, Some(RData::A(address.into())))
        }
        (Known::Service(Some(IpAddr::V6(address))), RecordType::AAAA) => {
            (ResponseCode::NoError, Some(RData::AAAA(address.into())))
        }
        // RFC 2308 §2.2: the name is there, a record of this type is not.
        (Known::Service(_), _) => (ResponseCode::NoError, None),
    };
    reply(&query, question.name(), code, data, names.ttl)
}

/// That nobody can be asked.
pub(crate) fn refused(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let name = query.queries.first()?.name().clone();
    match reply(&query, &name, code, None, Duration::ZERO) {
        Answered::Here(octets) => Some(octets),
        Answered::Elsewhere | Answered::Dropped => None,
    }
}

fn reply(query: &Message, name: &Name, code: ResponseCode, data: Option<RData>, ttl: Duration) -> Answered {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(query.queries.iter().cloned());
    if let Some(data) = data {
        let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        reply.add_answer(Record::from_rdata(name.clone(), ttl, data));
    }
    reply.to_vec().map_or(Answered::Dropped, Answered::Here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;

    fn ask(name: &str, of_type: RecordType) -> String {
        let services = [
            ("cart.acme.lab", Some("240.0.0.1".parse().unwrap())),
            ("pay.acme.lab", Some("fd00::1".parse().unwrap())),
            ("caller.acme.lab", None),
            ("vault.bank", Some("240.0.0.2".parse().unwrap())),
        ];
        let services = services.map(|(name, address)| (name.to_owned(), address)).into();
        let names = Names::new("acme.lab", services, Duration::from_secs(9));
        let mut query = Message::query();
        query.metadata.id = 77;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), of_type));
        match answer(&query.to_vec().unwrap(), &names) {
            Answered::Here(octets) => {
                let reply = Message::from_vec(&octets).unwrap();
                assert_eq!((reply.metadata.id, reply.queries.len()), (77, 1));
                let data: Vec<_> =
                    reply.answers.iter().map(|record| format!("{} {}", record.ttl, record.data)).collect();
                format!("{:?} {}", reply.metadata.response_code, data.join(","))
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn services_are_answered_here_their_namespaces_nowhere_else_and_the_rest_elsewhere() {
        use RecordType::{A, AAAA, TXT};
        for (name, of_type, expected) in [
            ("cart.acme.lab.", A, "NoError 9 240.0.0.1"),
            ("CART.Acme.LAB", A, "NoError 9 240.0.0.1"),
            ("cart.acme.lab.", AAAA, "NoError "),
            ("cart.acme.lab.", TXT, "NoError "),
            ("pay.acme.lab.", AAAA, "NoError 9 fd00::1"),
            ("caller.acme.lab.", A, "NoError "),
            ("cart.", A, "NoError 9 240.0.0.1"),
            // Another namespace's, by its whole name only.
            ("vault.bank.", A, "NoError 9 240.0.0.2"),
            ("vault.", A, "Elsewhere"),
            ("none.acme.lab.", A, "NXDomain "),
            ("a.cart.acme.lab.", A, "NXDomain "),
            ("none.bank.", A, "NXDomain "),
            ("acme.lab.", A, "NXDomain "),
            ("notacme.lab.", A, "Elsewhere"),
            ("example.com.", A, "Elsewhere"),
            ("bank.example.com.", A, "Elsewhere"),
        ] {
            assert_eq!(ask(name, of_type), expected, "{name} {of_type}");
        }
        assert_eq!(answer(b"junk", &Names::default()), Answered::Dropped);
    }
}
