//! Files of the agent's own: nobody else can read them, and no link in their place is followed.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

/// Opens a file, or creates it. A symbolic link is not followed: it may lead to a file of somebody's that this
/// user can write.
pub(crate) fn own_file(path: &Path, creates: bool) -> std::io::Result<File> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let others = directory.path().join("others");
        fs::write(&others, "precious").unwrap();
        let [lock, beside, status] =
            ["lock", "status.new", "status.json"].map(|name| directory.path().join(name));
        for link in [&lock, &beside, &status] {
            std::os::unix::fs::symlink(&others, link).unwrap();
        }
        assert!(own_file(&lock, true).is_err());
        assert!(own_file(&lock, false).is_err());
        replace(&status, b"{}").unwrap();
        assert_eq!(fs::read(&status).unwrap(), b"{}");
        assert_eq!(fs::read_to_string(&others).unwrap(), "precious");
    }
}
