//! SOCKS 5 on the explicit proxy's listener, told apart by its first octet.
//!
//! Names are resolved here and nowhere else; a client that resolved by itself comes with an address, and an address is
//! reached only where a destination names it.

use super::{
    CallerFacts, Ended, FlowRecord, Octets,
    admission::Refused,
    connect::{self, Opened, auth_of, learn_process},
};
use crate::conn::{Conn, ConnFacts, EdgeIo, Speaks};
use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_egress::{Host, Reason, Target};
use portcullis_wire::{
    Parse,
    socks5::{
        LOGIN_ACCEPTED, LOGIN_REFUSED, NO_METHOD_REPLY, SocksError, SocksHost, SocksLogin, SocksMethod, SocksReply,
        SocksTarget, parse_greeting, parse_login, parse_request,
    },
};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// The version octet that every SOCKS 5 client begins with, and no HTTP client.
pub(crate) const FIRST_OCTET: u8 = 5;

/// Serves the one request of a connection. Gives the connection back where the gateway reads what is inside, with what is
/// spoken there.
pub(crate) async fn serve(mut io: Box<EdgeIo>, conn: &Conn) -> Option<(Box<EdgeIo>, Speaks)> {
    let facts = io.facts().clone();
    let mut record = FlowRecord::new("SOCKS5");
    let deadline = Instant::now() + conn.plan().limits.header_timeout;
    match open(&mut io, conn, &facts, &mut record, deadline).await {
        Ok(opened) => {
            if io.send(&SocksReply::Succeeded.octets()).await.is_err() {
                record.tell(conn.core.edge(), &facts, Ended::Broken, None, Octets::default());
                return None;
            }
            opened.go_on(io, conn, record).await
        }
        Err(unserved) => {
            refuse(io, conn, unserved, record).await;
            None
        }
    }
}

async fn refuse(mut io: Box<EdgeIo>, conn: &Conn, unserved: Unserved, record: Box<FlowRecord>) {
    let facts = io.facts().clone();
    match unserved {
        Unserved::Gone => {}
        Unserved::Malformed(error) => {
            facts.metrics.connection_refused("socks");
            let reply = error.reply().octets();
            let reply: &[u8] = if error == SocksError::NoMethod { &NO_METHOD_REPLY } else { &reply };
            let _ = io.send(reply).await;
            io.close().await;
        }
        Unserved::Login => {
            let ended = Ended::Refused(Reason::ProxyAuthRequired);
            record.tell(conn.core.edge(), &facts, ended, None, Octets::default());
            let _ = io.send(&LOGIN_REFUSED).await;
            io.close().await;
        }
        Unserved::Refused(refused) => {
            record.tell(conn.core.edge(), &facts, Ended::Refused(refused.reason), None, Octets::default());
            let _ = io.send(&reply_to(refused.reason).octets()).await;
            io.close().await;
        }
    }
}

enum Unserved {
    Gone,
    Malformed(SocksError),
    Login,
    Refused(Refused),
}

impl From<SocksError> for Unserved {
    fn from(error: SocksError) -> Self {
        Self::Malformed(error)
    }
}

async fn open(
    io: &mut EdgeIo,
    conn: &Conn,
    facts: &Arc<ConnFacts>,
    record: &mut FlowRecord,
    deadline: Instant,
) -> Result<Opened, Unserved> {
    let plan = conn.plan();
    let method = if auth_of(&plan).is_some() { SocksMethod::Password } else { SocksMethod::None };
    read(io, deadline, |buf| parse_greeting(buf, method)).await?;
    io.send(&method.reply()).await.map_err(|_| Unserved::Gone)?;
    let user = match method {
        SocksMethod::None => None,
        SocksMethod::Password => {
            let login = read(io, deadline, parse_login).await?;
            let authorization = basic(&login);
            let user = connect::user_of(&plan, facts, Some(authorization.as_bytes())).await;
            let user = user.map_err(|_| Unserved::Login)?;
            io.send(&LOGIN_ACCEPTED).await.map_err(|_| Unserved::Gone)?;
            user
        }
    };
    learn_process(conn.core.edge(), facts).await;
    let caller = CallerFacts::new(facts, user);
    record.caller = Some(caller.clone());
    let SocksTarget { host, port } = read(io, deadline, parse_request).await?;
    let host = match host {
        SocksHost::Address(address) => Host::Address(address),
        SocksHost::Name(name) => {
            record.target = format!("{name}:{port}");
            Host::parse_bare(&name).map_err(|reason| Unserved::Refused(reason.into()))?
        }
    };
    if port == 0 {
        return Err(Unserved::Refused(Reason::BadTarget.into()));
    }
    connect::open_to(Target::new(host, port), caller, &conn.core, record).await.map_err(Unserved::Refused)
}

/// One message of the client, off the front of the connection.
async fn read<T>(
    io: &mut EdgeIo,
    deadline: Instant,
    parse: impl Fn(&[u8]) -> Result<Parse<T>, SocksError>,
) -> Result<T, Unserved> {
    loop {
        match parse(io.ahead())? {
            Parse::Complete { head, len } => {
                io.consume(len);
                return Ok(head);
            }
            // The longest message has 513 octets: the parsers end before more could gather.
            Parse::Incomplete => match timeout_at(deadline, io.fill()).await {
                Ok(Ok(1..)) => {}
                _ => return Err(Unserved::Gone),
            },
        }
    }
}

/// As the listener's rule reads a password.
fn basic(login: &SocksLogin) -> String {
    let pair = [login.user.as_slice(), b":", login.password.as_slice()].concat();
    format!("Basic {}", STANDARD.encode(pair))
}

/// RFC 1928 §6 has few words.
fn reply_to(reason: Reason) -> SocksReply {
    match reason {
        Reason::NameUnknown | Reason::ResolveFailed => SocksReply::HostUnreachable,
        Reason::ConnectRefused => SocksReply::Refused,
        Reason::ConnectTimeout | Reason::ResolveTimeout => SocksReply::TimedOut,
        Reason::ConnectFailed => SocksReply::NetworkUnreachable,
        _ => SocksReply::NotAllowed,
    }
}
