//! The facts about stored events and the running agent, as JSON: what the commands print with `--json`, and what the inspector
//! answers.

use std::collections::BTreeMap;

use protocol::clock::rfc3339;
use protocol::messages::{Expired, LastError, Worker};
use serde::{Deserialize, Serialize};

use crate::report::Status;
use crate::store::{Attempt, Counts, Event, Listed, State};

/// An event in a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventFacts {
    /// Grows with each stored event.
    pub(crate) sequence: i64,
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) action: String,
    pub(crate) workspace: String,
    /// The ordering key: the same for all events of an issue.
    pub(crate) key: String,
    pub(crate) identifier: Option<String>,
    pub(crate) title: Option<String>,
    /// RFC 3339.
    pub(crate) received_at: String,
    pub(crate) state: State,
    pub(crate) attempts: u64,
    /// When it is tried again, while it waits for that.
    pub(crate) due_at: Option<String>,
    /// How long the last attempt took.
    pub(crate) milliseconds: Option<i64>,
    /// The result of the last attempt.
    pub(crate) result: Option<String>,
    /// Of the body, in bytes.
    pub(crate) size: u64,
    /// The id of the event of which it is an edited copy.
    pub(crate) edited_from: Option<String>,
}

impl From<Listed> for EventFacts {
    fn from(event: Listed) -> Self {
        let is_retried = event.state == State::Waiting && event.due_at > 0;
        Self {
            sequence: event.sequence,
            id: event.id,
            kind: event.kind,
            action: event.action,
            workspace: event.workspace,
            key: event.ordering_key,
            identifier: event.subject.identifier,
            title: event.subject.title,
            received_at: rfc3339(event.received_at),
            state: event.state,
            attempts: event.attempts,
            due_at: is_retried.then(|| rfc3339(event.due_at)),
            milliseconds: event.took_ms,
            result: event.result,
            size: event.size,
            edited_from: event.edited_from,
        }
    }
}

/// One attempt at an event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AttemptFacts {
    /// RFC 3339.
    pub(crate) at: String,
    pub(crate) milliseconds: i64,
    pub(crate) handler: String,
    pub(crate) outcome: String,
    pub(crate) result: String,
    pub(crate) answer: String,
}

impl From<Attempt> for AttemptFacts {
    fn from(attempt: Attempt) -> Self {
        Self {
            at: rfc3339(attempt.at),
            milliseconds: attempt.took_ms,
            handler: attempt.handler,
            outcome: attempt.outcome,
            result: attempt.result,
            answer: String::from_utf8_lossy(&attempt.answer).into_owned(),
        }
    }
}

/// An event with its headers and attempts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Detail {
    #[serde(flatten)]
    pub(crate) facts: EventFacts,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) tries: Vec<AttemptFacts>,
}

impl Detail {
    pub(crate) fn new(listed: Listed, content: &Event, attempts: Vec<Attempt>) -> Self {
        let headers = (content.headers.0.iter())
            .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()));
        Self {
            facts: listed.into(),
            headers: headers.collect(),
            tries: attempts.into_iter().map(AttemptFacts::from).collect(),
        }
    }
}

/// What the relay knows of this worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AtRelay {
    /// Which types of events it is registered for; none: all.
    pub(crate) types: Option<Vec<String>>,
    /// Whether the mailbox holds anything.
    pub(crate) waiting: bool,
    /// How many events are withheld until the membership is checked.
    pub(crate) withheld: u64,
    /// How many events of the last day were not for this worker, by reason.
    pub(crate) not_delivered: BTreeMap<String, u64>,
    /// Events that were parked for longer than the relay keeps them.
    pub(crate) expired: Option<Expired>,
    /// Why the last delivery failed, and when.
    pub(crate) last_error: Option<LastError>,
    /// When the lease ends, RFC 3339.
    pub(crate) lease_until: String,
}

impl From<Worker> for AtRelay {
    fn from(worker: Worker) -> Self {
        Self {
            types: worker.capabilities,
            waiting: worker.waiting,
            withheld: worker.withheld,
            not_delivered: worker.not_delivered,
            expired: worker.expired,
            last_error: worker.last_error,
            lease_until: worker.expires_at,
        }
    }
}

/// Whether the agent runs, is registered and reachable, and what waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusFacts {
    pub(crate) running: bool,
    pub(crate) healthy: bool,
    /// Why it is not healthy.
    pub(crate) why: Option<String>,
    #[serde(flatten)]
    pub(crate) status: Option<Status>,
    /// What the relay calls the worker.
    pub(crate) worker_id: Option<String>,
    pub(crate) events: Counts,
    /// When the last event was received, RFC 3339.
    pub(crate) last_event: Option<String>,
    /// None while the relay cannot be asked.
    pub(crate) at_relay: Option<AtRelay>,
}
