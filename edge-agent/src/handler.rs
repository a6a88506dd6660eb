//! A handler: the user's code, over HTTP or as a command, and what its answer means.

mod command;
mod http;
pub(crate) mod linear;
mod owner;
mod program;
mod running;

use std::path::Path;
use std::time::Duration;

use protocol::clock::UnixMillis;
use tokio_util::sync::CancellationToken;

use crate::config::{Action, Headers, LinearSecret, Rule};
use crate::store::Event;
use crate::target::Target;

pub(crate) use command::TEMPORARY;
pub(crate) use http::Clients;
pub(crate) use running::Running;

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
    /// The handler says that the request itself is wrong; a short-lived reason is possible, such as a server that starts.
    Refused,
    /// A retry would fail, too.
    Failed,
    /// The agent shuts down, and the command obeyed: it is done at the next start.
    Interrupted,
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

/// What an attempt at an event needs beside it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempting<'a> {
    pub(crate) clients: &'a Clients,
    /// Whether any certificate of the target is taken.
    pub(crate) insecure: bool,
    pub(crate) secret: Option<&'a LinearSecret>,
    /// Headers beside those of the event.
    pub(crate) headers: &'a Headers,
    /// From 1.
    pub(crate) attempt: u64,
    pub(crate) time_limit: Duration,
    /// When the event is sent, for who checks its age.
    pub(crate) stamp: UnixMillis,
    /// Where a command is found by a stop that ends it.
    pub(crate) running: Option<&'a Running>,
    /// The path of this program, which supervises a command.
    pub(crate) program: &'a Path,
    /// Cancelled when the agent shuts down: a command is told to end.
    pub(crate) shutdown: &'a CancellationToken,
}

impl Action {
    /// Passes the event to the handler.
    pub(crate) async fn handle(&self, event: &Event, attempting: &Attempting<'_>) -> Answer {
        let mut answer = match self {
            Self::Http(target) => match is_own(target) {
                Ok(()) => http::post(target, event, attempting).await,
                Err(why) => Answer::new(Outcome::Absent, why, Vec::new()),
            },
            Self::Exec(command) => command::run(command, event, attempting).await,
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
                is_own(target)?;
                match tokio::time::timeout(PROBE_TIMEOUT, target.connect()).await {
                    Ok(connected) => connected,
                    Err(_) => Err("it does not answer".to_owned()),
                }
            }
            Self::Exec(command) => {
                let program = command.first().cloned().unwrap_or_default();
                let looked = tokio::task::spawn_blocking(move || program::can_start(&program));
                looked.await.unwrap_or_else(|error| Err(error.to_string()))
            }
        }
    }
}

/// Refuses a port of this machine at which another user listens.
fn is_own(target: &Target) -> Result<(), String> {
    let is_port = target.socket().is_none() && target.is_on_this_machine();
    if is_port && owner::is_another_users(target.port()) {
        return Err("another user of this machine listens there, who gets no events".to_owned());
    }
    Ok(())
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
