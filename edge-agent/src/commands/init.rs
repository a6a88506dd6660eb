//! `init`: writes an `edge-agent.toml` to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};

use clap::Args;

use crate::config::{Address, FILE};
use crate::failure::Failure;
use crate::output::{hint, info};

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The relay's address
    #[arg(long, value_name = "URL")]
    relay: Option<Address>,
    /// What this worker is called
    #[arg(long)]
    name: Option<String>,
    /// Overwrite a file that is there
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(arguments: &Init) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => {
            Failure::Configuration(format!("`{FILE}` is here already: `--force` overwrites it"))
        }
        _ => Failure::Configuration(format!("cannot write `{FILE}`: {error}")),
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(arguments.force)
        .truncate(arguments.force)
        .create_new(!arguments.force)
        .open(FILE)
        .map_err(cannot)?;
    file.write_all(text(arguments).as_bytes()).map_err(cannot)?;
    info(format_args!("`{FILE}` is written"));
    if arguments.relay.is_none() {
        hint("set `relay` in it to the address that `sam deploy` printed");
    }
    hint("then: LINEAR_TOKEN=lin_api_… edge-agent up");
    Ok(())
}

fn text(arguments: &Init) -> String {
    let set = |key: &str, value: Option<&str>, example: &str| match value {
        // A JSON string is a TOML string.
        Some(value) => format!("{key} = {}", serde_json::Value::from(value)),
        None => format!("# {key} = {example}"),
    };
    let relay = arguments.relay.as_ref().map(|relay| relay.0.as_str());
    format!(
        r##"# edge-agent: flags and EDGE_AGENT_* variables go before what stands here.

# The relay's address.
{}
# What this worker is called: one name, one worker. Without it, the host's name.
{}
# A file that holds a Linear API key; else LINEAR_TOKEN in the environment. Used to register, and not kept.
# linear-token-file = "linear-token"

# Which events: `Issue`, `Comment.create`, `AgentSessionEvent.*`. Without it, all.
# type = ["AgentSessionEvent", "Issue.update"]

# Where they go: an address on this machine, or a command that reads the body on stdin. Without either, NDJSON on
# stdout.
# to = "3000"
# exec = ["./handle-event"]

# Or by type; the first that matches has the event.
# [[handler]]
# type = "Comment.*"
# to = ":3000/comments"
#
# [[handler]]
# exec = ["./handle-event"]
# time-limit = "10m"

# Keys stand before the first [[handler]]:
# tunnel = "auto"                       # events at once instead of every `poll`
# poll = "2s..8s"
# listen = "127.0.0.1:4747"
# concurrency = 4
# linear-secret-file = "webhook-secret" # for code that uses Linear's own SDK
# keep = "7d"
# keep-size = "1GB"
"##,
        set("relay", relay, "\"https://…\""),
        set("name", arguments.name.as_deref(), "\"laptop\""),
    )
}
