//! What reads stdout: whether it is there, and how much of what was written it has taken.

use std::sync::Arc;

use tokio::sync::Notify;

/// How many bytes wait in stdout's pipe; none if stdout is no pipe, or the system does not say: then what is written counts as
/// taken.
#[cfg(target_os = "linux")]
pub(super) fn unread() -> Option<u64> {
    let stdout = std::io::stdout();
    let stat = rustix::fs::fstat(&stdout).ok()?;
    let is_pipe = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo;
    // FIONREAD answers for both ends of a pipe (pipe(7)).
    is_pipe
        .then(|| rustix::io::ioctl_fionread(&stdout).ok())
        .flatten()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn unread() -> Option<u64> {
    None
}

/// Notifies once nothing reads stdout any more: its pipe has no reader, or its terminal is gone.
pub(super) fn watch() -> Arc<Notify> {
    let gone = Arc::new(Notify::new());
    #[cfg(unix)]
    {
        let notify = Arc::clone(&gone);
        // The thread ends with the process.
        std::thread::spawn(move || {
            use rustix::event::{PollFd, PollFlags, poll};
            let stdout = std::io::stdout();
            let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
            // Errors and hangups are answered without being asked for (poll(2)).
            while matches!(
                poll(&mut watched, None),
                Err(rustix::io::Errno::INTR) | Ok(0)
            ) {}
            // What cannot be watched, as terminals on some systems, is not gone.
            if watched[0]
                .revents()
                .intersects(PollFlags::ERR | PollFlags::HUP)
            {
                notify.notify_one();
            }
        });
    }
    gone
}

/// Whether what is written to stdout is gone at once. A program that is started with stdout closed gets this device, too.
#[cfg(unix)]
pub(crate) fn is_null_device() -> bool {
    let null = rustix::fs::stat("/dev/null").ok();
    let stdout = rustix::fs::fstat(std::io::stdout()).ok();
    null.zip(stdout)
        .is_some_and(|(null, stdout)| null.st_rdev != 0 && null.st_rdev == stdout.st_rdev)
}

#[cfg(not(unix))]
pub(crate) fn is_null_device() -> bool {
    false
}
