//! The settings as one source has them, and how sources are merged.
//!
//! Invariant: a setting is written once, as a field of [`Settings`], which makes it a flag, a variable and a key of the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use schemars::JsonSchema;
use serde::Deserialize;

use super::OnStop;
use super::values::{
    Address, Inspect, Listen, OneOrMore, Poll, Span, TextOrNumber, TunnelChoice, command, parsed,
    texts,
};
use crate::target::Target;

/// The settings of edge-agent.
#[derive(Debug, Clone, Default, Args, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields, title = "edge-agent.toml")]
pub(crate) struct Settings {
    /// Where to POST each event: `3000`, `:3000/path` or a URL. Without TARGET and --exec, events are printed as NDJSON
    #[arg(value_name = "TARGET")]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "TextOrNumber")]
    pub(crate) to: Option<Target>,
    /// The command to run for each event, with the body on stdin; takes the rest of the line
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true, conflicts_with = "to")]
    #[serde(deserialize_with = "command")]
    #[schemars(with = "OneOrMore")]
    pub(crate) exec: Option<Vec<String>>,
    /// Without a handler: a printed event counts as handled once its id is written to stdin, else it is printed again at the next start
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) ack: Option<bool>,
    /// The relay's address
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "String")]
    pub(crate) relay: Option<Address>,
    /// The worker's name; each name is one worker [default: the registered name, at first the host's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Take over the name from another edge-agent of yours that uses it
    #[arg(long)]
    #[serde(skip)]
    pub(crate) replace: bool,
    /// Give the Linear token to a relay that only the edge-agent.toml of this directory names
    #[arg(long)]
    #[serde(skip)]
    pub(crate) trust_project: bool,
    /// The file in the working directory, if it alone names the relay.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) project: Option<PathBuf>,
    /// Whether it names the data directory, too.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) project_has_data: bool,
    /// Which events to receive: `Issue`, `Comment.create`, `AgentSessionEvent.*`; may be repeated [default: all]
    #[arg(long = "type", value_name = "GLOB", value_delimiter = ',')]
    #[serde(rename = "type", deserialize_with = "texts")]
    #[schemars(with = "OneOrMore")]
    pub(crate) types: Option<Vec<String>>,
    /// Only events that concern the user of the Linear token: created, assigned, delegated, written, mentioned; sessions that the user started
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) mine: Option<bool>,
    /// Only events of this team, by its key, such as `ENG`; may be repeated [default: all teams that the user can see]
    #[arg(long = "team", value_name = "KEY", value_delimiter = ',')]
    #[serde(rename = "team", deserialize_with = "texts")]
    #[schemars(with = "OneOrMore")]
    pub(crate) teams: Option<Vec<String>>,
    /// The worker's group: each event goes to one worker of the group, and all events of an issue to the same one
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// Open a tunnel, through which the relay POSTs events at once [default: none]
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["public_url", "pull"])]
    #[schemars(with = "TunnelChoice")]
    pub(crate) tunnel: Option<TunnelChoice>,
    /// The public address of --listen, if you provide one: the relay POSTs events to it
    #[arg(long, value_name = "URL", conflicts_with = "pull")]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "String")]
    pub(crate) public_url: Option<Address>,
    /// Ask the relay for events; this is the default without --tunnel and --public-url
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) pull: Option<bool>,
    /// How often to ask the relay: `5s`, or `2s..8s`, which slows down while no event arrives [default: 2s..8s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "String")]
    pub(crate) poll: Option<Poll>,
    /// Where to listen for deliveries [default: 127.0.0.1:4747; any free port if that one is taken and the agent only pulls]
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "TextOrNumber")]
    pub(crate) listen: Option<Listen>,
    /// The address of the inspector, a page that shows what arrived, or `off` [default: 127.0.0.1:4748, any free port if that one is taken]
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "TextOrNumber")]
    pub(crate) inspect: Option<Inspect>,
    /// How many events are handled concurrently; those of one issue never are [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<usize>,
    /// How long a handler may take for one event [default: 5m]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "String")]
    pub(crate) time_limit: Option<Span>,
    /// Accept any certificate of a TARGET on this machine, such as a self-signed one
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) insecure: Option<bool>,
    /// A file with the webhook secret that your code gives to Linear's SDK: events get a current timestamp and signature for it
    #[arg(long, value_name = "FILE")]
    pub(crate) linear_secret_file: Option<PathBuf>,
    /// A file with a Linear API key or OAuth token; without it, LINEAR_TOKEN is used
    #[arg(long, value_name = "FILE")]
    pub(crate) linear_token_file: Option<PathBuf>,
    /// How long handled events are kept [default: 7d]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "String")]
    pub(crate) keep: Option<Span>,
    /// How much space handled events may take; the oldest are deleted first [default: 1GB]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "String")]
    pub(crate) keep_size: Option<ByteSize>,
    /// Where the registration and the events are stored; see the general options
    #[arg(skip)]
    pub(crate) data: Option<PathBuf>,
    /// Handlers by type; the first that matches gets the event
    #[arg(skip)]
    pub(crate) handler: Vec<HandlerTable>,
}

/// A `[[handler]]` of the file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct HandlerTable {
    /// The events that it handles, such as `Comment.*`. Without it: all.
    pub(super) r#type: Option<String>,
    /// The address that gets each event as a POST: `3000`, `:3000/path` or a URL.
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "TextOrNumber")]
    pub(super) to: Option<Target>,
    /// A program and its arguments, started for each event with the body on stdin.
    #[serde(deserialize_with = "command")]
    #[schemars(with = "OneOrMore")]
    pub(super) exec: Option<Vec<String>>,
    /// How long it may take for one event.
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "String")]
    pub(super) time_limit: Option<Span>,
    /// What a stop of an agent session does to the event of the session that is being handled.
    pub(super) stop: OnStop,
    /// How long the next event of the same issue or agent session waits after a success.
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "String")]
    pub(super) pause: Option<Span>,
    /// How often a failed event is retried.
    pub(super) retries: Option<u64>,
    /// Headers that each request has beside those of the event; a value `$NAME` is the variable `NAME`.
    pub(super) header: BTreeMap<String, String>,
    /// A file with further ones, `Name: value` a line.
    pub(super) headers_file: Option<PathBuf>,
    /// In the place of the one for all handlers.
    pub(super) linear_secret_file: Option<PathBuf>,
}

impl HandlerTable {
    /// The paths in it.
    pub(super) fn paths(&mut self) -> [&mut Option<PathBuf>; 2] {
        [&mut self.headers_file, &mut self.linear_secret_file]
    }
}

impl Settings {
    /// The variables that headers of handlers name.
    pub(crate) fn header_variables(&self) -> impl Iterator<Item = &str> {
        (self.handler.iter())
            .flat_map(|handler| handler.header.values())
            .filter_map(|value| value.strip_prefix('$'))
    }

    /// Refuses settings of one source that exclude each other.
    pub(super) fn validate_exclusions(&self) -> Result<(), String> {
        if self.to.is_some() && self.exec.is_some() {
            return Err("`to` and `exec` exclude each other".to_owned());
        }
        let routes = [
            self.pull == Some(true),
            self.public_url.is_some(),
            self.tunnel.is_some(),
        ];
        if routes.iter().filter(|given| **given).count() > 1 {
            return Err("`pull`, `public-url` and `tunnel` exclude each other".to_owned());
        }
        Ok(())
    }

    /// These settings, and those of `file` where these have none.
    pub(crate) fn over(self, file: Self) -> Self {
        // A target or a command replaces all handlers of the file.
        let (to, exec, handler) = if self.to.is_some() || self.exec.is_some() {
            (self.to, self.exec, Vec::new())
        } else {
            (file.to, file.exec, file.handler)
        };
        let has_route =
            self.tunnel.is_some() || self.public_url.is_some() || self.pull == Some(true);
        let (tunnel, public_url, pull) = if has_route {
            (self.tunnel, self.public_url, self.pull)
        } else {
            (file.tunnel, file.public_url, file.pull)
        };
        Self {
            to,
            exec,
            handler,
            tunnel,
            public_url,
            pull,
            ack: self.ack.or(file.ack),
            relay: self.relay.or(file.relay),
            name: self.name.or(file.name),
            replace: self.replace,
            trust_project: self.trust_project,
            project: self.project,
            project_has_data: self.project_has_data || file.project_has_data,
            types: self.types.or(file.types),
            mine: self.mine.or(file.mine),
            teams: self.teams.or(file.teams),
            group: self.group.or(file.group),
            poll: self.poll.or(file.poll),
            listen: self.listen.or(file.listen),
            inspect: self.inspect.or(file.inspect),
            concurrency: self.concurrency.or(file.concurrency),
            time_limit: self.time_limit.or(file.time_limit),
            insecure: self.insecure.or(file.insecure),
            linear_secret_file: self.linear_secret_file.or(file.linear_secret_file),
            linear_token_file: self.linear_token_file.or(file.linear_token_file),
            keep: self.keep.or(file.keep),
            keep_size: self.keep_size.or(file.keep_size),
            data: self.data.or(file.data),
        }
    }
}
