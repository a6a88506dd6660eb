//! The data directory of one agent: its registration, its events, its status and its lock.
//!
//! Invariant: only its owner can enter it, and only one `up` runs in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::envelope::{digest, is_identifier};
use protocol::signature::Secret;

use crate::failure::Failure;
use crate::files::{own_file, replace};
use crate::report;

/// How often the lock is tried.
const LOCK_TRIES: u32 = 10;

/// A data directory.
#[derive(Debug, Clone)]
pub(crate) struct DataDirectory {
    directory: PathBuf,
}

/// Held while `up` runs. The system releases it however `up` ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Makes the directory accessible to its owner only, because the events in it are confidential.
#[cfg(unix)]
fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn make_private(_: &Path) -> std::io::Result<()> {
    Ok(())
}

impl DataDirectory {
    /// The platform's data directory, unless another one is given.
    pub(crate) fn new(directory: Option<&Path>) -> Result<Self, Failure> {
        use etcetera::BaseStrategy as _;
        let directory = match directory {
            Some(directory) => directory.to_owned(),
            None => etcetera::choose_base_strategy()
                .map(|base| base.data_dir().join("edge-agent"))
                .map_err(|error| Failure::Configuration(format!("{error}: use `--data`")))?,
        };
        Ok(Self { directory })
    }

    /// Creates the directory and takes its lock.
    pub(crate) fn lock(&self) -> Result<Lock, Failure> {
        let failed = |error: std::io::Error| {
            Failure::Configuration(format!(
                "cannot use `{}`: {error}",
                self.directory.display()
            ))
        };
        fs::create_dir_all(&self.directory)
            .and_then(|()| make_private(&self.directory))
            .map_err(failed)?;
        let file = own_file(&self.directory.join("lock"), true).map_err(failed)?;
        let mut locked = file.try_lock();
        for _ in 0..LOCK_TRIES {
            if !matches!(locked, Err(fs::TryLockError::WouldBlock)) {
                break;
            }
            // `status` takes the lock for a moment, too.
            std::thread::sleep(Duration::from_millis(20));
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => Ok(Lock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(Failure::Configuration(self.in_use())),
            Err(fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Who uses the directory, and what another agent needs.
    fn in_use(&self) -> String {
        let who = report::read(&self.report()).map_or_else(String::new, |status| {
            format!(
                " (process {}, `{}`, listening on {})",
                status.pid, status.name, status.listen
            )
        });
        format!(
            "another edge-agent uses `{}`{who}: stop it, or give this one its own `--data` and `--name`, and `--listen` if it is \
             pushed to",
            self.directory.display()
        )
    }

    /// Whether an `up` uses the directory.
    pub(crate) fn is_in_use(&self) -> bool {
        own_file(&self.directory.join("lock"), false)
            .is_ok_and(|file| file.try_lock_shared().is_err())
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn registration(&self) -> PathBuf {
        self.directory.join("registration.json")
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.directory.join("events.db")
    }

    /// The relays that the user has named.
    pub(crate) fn relays(&self) -> PathBuf {
        self.directory.join("relays")
    }

    /// Creates the directory, and writes a file in it.
    pub(crate) fn write_private(&self, file: &Path, content: &[u8]) -> Result<(), Failure> {
        fs::create_dir_all(&self.directory)
            .and_then(|()| make_private(&self.directory))
            .and_then(|()| replace(file, content))
            .map_err(|error| {
                Failure::Configuration(format!("cannot write `{}`: {error}", file.display()))
            })
    }

    /// What identifies this directory when its agent registers: random, and made once.
    pub(crate) fn holder(&self) -> Result<String, Failure> {
        let file = self.directory.join("holder");
        if let Ok(holder) = fs::read_to_string(&file)
            && is_identifier(&holder)
        {
            return Ok(holder);
        }
        let holder = digest(Secret::generate().expose().as_bytes());
        self.write_private(&file, holder.as_bytes())?;
        Ok(holder)
    }

    /// The key of the running agent's inspector.
    pub(crate) fn inspector_key(&self) -> PathBuf {
        self.directory.join("inspector.key")
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.directory.join("status.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_agents_do_not_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDirectory::new(Some(directory.path())).unwrap();
        assert!(!data.is_in_use());
        let first = data.lock().unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(directory.path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        assert!(data.lock().unwrap_err().to_string().contains("--data"));
        assert!(data.is_in_use());
        drop(first);
        assert!(!data.is_in_use());
    }
}
