//! How a daemon is told to end, and to read its settings again.

/// What a daemon is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// To end.
    End,
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
    /// Whether the program talks to a terminal: its end is a hangup, too.
    #[cfg(unix)]
    has_terminal: bool,
}

impl Signals {
    /// From now on these signals do not end the process; none is missed.
    #[cfg(unix)]
    pub fn listen() -> std::io::Result<Self> {
        use std::io::IsTerminal as _;
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            has_terminal: std::io::stderr().is_terminal(),
        })
    }

    /// From now on Ctrl-C does not end the process.
    #[cfg(not(unix))]
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next signal.
    #[cfg(unix)]
    pub async fn next(&mut self) -> Told {
        use std::io::IsTerminal as _;
        tokio::select! {
            _ = self.interrupt.recv() => Told::End,
            _ = self.terminate.recv() => Told::End,
            _ = self.hangup.recv() => {
                if self.has_terminal && !std::io::stderr().is_terminal() {
                    Told::End
                } else {
                    Told::Reload
                }
            }
        }
    }

    /// Waits for the next signal.
    #[cfg(not(unix))]
    pub async fn next(&mut self) -> Told {
        let _ = tokio::signal::ctrl_c().await;
        Told::End
    }

    /// Waits until told to end: for a program that has no settings to read again.
    pub async fn told_to_end(&mut self) {
        while self.next().await != Told::End {}
    }
}
