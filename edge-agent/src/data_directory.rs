//! The data directory of one agent: its registration, its events, its status and its lock.
//!
//! Invariant: only its owner can enter it, and only one `up` runs in it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::Failure;
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

/// Opens a file of the directory, or creates it. A symbolic link is not followed: it may lead to a file of somebody's that this
/// user can write.
fn own_file(path: &Path, creates: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(creates).create(creates);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    options.open(path)
}

/// Writes a file that only its owner can read, whole or not at all, and not through a link that is in its place.
pub(crate) fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)
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

    pub(crate) fn report(&self) -> PathBuf {
        self.directory.join("status.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let others = directory.path().join("others");
        fs::write(&others, "precious").unwrap();
        let data = DataDirectory::new(Some(&directory.path().join("data"))).unwrap();
        fs::create_dir(data.directory()).unwrap();
        let link = |name: &str| {
            std::os::unix::fs::symlink(&others, data.directory().join(name)).unwrap();
        };
        for name in ["lock", "status.new", "status.json"] {
            link(name);
        }
        assert!(data.lock().is_err());
        replace(&data.report(), b"{}").unwrap();
        assert_eq!(fs::read(data.report()).unwrap(), b"{}");
        assert_eq!(fs::read_to_string(&others).unwrap(), "precious");
    }

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
