//! Process groups: a command and all processes that it starts end together.

use std::io;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// How long the output of an ended group may take to end: a process that has left the group may hold it open.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// A process group. What is left of it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Group {
    #[cfg(unix)]
    leader: Option<rustix::process::Pid>,
}

impl Group {
    /// Starts a command as the leader of a new group.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Self)> {
        #[cfg(unix)]
        command.process_group(0);
        let child = command.kill_on_drop(true).spawn()?;
        let group = Self {
            #[cfg(unix)]
            leader: (child.id())
                .and_then(|id| i32::try_from(id).ok())
                .and_then(rustix::process::Pid::from_raw),
        };
        Ok((child, group))
    }

    /// Its leader.
    pub(crate) fn leader(&self) -> Leader {
        Leader {
            #[cfg(unix)]
            process: self.leader,
        }
    }
}

/// The leader of a group, to which a signal can be sent while the group exists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leader {
    #[cfg(unix)]
    process: Option<rustix::process::Pid>,
}

impl Leader {
    /// Sends SIGTERM to the whole group.
    pub(crate) fn terminate(self) {
        #[cfg(unix)]
        if let Some(process) = self.process {
            let _ = rustix::process::kill_process_group(process, rustix::process::Signal::TERM);
        }
    }
}

/// Waits until tasks that read a command's output have read all of it. Its group has to be dropped before, since what the
/// command has left behind may hold the output open.
pub(crate) async fn finish_reading(readers: impl IntoIterator<Item = JoinHandle<()>>) {
    for mut reader in readers {
        if (tokio::time::timeout(OUTPUT_TIMEOUT, &mut reader).await).is_err() {
            reader.abort();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group exists as long as any process in it, so its id cannot belong to another group. Once no process is left,
        // this has no effect.
        #[cfg(unix)]
        if let Some(leader) = self.leader {
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}
