//! What the relay knows of this worker, asked for no more often than people look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::facts::AtRelay;
use crate::relay::Relay;
use crate::state::AgentState;

/// How long an answer counts.
const KEPT: Duration = Duration::from_secs(15);
/// How long the relay may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Reads the worker at the relay.
pub(super) struct WorkerReader {
    relay: Relay,
    state: Arc<AgentState>,
    last: Mutex<Option<(Instant, Option<AtRelay>)>>,
}

impl WorkerReader {
    pub(super) fn new(relay: Relay, state: Arc<AgentState>) -> Self {
        Self {
            relay,
            state,
            last: Mutex::default(),
        }
    }

    /// The worker as the relay knew it some seconds ago at most; none if the relay cannot be asked.
    pub(super) async fn read(&self) -> Option<AtRelay> {
        // Whoever comes meanwhile waits for the same answer.
        let mut last = self.last.lock().await;
        if let Some((at, known)) = &*last
            && at.elapsed() < KEPT
        {
            return known.clone();
        }
        let read = match self.state.registration() {
            Some(registration) => {
                let read = tokio::time::timeout(TIMEOUT, self.relay.read(&registration)).await;
                read.ok().and_then(Result::ok).map(AtRelay::from)
            }
            None => None,
        };
        *last = Some((Instant::now(), read.clone()));
        read
    }
}
