//! The signals of a daemon: to shut down, and to read its settings again.

/// A signal to a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// To shut down.
    Shutdown,
    /// To read its settings again.
    Reload,
}

/// SIGINT and SIGTERM, and SIGHUP; elsewhere than on Unix, Ctrl-C.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
    /// Whether stdin, stdout or stderr is a terminal. If one is, the terminal's end is a hangup, too.
    #[cfg(unix)]
    has_terminal: bool,
}

impl Signals {
    /// From now on these signals do not end the process; none is missed.
    ///
    /// # Errors
    ///
    /// The signals cannot be handled.
    #[cfg(unix)]
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            has_terminal: has_terminal(),
        })
    }

    /// From now on Ctrl-C does not end the process.
    ///
    /// # Errors
    ///
    /// None; it returns a result as on Unix.
    #[cfg(not(unix))]
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next signal.
    #[cfg(unix)]
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Shutdown,
            _ = self.terminate.recv() => Signal::Shutdown,
            _ = self.hangup.recv() => {
                if self.has_terminal && !has_terminal() {
                    Signal::Shutdown
                } else {
                    Signal::Reload
                }
            }
        }
    }

    /// Waits for the next signal.
    #[cfg(not(unix))]
    pub async fn next(&mut self) -> Signal {
        let _ = tokio::signal::ctrl_c().await;
        Signal::Shutdown
    }

    /// Waits for the signal to shut down, in a program without settings to read again.
    pub async fn shutdown(&mut self) {
        while self.next().await != Signal::Shutdown {}
    }
}

#[cfg(unix)]
fn has_terminal() -> bool {
    use std::io::IsTerminal as _;
    // One that has hung up is none any more.
    std::io::stdin().is_terminal()
        || std::io::stdout().is_terminal()
        || std::io::stderr().is_terminal()
}
