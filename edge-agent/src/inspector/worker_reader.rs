//! What the relay knows of this worker, asked for no more often than people look.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::facts::AtRelay;
use crate::relay::Relay;
use crate::state::AgentState;

/// How long an answer counts.
const KEPT: Duration = Duration::from_secs(15);
/// How long the relay may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Reads the worker at the relay. Clones share what was read.
#[derive(Clone)]
pub(super) struct WorkerReader {
    relay: Relay,
    state: Arc<AgentState>,
    last: Arc<Mutex<Last>>,
}

/// What was read last, and when the reading began.
#[derive(Default)]
struct Last {
    began: Option<Instant>,
    worker: Option<AtRelay>,
}

impl WorkerReader {
    pub(super) fn new(relay: Relay, state: Arc<AgentState>) -> Self {
        Self {
            relay,
            state,
            last: Arc::default(),
        }
    }

    /// The worker as it was read last. If that is a while ago, it is read again meanwhile, and nobody waits for the relay.
    pub(super) fn last(&self) -> Option<AtRelay> {
        let mut last = self.last.lock();
        if last.began.is_none_or(|began| began.elapsed() >= KEPT) {
            last.began = Some(Instant::now());
            let reader = self.clone();
            tokio::spawn(async move {
                let worker = reader.read().await;
                reader.last.lock().worker = worker;
            });
        }
        last.worker.clone()
    }

    async fn read(&self) -> Option<AtRelay> {
        let registration = self.state.registration()?;
        let read = tokio::time::timeout(TIMEOUT, self.relay.read(&registration)).await;
        read.ok()?.ok().map(AtRelay::from)
    }
}
