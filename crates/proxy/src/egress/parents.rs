//! The proxies between this gateway and the internet, and the way through one of them.

use super::{EgressSources, LiveEgress};
use crate::conn::Socket;
use bytes::Bytes;
use portcullis_auth::Transport;
use portcullis_config::{Context, Path};
use portcullis_egress::{Dialled, FirstWord, Parent, ParentTrouble, Reason, dial};
use portcullis_names::ObjectName;
use portcullis_tls::{UpstreamTls, UpstreamTlsSpec};
use std::{collections::HashMap, sync::Arc, time::Instant};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// All parents of a document, and who is reached by which.
#[derive(Debug, Default)]
pub(crate) struct Parents {
    by_destination: HashMap<ObjectName, Arc<Chained>>,
    /// Of destinations that do not say, and of what no destination speaks for.
    default: Option<Arc<Chained>>,
    direct: Vec<ObjectName>,
}

/// A parent with the TLS towards it.
#[derive(Debug)]
pub(crate) struct Chained {
    pub(crate) parent: Parent,
    tls: Option<UpstreamTls>,
}

/// An open way through a parent.
#[derive(Debug)]
pub(crate) struct Through {
    pub(crate) socket: Socket,
    /// What the far end said already.
    pub(crate) front: Bytes,
}

const DIRECT: &str = "direct";
/// Between the TLS of a parent and what is carried in it.
const CARRIED_BYTES: usize = 16 << 10;

impl Parents {
    pub(crate) fn compile(sources: &EgressSources<'_>, cx: &mut Context) -> Self {
        let Some(egress) = sources.egress else {
            return Self::default().with_destinations(sources, &HashMap::new(), cx);
        };
        let at = Path::root().key("egress");
        let mut known: HashMap<ObjectName, Arc<Chained>> = HashMap::new();
        for (name, spec) in &egress.parent {
            let at = at.key("parent").key(name);
            if name.as_str() == DIRECT {
                cx.error(&at, "\"direct\" means that there is no parent");
            }
            let Some(parent) = Parent::compile(name, spec, &at, cx) else { continue };
            let tls = match parent.transport() {
                Transport::Clear => None,
                Transport::Tls => {
                    let tls = UpstreamTlsSpec {
                        sni: Some(parent.target().host().to_string().trim_matches(['[', ']']).to_owned()),
                        trust: spec.trust.clone(),
                        certificate: spec.certificate.as_ref().map(ToString::to_string),
                        ..UpstreamTlsSpec::default()
                    };
                    let around = &sources.around;
                    let Ok(Some(tls)) = UpstreamTls::compile(&tls, around.certificates, around.trusts, &at, cx) else {
                        continue;
                    };
                    Some(tls)
                }
            };
            known.insert(name.clone(), Arc::new(Chained { parent, tls }));
        }
        let default = egress.via.as_ref().and_then(|via| {
            let found = known.iter().find(|(name, _)| name.as_str() == via).map(|(_, parent)| parent.clone());
            if found.is_none() && !egress.parent.keys().any(|name| name.as_str() == via) {
                cx.undefined(&at.key("via"), "parent", via, egress.parent.keys().map(ObjectName::as_str));
            }
            found
        });
        Self { default, ..Self::default() }.with_destinations(sources, &known, cx)
    }

    fn with_destinations(
        mut self,
        sources: &EgressSources<'_>,
        known: &HashMap<ObjectName, Arc<Chained>>,
        cx: &mut Context,
    ) -> Self {
        let written = || sources.egress.iter().flat_map(|egress| egress.parent.keys()).map(ObjectName::as_str);
        for (name, spec) in sources.destinations {
            match spec.via.as_deref() {
                None => {}
                Some(DIRECT) => self.direct.push(name.clone()),
                Some(via) => match known.iter().find(|(parent, _)| parent.as_str() == via) {
                    Some((_, parent)) => {
                        self.by_destination.insert(name.clone(), parent.clone());
                    }
                    None if written().any(|parent| parent == via) => {}
                    None => {
                        let at = Path::root().key("destination").key(name).key("via");
                        cx.undefined(&at, "parent", via, written().chain([DIRECT]));
                    }
                },
            }
        }
        self
    }

    /// The way to a destination; `None`: there is nobody between.
    pub(crate) fn of(&self, destination: Option<&ObjectName>) -> Option<&Arc<Chained>> {
        match destination {
            Some(name) if self.direct.contains(name) => None,
            Some(name) => self.by_destination.get(name).or(self.default.as_ref()),
            None => self.default.as_ref(),
        }
    }
}

impl Chained {
    /// Finds the parent, by the same checks as any address, and asks it for a tunnel.
    pub(crate) async fn open(&self, egress: &LiveEgress, authority: &str) -> Result<Through, Reason> {
        let (parent, name) = (&self.parent, self.parent.name());
        let target = parent.target();
        let resolved = egress.resolver.resolve(target.host(), Instant::now()).await.inspect_err(|reason| {
            tracing::warn!(parent = %name, %reason, "the parent proxy was not found");
        });
        let resolved = resolved.map_err(|_| Reason::ParentFailed)?;
        let checked =
            resolved.checked(&egress.addresses, target.port(), parent.private_ranges()).map_err(|refusal| {
                tracing::warn!(parent = %name, %refusal, "the parent proxy's address may not be dialled");
                refusal.reason()
            })?;
        let Dialled { stream, .. } =
            dial(&checked, &parent.dial_limits(), FirstWord::Ready).await.map_err(|_| Reason::ParentFailed)?;
        self.ask(stream, authority).await.map_err(|trouble| {
            tracing::warn!(parent = %name, %trouble, "the parent proxy gives no tunnel");
            match trouble {
                ParentTrouble::Refused(_) => Reason::ParentRefused,
                ParentTrouble::NotHttp | ParentTrouble::Silent | ParentTrouble::Broken(_) => Reason::ParentFailed,
            }
        })
    }

    async fn ask(&self, mut stream: TcpStream, authority: &str) -> Result<Through, ParentTrouble> {
        let Some(tls) = &self.tls else {
            let front = self.parent.ask(&mut stream, authority).await?;
            return Ok(Through { socket: Socket::Tcp(stream), front });
        };
        let connector = tokio_rustls::TlsConnector::from(tls.config(b"http/1.1"));
        let opened = timeout(self.parent.timeout(), connector.connect(tls.server_name.clone(), stream));
        let mut stream = opened.await.map_err(|_| ParentTrouble::Silent)??;
        let front = self.parent.ask(&mut stream, authority).await?;
        // Whoever goes on wants a socket: for TLS of its own in it, and for pooling.
        let (ours, mut theirs) = UnixStream::pair()?;
        tokio::task::spawn_local(async move {
            // Either end tells the other by closing; there is nobody else to tell.
            let _ =
                tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut theirs, CARRIED_BYTES, CARRIED_BYTES).await;
        });
        Ok(Through { socket: Socket::Unix(ours), front })
    }
}
