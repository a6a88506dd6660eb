//! Why a command ends without having done what it was told, and the exit code that says so.

/// The exit codes, as `--help` tells them.
pub(crate) const EXIT_CODES: &str = "Exit codes:\n  \
    0  done\n  \
    1  failed\n  \
    2  usage or configuration\n  \
    3  unhealthy, or nothing matched\n  \
    4  refused by the relay";

/// Why a command ends without having done what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments, the environment or a file is wrong.
    #[error("{0}")]
    Configuration(String),
    /// What was asked about is not well, or is not there; what there is to say was said.
    #[error("{0}")]
    Unhealthy(String),
    /// The relay, or Linear behind it, said no.
    #[error("{0}")]
    Refused(String),
    /// Something else.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Failure {
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
