//! Verdicts through a store that all nodes of a fleet reach, for those who have one: each pins its document there and reads those
//! of its peers. Beside the roads between nodes, or in their place. Whoever may write to the store may speak for any node: the
//! operator who names it says so.

use crate::gateway::Gateway;
use portcullis_gslb::{Clocks, Snapshot};
use portcullis_names::ObjectName;
use portcullis_store::{Board, StoreConfig};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// A note on the board: the document, and a sign that its author lives.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// One more each time: a note that nobody writes anew is no word.
    beat: u64,
    /// The author's clock in seconds since 1970.
    clock: u64,
    document: String,
}

/// What is done about the board each time.
#[derive(Default)]
pub(crate) struct BoardClient {
    board: Option<Board>,
    beat: u64,
    /// The last beat of each peer.
    beats: HashMap<ObjectName, u64>,
    failing_since: Option<Instant>,
}

/// How often it is looked whether there is a board at all.
const IDLE: Duration = Duration::from_secs(1);
/// As a document between nodes.
const OCTETS_MAX: usize = 9 << 20;

/// As long as the gateway lives.
pub(crate) async fn run(gateway: impl Fn() -> Option<Gateway>) {
    let mut client = BoardClient::default();
    loop {
        let Some(gateway) = gateway() else { return };
        let plan = tokio::task::spawn_blocking(move || gateway.board()).await.ok().flatten();
        let Some((snapshot, config)) = plan else {
            client.board = None;
            // It is looked for again after a reload, at leisure.
            tokio::time::sleep(IDLE).await;
            continue;
        };
        let Some(pace) = snapshot.pace() else { continue };
        client.exchange(&snapshot, config, pace.stale_after).await;
        tokio::time::sleep(pace.poll).await;
    }
}

impl BoardClient {
    async fn exchange(&mut self, snapshot: &Arc<Snapshot>, config: StoreConfig, lasting: Duration) {
        let clocks = Clocks::read();
        let (Some(document), Some(fleet)) = (snapshot.publish(clocks), snapshot.fleet(clocks)) else { return };
        let Ok(document) = String::from_utf8(document.into()) else { return };
        self.beat += 1;
        let Ok(note) = serde_json::to_vec(&Note { beat: self.beat, clock: clocks.unix, document }) else { return };
        if self.board.as_ref().is_none_or(|board| *board.config() != config) {
            self.board = Some(Board::new(config));
        }
        let Some(board) = &mut self.board else { return };
        let peers: Vec<_> = fleet.peers.iter().map(|peer| peer.node.clone()).collect();
        let keys: Vec<_> = peers.iter().map(ToString::to_string).collect();
        match board.exchange(fleet.node.as_str(), &note, lasting, &keys, OCTETS_MAX).await {
            Ok(notes) => {
                if self.failing_since.take().is_some() {
                    tracing::info!("the board of the fleet is back");
                }
                for (peer, note) in peers.iter().zip(notes) {
                    if let Some(note) = note {
                        self.read(snapshot, peer, &note);
                    }
                }
            }
            // Availability: peers grow stale, and what is known here counts.
            Err(error) if self.failing_since.is_none() => {
                tracing::warn!(%error, "the board of the fleet cannot be used");
                self.failing_since = Some(clocks.instant);
            }
            Err(_) => {}
        }
    }

    fn read(&mut self, snapshot: &Snapshot, peer: &ObjectName, note: &[u8]) {
        let note: Note = match serde_json::from_slice(note) {
            Ok(note) => note,
            Err(error) => return tracing::warn!(%peer, %error, "a note on the board of the fleet cannot be read"),
        };
        // A restarted author counts anew.
        if self.beats.insert(peer.clone(), note.beat) == Some(note.beat) {
            return;
        }
        if let Err(error) = snapshot.hear(peer, note.document.as_bytes(), note.clock, Clocks::read()) {
            tracing::debug!(%peer, %error, "a note on the board of the fleet is not taken");
        }
    }
}
