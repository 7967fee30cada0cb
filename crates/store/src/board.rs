//! A board on which several processes pin what they have to say, each under a key of its own that goes by itself when nobody
//! pins it anew. Knows nothing of what is written there.

use crate::{StoreConfig, StoreError, connection::Connection};
use redis::Pipeline;
use std::time::Duration;
use tokio::time::timeout;

/// One client of a board. Connects when it is asked, and again after a failure.
pub struct Board {
    config: StoreConfig,
    /// Which of the store's nodes is asked.
    node: usize,
    connection: Option<Connection>,
}

/// For connecting and logging in together.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A board is no request's business: it may take longer than those.
const ASK_MAX: Duration = Duration::from_secs(1);
const PREFIX: &str = "portcullis:board:";

impl Board {
    pub fn new(config: StoreConfig) -> Self {
        Self { config, node: 0, connection: None }
    }

    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Pins `text` under `own` for `lasting`, and reads what is pinned under `others`, in their order. Texts beyond `longest`
    /// octets are passed over.
    pub async fn exchange(
        &mut self,
        own: &str,
        text: &[u8],
        lasting: Duration,
        others: &[String],
        longest: usize,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let millis = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut pipeline = Pipeline::with_capacity(others.len().saturating_add(1));
        pipeline.cmd("SET").arg(format!("{PREFIX}{own}")).arg(text).arg("PX").arg(millis).ignore();
        for other in others {
            pipeline.cmd("GET").arg(format!("{PREFIX}{other}"));
        }
        let connection = self.connected().await?;
        let asked = pipeline.query_async::<Vec<Option<Vec<u8>>>>(&mut connection.sender);
        let outcome = match timeout(ASK_MAX, asked).await {
            Ok(Ok(texts)) => Ok(texts),
            Ok(Err(error)) if error.is_io_error() => Err(StoreError::Lost),
            Ok(Err(error)) => {
                tracing::debug!(%error, "store: the board is refused");
                Err(StoreError::Refused)
            }
            Err(_) => Err(StoreError::Timeout),
        };
        if outcome.is_err() {
            self.connection = None;
            self.node = self.node.wrapping_add(1);
        }
        Ok(outcome?.into_iter().map(|text| text.filter(|text| text.len() <= longest)).collect())
    }

    async fn connected(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.as_ref().is_some_and(|connection| connection.ended.is_finished()) {
            self.connection = None;
        }
        if self.connection.is_none() {
            let node = self.config.nodes.get(self.node % self.config.nodes.len().max(1)).ok_or(StoreError::Lost)?;
            match timeout(CONNECT_MAX, self.config.connect(node)).await.unwrap_or(Err(StoreError::Timeout)) {
                Ok(connection) => self.connection = Some(connection),
                Err(error) => {
                    self.node = self.node.wrapping_add(1);
                    return Err(error);
                }
            }
        }
        self.connection.as_mut().ok_or(StoreError::Lost)
    }
}
