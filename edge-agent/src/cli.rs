//! The arguments, and how the program ends.
//!
//! Exit codes: 0 done, 1 failed, 2 usage or configuration, 4 refused by the relay.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use url::Url;

use crate::talk::say;
use crate::up;

#[derive(Debug, Parser)]
#[command(
    name = "edge-agent",
    version,
    about = "Receives Linear's webhooks on this machine, through edge-relay"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register, receive events, and print each as one line of JSON on stdout
    Up(Up),
}

/// The arguments of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The relay's address
    #[arg(long, env = "EDGE_AGENT_RELAY", value_parser = relay_address)]
    pub relay: Url,
    /// What this worker is called; one name, one worker
    #[arg(long, env = "EDGE_AGENT_NAME")]
    pub name: String,
    /// Where the relay can POST to; without it, this is a pull worker and asks for its events
    #[arg(long, env = "EDGE_AGENT_PUBLIC_URL")]
    pub public_url: Option<Url>,
    /// Where to listen for deliveries
    #[arg(long, env = "EDGE_AGENT_LISTEN", default_value = "127.0.0.1:4747")]
    pub listen: SocketAddr,
    /// Which events to receive: `Issue`, `Comment.create`, `AgentSessionEvent.*`; may be given again [default: all]
    #[arg(long = "type", value_name = "PATTERN")]
    pub types: Vec<String>,
    /// A file that holds a Linear API key or OAuth token; else the environment's LINEAR_TOKEN
    #[arg(long, value_name = "FILE")]
    pub linear_token_file: Option<PathBuf>,
    /// Where the registration and the events are kept [default: the platform's data directory]
    #[arg(long, env = "EDGE_AGENT_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// How often a pull worker asks for its events, in seconds
    #[arg(long, default_value_t = 3, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub poll: u64,
}

/// Whether an address is one of this machine's loopback interface.
pub(crate) fn is_on_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(v4)) => v4.is_loopback(),
        Some(url::Host::Ipv6(v6)) => v6.is_loopback(),
        None => false,
    }
}

fn relay_address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not an address: {error}"))?;
    // The token travels in the body.
    if url.scheme() == "https" || (url.scheme() == "http" && is_on_loopback(&url)) {
        Ok(url)
    } else {
        Err("the relay's address has to begin with `https://`".to_owned())
    }
}

/// Why the program ends without having done what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments, the environment or a file is wrong.
    #[error("{0}")]
    Configuration(String),
    /// The relay, or Linear behind it, said no.
    #[error("{0}")]
    Refused(String),
    /// Something else.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Configuration(_) => 2,
            Self::Refused(_) => 4,
        }
    }
}

/// Reads the arguments and runs.
pub fn main() -> ExitCode {
    run(Cli::parse().command)
}

/// Runs a command to its end.
pub fn run(command: Command) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let done = match runtime {
        Err(error) => Err(Failure::Failed(error.into())),
        Ok(runtime) => {
            let done = runtime.block_on(async {
                match command {
                    Command::Up(up) => up::run(up).await,
                }
            });
            // A write to a stdout that nobody reads would be waited for without end.
            runtime.shutdown_timeout(Duration::from_secs(1));
            done
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(format_args!("error: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}
