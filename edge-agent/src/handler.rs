//! A handler: the user's code, over HTTP or as a command, and what its answer means.

mod command;
mod http;
pub(crate) mod linear;

use std::time::Duration;

use protocol::clock::UnixMillis;

use crate::config::{Action, LinearSecret, Rule};
use crate::store::Event;

pub(crate) use http::client;

/// How much of an answer is kept.
const ANSWER_LIMIT: usize = 64 * 1024;
/// How long a probe of a handler may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The handler accepted the event.
    Done,
    /// The handler declined the event for good.
    Dropped,
    /// A retry may succeed.
    Retry,
    /// A retry would fail, too.
    Failed,
    /// The handler was absent, so nothing was attempted.
    Absent,
}

/// An attempt that ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    /// A status, an exit code, or what went wrong.
    pub(crate) result: String,
    /// What was answered or printed, up to [`ANSWER_LIMIT`].
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn new(outcome: Outcome, result: impl Into<String>, body: Vec<u8>) -> Self {
        Self {
            outcome,
            result: result.into(),
            body,
        }
    }
}

impl Action {
    /// Passes the event to the handler. `attempt` counts from 1.
    pub(crate) async fn handle(
        &self,
        client: &reqwest::Client,
        secret: Option<&LinearSecret>,
        event: &Event,
        attempt: u64,
        time_limit: Duration,
        now: UnixMillis,
    ) -> Answer {
        let mut answer = match self {
            Self::Http(target) => {
                http::post(client, target, secret, event, attempt, time_limit, now).await
            }
            Self::Exec(command) => command::run(command, event, attempt, time_limit).await,
        };
        if answer.outcome == Outcome::Absent && self.presence().await.is_ok() {
            // The handler is present and fails for another reason, such as a certificate or a script's interpreter.
            answer.outcome = Outcome::Retry;
        }
        answer
    }

    /// Whether the handler is present, or what is missing.
    pub(crate) async fn presence(&self) -> Result<(), String> {
        match self {
            Self::Http(target) => {
                match tokio::time::timeout(PROBE_TIMEOUT, target.connect()).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("it does not answer".to_owned()),
                }
            }
            Self::Exec(command) => {
                let program = command.first().cloned().unwrap_or_default();
                match tokio::task::spawn_blocking(move || which::which(program)).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }
}

/// For people: an address without its query, or the program's name without its arguments.
impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(target) => target.fmt(f),
            Self::Exec(command) => f.write_str(command.first().map_or("", String::as_str)),
        }
    }
}

/// The first rule that wants an event of this type and action.
pub(crate) fn rule<'a>(rules: &'a [Rule], kind: &str, action: &str) -> Option<&'a Rule> {
    rules.iter().find(|rule| {
        let patterns = std::slice::from_ref(&rule.pattern);
        protocol::capability::wanted(Some(patterns), kind, action)
    })
}
