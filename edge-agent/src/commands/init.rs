//! `init`: writes an `edge-agent.toml` to begin with, looks whether its relay is there, and says what comes next.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};

use clap::Args;

use crate::config::{Address, FILE, TOKEN, TunnelChoice, environment};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{hint, info, warn};
use crate::relay::Relay;
use crate::target::Target;
use crate::trust;
use crate::tunnel::Program;

/// Where Linear shows a user's API keys.
const API_KEYS: &str = "https://linear.app/settings/account/security";

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where the events go: `3000`, `:3000/path` or a URL
    #[arg(value_name = "TARGET", value_parser = target)]
    to: Option<String>,
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

/// Checks a target, and takes it as it is written.
fn target(text: &str) -> Result<String, String> {
    text.parse::<Target>().map(|_| text.to_owned())
}

pub(crate) async fn run(context: &Context, arguments: &Init) -> Result<(), Failure> {
    let tunnel = tunnel();
    write(arguments, tunnel.filter(|(_, is_wanted)| *is_wanted))?;
    info(format_args!("`{FILE}` is written"));
    let relay = match &arguments.relay {
        Some(relay) => Some(relay.0.clone()),
        None => environment()?.relay.map(|relay| relay.0),
    };
    match &relay {
        None => hint(
            "set `relay` in it to `RelayUrl`, which `sam deploy` printed, or to where `edge-relay serve` listens",
        ),
        Some(relay) => {
            trust::name(relay)?;
            match Relay::new(relay.clone())?.look().await {
                Ok(()) => info(format_args!("{relay} is a relay")),
                Err(error) => warn(format_args!("{error}; `edge-agent doctor` looks again")),
            }
        }
    }
    if let Some((program, false)) = tunnel {
        let program = program.name();
        hint(format_args!(
            "{program} is installed: with `tunnel = \"{program}\"` events are pushed at once"
        ));
    }
    if arguments.to.is_none() {
        hint("set `to` or `exec` in it, unless you want the events as lines of JSON on stdout");
    }
    next(context);
    Ok(())
}

/// What comes next.
fn next(context: &Context) {
    let has_token = context.settings.linear_token_file.is_some() || crate::membership::has_token();
    if has_token {
        hint("next: `edge-agent up`, and `edge-agent send` in another terminal");
    } else {
        hint(format_args!(
            "next, with an API key of {API_KEYS}: `{TOKEN}=lin_api_… edge-agent up`, and `edge-agent send` in another terminal"
        ));
    }
}

/// A tunnel program that is installed, and whether it is to be used: the user is asked, if there is a terminal.
fn tunnel() -> Option<(Program, bool)> {
    let program = Program::choose(TunnelChoice::Auto).ok()??;
    let name = program.name();
    let question = format!(
        "{name} is installed. Have events pushed through it at once, instead of asking every 2 to 8 s?"
    );
    Some((program, trust::ask(&question).unwrap_or(false)))
}

fn write(arguments: &Init, tunnel: Option<(Program, bool)>) -> Result<(), Failure> {
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
    let text = text(arguments, tunnel.map(|(program, _)| program.name()));
    file.write_all(text.as_bytes()).map_err(cannot)
}

fn text(arguments: &Init, tunnel: Option<&str>) -> String {
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
{}
# exec = ["./handle-event"]

# Through what events are pushed at once, instead of being asked for every `poll`.
{}
# poll = "2s..8s"
# listen = "127.0.0.1:4747"
# concurrency = 4
# linear-secret-file = "webhook-secret" # for code that uses Linear's own SDK
# keep = "7d"
# keep-size = "1GB"

# Or by type, in the place of `to` and `exec`; the first that matches has the event. What stands above has to stay above.
# [[handler]]
# type = "Comment.*"
# to = ":3000/comments"
#
# [[handler]]
# exec = ["./handle-event"]
# time-limit = "10m"
"##,
        set("relay", relay, "\"https://…\""),
        set("name", arguments.name.as_deref(), "\"laptop\""),
        set("to", arguments.to.as_deref(), "\"3000\""),
        set("tunnel", tunnel, "\"auto\""),
    )
}
