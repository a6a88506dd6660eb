//! The commands that run and that a stop ends, by the ordering key of their event.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::process::{Group, Leader};

/// The running commands. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Mutex<HashMap<String, Command>>>);

#[derive(Debug)]
struct Command {
    leader: Leader,
    is_stopped: bool,
}

/// A running command. It counts as ended when this is dropped, which has to happen before its group is.
#[derive(Debug)]
pub(super) struct RunningCommand<'a> {
    running: &'a Running,
    key: &'a str,
}

impl Running {
    /// Adds a command that handles an event with this ordering key. There is one at a time for a key.
    pub(super) fn add<'a>(&'a self, key: &'a str, group: &Group) -> RunningCommand<'a> {
        let command = Command {
            leader: group.leader(),
            is_stopped: false,
        };
        self.0.lock().insert(key.to_owned(), command);
        RunningCommand { running: self, key }
    }

    /// Sends SIGTERM to the command of this key, if one runs. Returns whether one does.
    pub(crate) fn stop(&self, key: &str) -> bool {
        let mut running = self.0.lock();
        let Some(command) = running.get_mut(key) else {
            return false;
        };
        command.is_stopped = true;
        command.leader.terminate();
        true
    }
}

impl RunningCommand<'_> {
    /// Whether the command was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        (self.running.0.lock().get(self.key)).is_some_and(|command| command.is_stopped)
    }
}

impl Drop for RunningCommand<'_> {
    fn drop(&mut self) {
        self.running.0.lock().remove(self.key);
    }
}
