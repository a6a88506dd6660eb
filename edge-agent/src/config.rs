//! The settings of `up`: flags over `EDGE_AGENT_*` over `edge-agent.toml` over defaults.
//!
//! Invariant: a name is written once, as a field of [`Settings`], and is thereby a flag, a variable and a key of the
//! file. Settings are read whole or not at all.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::failure::Failure;
use crate::target::Target;

/// The file's name, in the working directory.
pub(crate) const FILE: &str = "edge-agent.toml";

/// An address that secrets and events may travel to: the relay's, or this machine's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) Url);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text)
            .map_err(|error| format!("{error}: a whole address begins with `https://`"))?;
        if url.scheme() == "https" || (url.scheme() == "http" && is_on_loopback(&url)) {
            Ok(Self(url))
        } else {
            Err(
                "an address has to begin with `https://`; `http://` is for this machine alone"
                    .to_owned(),
            )
        }
    }
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

/// A length of time, written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(span) if !span.is_zero() => Ok(Self(span)),
            _ => Err("a length of time is written like `3s`, `10m`, `1h` or `7d`".to_owned()),
        }
    }
}

/// How the relay reaches this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TunnelChoice {
    /// The first of cloudflared, ngrok and tailscale that is installed; without any, the agent pulls
    Auto,
    /// A quick tunnel of Cloudflare's
    Cloudflared,
    /// ngrok, with the account that it is set up with
    Ngrok,
    /// Tailscale Funnel
    Tailscale,
    /// None: the agent pulls
    None,
}

fn parsed<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: std::fmt::Display>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// What flags, environment and file can say.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Where the events go: `3000`, `:3000/path` or a URL. Without it and without --exec: NDJSON on stdout
    #[arg(value_name = "TARGET")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) to: Option<Target>,
    /// A command for each event, its body on stdin; takes the rest of the line
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true, conflicts_with = "to")]
    pub(crate) exec: Option<Vec<String>>,
    /// The relay's address
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) relay: Option<Address>,
    /// What this worker is called; one name, one worker [default: the host's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Which events to receive: `Issue`, `Comment.create`, `AgentSessionEvent.*`; may be given again [default: all]
    #[arg(long = "type", value_name = "GLOB", value_delimiter = ',')]
    #[serde(rename = "type")]
    pub(crate) types: Option<Vec<String>>,
    /// Open a tunnel, so that events are POSTed here at once [default: none]
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["public_url", "pull"])]
    pub(crate) tunnel: Option<TunnelChoice>,
    /// Where the relay can POST to, through something of your own that leads to --listen
    #[arg(long, value_name = "URL", conflicts_with = "pull")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) public_url: Option<Address>,
    /// Ask for events instead of being POSTed to; this is what happens without --tunnel and --public-url
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) pull: Option<bool>,
    /// How often a pull worker asks [default: 3s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) poll: Option<Span>,
    /// Where to listen for deliveries [default: 127.0.0.1:4747]
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) listen: Option<SocketAddr>,
    /// How many events are handled side by side; those of one issue never are [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<usize>,
    /// How long a handler may take for one event [default: 5m]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) time_limit: Option<Span>,
    /// A file with the webhook secret that your code gives to Linear's SDK: events are stamped and signed for it
    #[arg(long, value_name = "FILE")]
    pub(crate) linear_secret_file: Option<PathBuf>,
    /// A file that holds a Linear API key or OAuth token; else the environment's LINEAR_TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) linear_token_file: Option<PathBuf>,
    /// How long handled events are kept [default: 7d]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) keep: Option<Span>,
    /// How much room they may take; the oldest go first [default: 1GB]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) keep_size: Option<ByteSize>,
    /// Where the registration and the events are kept; see the general options
    #[arg(skip)]
    pub(crate) data: Option<PathBuf>,
    /// Handlers by type; the first that matches has the event
    #[arg(skip)]
    pub(crate) handler: Vec<HandlerTable>,
}

/// A `[[handler]]` of the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct HandlerTable {
    r#type: Option<String>,
    #[serde(deserialize_with = "parsed")]
    to: Option<Target>,
    exec: Option<Vec<String>>,
    #[serde(deserialize_with = "parsed")]
    time_limit: Option<Span>,
}

/// What is done with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// POSTed.
    Http(Target),
    /// Given to a command: the program and its arguments.
    Exec(Vec<String>),
}

/// One handler, and the events it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) pattern: String,
    pub(crate) action: Action,
    pub(crate) time_limit: Duration,
}

/// How the relay reaches this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Pull,
    PublicUrl(Url),
    Tunnel(TunnelChoice),
}

/// The settings, checked whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where the settings were read, beside flags and environment.
    pub(crate) file: Option<PathBuf>,
    pub(crate) relay: Url,
    pub(crate) name: String,
    pub(crate) types: Option<Vec<String>>,
    pub(crate) route: Route,
    pub(crate) poll: Duration,
    pub(crate) listen: SocketAddr,
    /// Empty: NDJSON on stdout.
    pub(crate) rules: Vec<Rule>,
    pub(crate) concurrency: usize,
    pub(crate) linear_secret: Option<LinearSecret>,
    pub(crate) linear_token_file: Option<PathBuf>,
    pub(crate) keep: Duration,
    pub(crate) keep_size: u64,
}

/// The secret of Linear's webhook, as text; never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct LinearSecret(pub(crate) String);

impl std::fmt::Debug for LinearSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinearSecret(..)")
    }
}

/// The file that is read: the one that was named, or the project's, or the user's.
pub(crate) fn find(named: Option<&Path>) -> Option<PathBuf> {
    use etcetera::BaseStrategy as _;
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    let project = PathBuf::from(FILE);
    let user = etcetera::choose_base_strategy()
        .ok()
        .map(|base| base.config_dir().join("edge-agent").join(FILE));
    std::iter::once(project)
        .chain(user)
        .find(|file| file.exists())
}

/// What comes before the name of a setting that is a variable: `keep-size` is `EDGE_AGENT_KEEP_SIZE`.
const PREFIX: &str = "EDGE_AGENT_";
/// Variables that say where things are, which the general options read.
const NOT_SETTINGS: [&str; 2] = ["config", "data"];

/// Reads the variables. Those that are empty count as not set.
#[expect(
    clippy::disallowed_methods,
    reason = "variables are settings like any other: read here alone"
)]
pub(crate) fn environment() -> Result<Settings, Failure> {
    variables(
        std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }),
    )
}

fn variables(all: impl Iterator<Item = (String, String)>) -> Result<Settings, Failure> {
    let mut table = toml::Table::new();
    for (name, value) in all {
        let Some(key) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let key = key.to_ascii_lowercase().replace('_', "-");
        if value.is_empty() || NOT_SETTINGS.contains(&key.as_str()) {
            continue;
        }
        let wrong = |text: &str| Failure::Configuration(format!("`{name}`: {text}"));
        let value = match key.as_str() {
            "exec" | "handler" => {
                return Err(wrong(
                    "a command cannot be a variable: use a flag or the file",
                ));
            }
            "type" => value
                .split(',')
                .map(|part| part.trim().to_owned())
                .collect::<Vec<_>>()
                .into(),
            "pull" => {
                toml::Value::Boolean(value.parse().map_err(|_| wrong("use `true` or `false`"))?)
            }
            "concurrency" => {
                toml::Value::Integer(value.parse().map_err(|_| wrong("use a number"))?)
            }
            _ => toml::Value::String(value),
        };
        let said = |error: &toml::de::Error| {
            let message = error.message().lines().next().unwrap_or_default();
            wrong(&nearest(message).unwrap_or_else(|| message.to_owned()))
        };
        // By itself, so that what is wrong with it is said by its name.
        let one = toml::Table::from_iter([(key.clone(), value.clone())]);
        one.try_into::<Settings>().map_err(|error| said(&error))?;
        table.insert(key, value);
    }
    let settings: Settings = (table.try_into())
        .map_err(|error: toml::de::Error| Failure::Configuration(error.message().to_owned()))?;
    settings
        .excludes()
        .map_err(|text| Failure::Configuration(format!("the `{PREFIX}*` variables: {text}")))?;
    Ok(settings)
}

/// Reads a file; paths in it are relative to it.
pub(crate) fn read(file: &Path) -> Result<Settings, Failure> {
    let wrong = |text: String| Failure::Configuration(format!("`{}`: {text}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::Configuration(format!("cannot read `{}`: {error}", file.display()))
    })?;
    let mut settings: Settings = toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or_default();
            format!("line {}: ", before.matches('\n').count() + 1)
        });
        let message = error.message().lines().next().unwrap_or_default();
        wrong(format!(
            "{}{}",
            line.unwrap_or_default(),
            nearest(message).unwrap_or_else(|| message.to_owned())
        ))
    })?;
    let beside = file.parent().unwrap_or(Path::new(""));
    for path in [
        &mut settings.linear_secret_file,
        &mut settings.linear_token_file,
        &mut settings.data,
    ] {
        *path = path.as_ref().map(|path| beside.join(path));
    }
    settings.excludes().map_err(wrong)?;
    Ok(settings)
}

/// Serde's word on an unknown key, with the known one that is nearest to it.
fn nearest(message: &str) -> Option<String> {
    let mut names = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = names.next()?;
    let known = names.max_by(|a, b| {
        let near = |name: &str| strsim::jaro_winkler(unknown, name);
        near(a).total_cmp(&near(b))
    })?;
    Some(format!("there is no `{unknown}`: did you mean `{known}`?"))
}

impl Settings {
    /// What one place says must not contradict itself.
    fn excludes(&self) -> Result<(), String> {
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

    /// These, and where they say nothing, those.
    pub(crate) fn over(self, file: Self) -> Self {
        // One that names where events go replaces all that the file says of it.
        let (to, exec, handler) = if self.to.is_some() || self.exec.is_some() {
            (self.to, self.exec, Vec::new())
        } else {
            (file.to, file.exec, file.handler)
        };
        let says_route =
            self.tunnel.is_some() || self.public_url.is_some() || self.pull == Some(true);
        let (tunnel, public_url, pull) = if says_route {
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
            relay: self.relay.or(file.relay),
            name: self.name.or(file.name),
            types: self.types.or(file.types),
            poll: self.poll.or(file.poll),
            listen: self.listen.or(file.listen),
            concurrency: self.concurrency.or(file.concurrency),
            time_limit: self.time_limit.or(file.time_limit),
            linear_secret_file: self.linear_secret_file.or(file.linear_secret_file),
            linear_token_file: self.linear_token_file.or(file.linear_token_file),
            keep: self.keep.or(file.keep),
            keep_size: self.keep_size.or(file.keep_size),
            data: self.data.or(file.data),
        }
    }

    /// The webhook secret for Linear's SDK, if there is one.
    pub(crate) fn linear_secret(&self) -> Result<Option<LinearSecret>, Failure> {
        let file = self.linear_secret_file.as_deref();
        file.map(|file| read_secret(file).map(LinearSecret))
            .transpose()
    }

    /// Checks everything, and fills in what nobody said.
    pub(crate) fn config(self, file: Option<PathBuf>) -> Result<Config, Failure> {
        let wrong = Failure::Configuration;
        let linear_secret = self.linear_secret()?;
        let Some(relay) = self.relay else {
            return Err(wrong(format!(
                "the relay's address is missing: use `--relay`, `EDGE_AGENT_RELAY`, or `relay` in `{FILE}` (`edge-agent init` writes one)"
            )));
        };
        let name = match self.name {
            Some(name) => name,
            None => host_name()?,
        };
        if let Some(types) = &self.types {
            protocol::capability::check(types)
                .map_err(|text| wrong(text.replace("capabilities", "type")))?;
        }
        let concurrency = self.concurrency.unwrap_or(4);
        if !(1..=64).contains(&concurrency) {
            return Err(wrong("`concurrency` has to be 1 to 64".to_owned()));
        }
        let time_limit = self.time_limit.map_or(Duration::from_secs(300), |t| t.0);
        let tables = if self.handler.is_empty() {
            Vec::from_iter(
                (self.to.is_some() || self.exec.is_some()).then_some(HandlerTable {
                    to: self.to,
                    exec: self.exec,
                    ..HandlerTable::default()
                }),
            )
        } else if self.to.is_some() || self.exec.is_some() {
            return Err(wrong(
                "`to` and `exec` stand beside `[[handler]]`: make them the last `[[handler]]`"
                    .to_owned(),
            ));
        } else {
            self.handler
        };
        let rules = (tables.into_iter().enumerate())
            .map(|(at, table)| {
                table
                    .rule(time_limit)
                    .map_err(|text| wrong(format!("handler {}: {text}", at + 1)))
            })
            .collect::<Result<_, _>>()?;
        Ok(Config {
            file,
            relay: relay.0,
            name,
            types: self.types,
            route: match (self.public_url, self.tunnel) {
                (Some(url), _) => Route::PublicUrl(url.0),
                (None, None | Some(TunnelChoice::None)) => Route::Pull,
                (None, Some(tunnel)) => Route::Tunnel(tunnel),
            },
            poll: self.poll.map_or(Duration::from_secs(3), |t| t.0),
            listen: self
                .listen
                .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 4747))),
            rules,
            concurrency,
            linear_secret,
            linear_token_file: self.linear_token_file,
            keep: self.keep.map_or(Duration::from_secs(7 * 86_400), |t| t.0),
            keep_size: self.keep_size.map_or(1_000_000_000, |size| size.0),
        })
    }
}

impl HandlerTable {
    fn rule(self, time_limit: Duration) -> Result<Rule, String> {
        let pattern = self.r#type.unwrap_or_else(|| "*".to_owned());
        if protocol::capability::check(std::slice::from_ref(&pattern)).is_err() {
            return Err(format!(
                "`{pattern}` is no pattern: use `Issue`, `Comment.create`, `AgentSessionEvent.*` or `*`"
            ));
        }
        let action = match (self.to, self.exec) {
            (Some(target), None) => Action::Http(target),
            (None, Some(command)) if command.first().is_some_and(|c| !c.is_empty()) => {
                Action::Exec(command)
            }
            (None, Some(_)) => return Err("`exec` names no program".to_owned()),
            _ => return Err("it takes either `to` or `exec`".to_owned()),
        };
        Ok(Rule {
            pattern,
            action,
            time_limit: self.time_limit.map_or(time_limit, |t| t.0),
        })
    }
}

/// The text of a file that holds a secret and nothing else.
pub(crate) fn read_secret(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::Configuration(format!("cannot read `{}`: {error}", file.display()))
    })?;
    match text.trim() {
        "" => Err(Failure::Configuration(format!(
            "`{}` is empty",
            file.display()
        ))),
        text => Ok(text.to_owned()),
    }
}

/// A name for this machine that the relay takes.
fn host_name() -> Result<String, Failure> {
    #[cfg(unix)]
    {
        let system = rustix::system::uname();
        let name = system.nodename().to_string_lossy();
        let name = name.split('.').next().unwrap_or_default().trim();
        if !name.is_empty() {
            return Ok(name.chars().take(64).collect());
        }
    }
    Err(Failure::Configuration(
        "this host has no name: use `--name`".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        std::fs::write(&file, text).unwrap();
        read(&file)
            .and_then(|settings| settings.config(Some(file.clone())))
            .map_err(|error| error.to_string().replace(&file.display().to_string(), FILE))
    }

    const RELAY: &str = "relay = 'https://relay.test'\nname = 'x'\n";

    #[test]
    fn a_file_says_all_that_flags_can() {
        let config = config(&format!(
            "{RELAY}type = ['Issue']\ntunnel = 'auto'\nlisten = '127.0.0.1:1'\nconcurrency = 2\n\
             keep = '1d'\nkeep-size = '10MB'\ntime-limit = '1m'\npoll = '5s'\n\
             [[handler]]\ntype = 'Comment.*'\nto = ':3000/comments'\ntime-limit = '2s'\n\
             [[handler]]\nexec = ['./run', '--it']\n"
        ))
        .unwrap();
        assert_eq!(config.route, Route::Tunnel(TunnelChoice::Auto));
        assert_eq!(config.keep_size, 10_000_000);
        assert_eq!(config.keep, Duration::from_secs(86_400));
        assert_eq!(config.rules[0].time_limit, Duration::from_secs(2));
        assert_eq!(config.rules[1].time_limit, Duration::from_secs(60));
        assert_eq!(config.rules[1].pattern, "*");
        assert_eq!(
            config.rules[1].action,
            Action::Exec(vec!["./run".into(), "--it".into()])
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (text, expected) in [
            (
                "relai = 'x'",
                "`edge-agent.toml`: line 1: there is no `relai`: did you mean `relay`?",
            ),
            (
                "name = 'x'\n\ntunel = 'x'",
                "`edge-agent.toml`: line 3: there is no `tunel`: did you mean `tunnel`?",
            ),
            (
                "[[handler]]\ntimelimit = '1s'",
                "`edge-agent.toml`: line 2: there is no `timelimit`: did you mean `time-limit`?",
            ),
            (
                "keep = '7'",
                "line 1: a length of time is written like `3s`, `10m`, `1h` or `7d`",
            ),
            (
                "relay = 'http://example.com'",
                "has to begin with `https://`",
            ),
            ("to = 'x'", "this is no target"),
            ("to = '3000'\nexec = ['x']", "exclude each other"),
            ("pull = true\ntunnel = 'auto'", "exclude each other"),
            ("name = 'x'", "the relay's address is missing"),
            (
                &format!("{RELAY}concurrency = 0"),
                "`concurrency` has to be 1 to 64",
            ),
            (
                &format!("{RELAY}type = ['no pattern']"),
                "`type[0]` is not a pattern",
            ),
            (
                &format!("{RELAY}[[handler]]\ntype = 'Issue'"),
                "handler 1: it takes either `to` or `exec`",
            ),
            (
                &format!("{RELAY}[[handler]]\ntype = '?'\nto = '1'"),
                "handler 1: `?` is no pattern",
            ),
            (
                &format!("{RELAY}[[handler]]\nexec = []"),
                "handler 1: `exec` names no program",
            ),
            (
                &format!("{RELAY}to = '1'\n[[handler]]\nto = '2'"),
                "make them the last `[[handler]]`",
            ),
            (&format!("{RELAY}linear-secret-file = 'nowhere'"), "nowhere"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn every_setting_is_a_variable_too() {
        let read = |pairs: &[(&str, &str)]| {
            variables(
                pairs
                    .iter()
                    .map(|(n, v)| ((*n).to_owned(), (*v).to_owned())),
            )
            .map_err(|error| error.to_string())
        };
        let settings = read(&[
            ("EDGE_AGENT_TO", ":3000/x"),
            ("EDGE_AGENT_TYPE", "Issue, Comment.create"),
            ("EDGE_AGENT_KEEP_SIZE", "2GB"),
            ("EDGE_AGENT_PULL", "true"),
            ("EDGE_AGENT_CONCURRENCY", "7"),
            ("EDGE_AGENT_NAME", ""),
            ("EDGE_AGENT_DATA", "/somewhere"),
            ("PATH", "x"),
        ])
        .unwrap();
        assert_eq!(settings.types.unwrap(), ["Issue", "Comment.create"]);
        assert_eq!((settings.concurrency, settings.pull), (Some(7), Some(true)));
        assert_eq!(settings.keep_size, Some(ByteSize(2_000_000_000)));
        assert_eq!(settings.name, None);
        for (name, value, expected) in [
            (
                "EDGE_AGENT_TUNEL",
                "auto",
                "`EDGE_AGENT_TUNEL`: there is no `tunel`: did you mean `tunnel`?",
            ),
            (
                "EDGE_AGENT_POLL",
                "3",
                "`EDGE_AGENT_POLL`: a length of time is written like",
            ),
            (
                "EDGE_AGENT_PULL",
                "yes",
                "`EDGE_AGENT_PULL`: use `true` or `false`",
            ),
            (
                "EDGE_AGENT_CONCURRENCY",
                "many",
                "`EDGE_AGENT_CONCURRENCY`: use a number",
            ),
            (
                "EDGE_AGENT_EXEC",
                "x",
                "`EDGE_AGENT_EXEC`: a command cannot be a variable",
            ),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let both = [("EDGE_AGENT_TUNNEL", "auto"), ("EDGE_AGENT_PULL", "true")];
        assert!(read(&both).unwrap_err().contains("exclude each other"));
    }

    #[test]
    fn a_flag_replaces_what_the_file_says_of_the_same_thing() {
        let file = Settings {
            handler: vec![HandlerTable::default()],
            tunnel: Some(TunnelChoice::Auto),
            name: Some("file".into()),
            poll: Some("9s".parse().unwrap()),
            ..Settings::default()
        };
        let flags = Settings {
            to: Some("3000".parse().unwrap()),
            pull: Some(true),
            name: Some("flag".into()),
            ..Settings::default()
        };
        let both = flags.over(file);
        assert!(both.handler.is_empty() && both.tunnel.is_none());
        assert_eq!(both.name.as_deref(), Some("flag"));
        assert_eq!(both.poll, Some(Span(Duration::from_secs(9))));
    }
}
