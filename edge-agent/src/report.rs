//! The status of `up` in a file, for the commands beside it, and for the inspector. It holds no secret and no query.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::files::replace;

/// The status of a running agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) pid: u32,
    /// RFC 3339.
    pub(crate) started_at: String,
    /// Where it listens.
    pub(crate) listen: String,
    pub(crate) relay: String,
    pub(crate) name: String,
    /// The workspace's name, once registered.
    pub(crate) workspace: Option<String>,
    /// `live`, `away`, `pull` or `paused`, as the relay last responded.
    pub(crate) state: Option<String>,
    /// When the relay last answered, RFC 3339.
    pub(crate) renewed_at: Option<String>,
    /// When the Linear token has to be shown again at the latest, RFC 3339, if that is soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) membership_due_at: Option<String>,
    /// The public address, without its query.
    pub(crate) address: Option<String>,
    /// The program that makes the address.
    pub(crate) tunnel: Option<String>,
    /// Why it is not registered, or not reached.
    pub(crate) problem: Option<String>,
    /// By how many seconds this machine's clock is ahead of the relay's, if that is much.
    #[serde(default)]
    pub(crate) clock_ahead_s: i64,
    /// When and why a delivery was refused, unless one was accepted since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
    /// How often it asks, if it has no address.
    #[serde(default)]
    pub(crate) poll: String,
    /// Where the inspector is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inspector: Option<String>,
    /// Whether no event is handled until that is resumed.
    #[serde(default)]
    pub(crate) is_paused: bool,
    /// The file of settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settings: Option<String>,
    pub(crate) handlers: Vec<Presence>,
}

/// Whether a handler is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Presence {
    pub(crate) handler: String,
    /// Unknown until it was looked for.
    pub(crate) is_there: Option<bool>,
    /// Why it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

impl Status {
    /// How far this machine's clock is from the relay's.
    pub(crate) fn clock(&self) -> String {
        let direction = if self.clock_ahead_s > 0 {
            "ahead of"
        } else {
            "behind"
        };
        let seconds = self.clock_ahead_s.abs();
        format!("this machine's clock is {seconds} s {direction} the relay's: set it by NTP")
    }

    /// Forgets every handler but these.
    pub(crate) fn keep_handlers(&mut self, handlers: &[String]) {
        let before = std::mem::take(&mut self.handlers);
        for handler in handlers {
            if self.handlers.iter().all(|known| known.handler != *handler) {
                let known = before.iter().find(|known| known.handler == *handler);
                self.handlers
                    .push(known.cloned().unwrap_or_else(|| Presence {
                        handler: handler.clone(),
                        ..Presence::default()
                    }));
            }
        }
    }

    /// Records whether a handler is present, or why not. Returns what was known before.
    pub(crate) fn set_presence(
        &mut self,
        handler: &str,
        presence: &Result<(), String>,
    ) -> Option<Presence> {
        let known = self.handlers.iter_mut().find(|h| h.handler == handler)?;
        let now = Presence {
            handler: handler.to_owned(),
            is_there: Some(presence.is_ok()),
            why: presence.as_ref().err().cloned(),
        };
        Some(std::mem::replace(known, now))
    }
}

/// The file and its content. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    path: Arc<PathBuf>,
    status: Arc<Mutex<Status>>,
}

impl Report {
    pub(crate) fn new(path: PathBuf, status: Status) -> Self {
        let report = Self {
            path: Arc::new(path),
            status: Arc::new(Mutex::new(status)),
        };
        report.write(&report.status.lock());
        report
    }

    /// Changes the status, and the file if that makes a difference.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let mut status = self.status.lock();
        let before = status.clone();
        let answer = change(&mut status);
        if *status != before {
            self.write(&status);
        }
        answer
    }

    /// The status as it is now.
    pub(crate) fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Writes the file as a whole. A failure does no harm.
    fn write(&self, status: &Status) {
        if let Ok(text) = serde_json::to_vec_pretty(status) {
            let _ = replace(&self.path, &text);
        }
    }

    /// Removes the file, because the agent has ended.
    pub(crate) fn end(&self) {
        let _ = std::fs::remove_file(self.path.as_ref());
    }
}

/// Reads the file of a running agent.
pub(crate) fn read(path: &Path) -> Option<Status> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// An address without user, query and fragment, which may be shown.
pub(crate) fn shown(url: &url::Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}
