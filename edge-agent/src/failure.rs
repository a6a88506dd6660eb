//! The failures of commands, and their exit codes.

/// The exit codes, as `--help` shows them.
pub(crate) const EXIT_CODES: &str = "Exit codes:\n  \
    0  done\n  \
    1  failed\n  \
    2  usage or configuration\n  \
    3  unhealthy, or nothing matched\n  \
    4  refused by the relay";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments, the environment or a file is wrong.
    #[error("{0}")]
    Configuration(String),
    /// What the command asked about is unhealthy or absent.
    #[error("{0}")]
    Unhealthy(String),
    /// The relay, or Linear behind it, refused.
    #[error("{0}")]
    Refused(String),
    /// Something else.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    /// Whether the same would happen again after a restart.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Configuration(_) | Self::Refused(_))
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Configuration(_) => 2,
            Self::Unhealthy(_) => 3,
            Self::Refused(_) => 4,
        }
    }
}
