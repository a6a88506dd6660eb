//! The settings of `up`: flags over `EDGE_AGENT_*` over `edge-agent.toml` over defaults.
//!
//! Invariant: settings are valid as a whole, or refused as a whole.

mod file;
mod headers;
mod keys;
mod schema;
mod settings;
mod types;
mod values;
mod variables;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::envelope::is_identifier;
use protocol::messages::Filter;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

pub(crate) use file::{FILE, find, read};
pub(crate) use headers::{Headers, OF_CONNECTION};
pub(crate) use schema::schema;
pub(crate) use settings::{HandlerTable, Settings};
pub(crate) use values::{Address, Inspect, LinearSecret, Poll, Span, TunnelChoice, read_secret};
pub(crate) use variables::{TOKEN, environment, for_service, proxy_variable};

use crate::failure::Failure;
use crate::target::Target;

/// The largest number of retries: more than a day of them.
const MAX_RETRIES: u64 = 150;

/// Where the relay takes webhooks.
const LINEARS_PATH: &str = "/webhooks/linear";

/// What a rule does with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// POSTs it.
    Http(Target),
    /// Runs a command with it: the program and its arguments.
    Exec(Vec<String>),
}

/// One handler, and the events that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) pattern: String,
    pub(crate) action: Action,
    pub(crate) time_limit: Duration,
    pub(crate) stop: OnStop,
    /// How long after a success the next event of the same ordering key waits.
    pub(crate) pause: Duration,
    /// How often a failed event is retried, if that is set.
    pub(crate) retries: Option<u64>,
    pub(crate) headers: Headers,
    /// In the place of the one for all handlers.
    pub(crate) linear_secret: Option<LinearSecret>,
    /// Whether any certificate of the target is taken.
    pub(crate) insecure: bool,
}

/// What a stop does with the event of its session that is being handled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnStop {
    /// Nothing: the handler gets the stop beside it.
    #[default]
    Pass,
    /// Its command gets SIGTERM before the stop is handed over.
    Terminate,
}

/// How the relay reaches this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Pull,
    PublicUrl(Url),
    Tunnel(TunnelChoice),
}

impl Route {
    /// The address that is known from the start.
    pub(crate) fn address(&self) -> Option<Url> {
        match self {
            Self::PublicUrl(url) => Some(url.clone()),
            Self::Pull | Self::Tunnel(_) => None,
        }
    }
}

/// The settings, valid as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// What may be wrong and is no error.
    pub(crate) doubts: Vec<String>,
    pub(crate) relay: Url,
    pub(crate) name: String,
    /// The file in the working directory, if it alone names the relay.
    pub(crate) project: Option<PathBuf>,
    /// Whether it names the data directory, too.
    pub(crate) project_has_data: bool,
    /// Whether a relay that it names gets the Linear token.
    pub(crate) trust_project: bool,
    /// Whether the name is taken over from an agent that uses it.
    pub(crate) replace: bool,
    pub(crate) types: Option<Vec<String>>,
    pub(crate) filter: Option<Filter>,
    pub(crate) group: Option<String>,
    pub(crate) route: Route,
    pub(crate) poll: Poll,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) inspect: Option<Inspect>,
    /// Empty: NDJSON on stdout.
    pub(crate) rules: Vec<Rule>,
    /// Whether a printed event is done only once it was acknowledged.
    pub(crate) ack: bool,
    pub(crate) concurrency: usize,
    pub(crate) linear_secret: Option<LinearSecret>,
    pub(crate) linear_token_file: Option<PathBuf>,
    pub(crate) keep: Duration,
    pub(crate) keep_size: u64,
}

impl Settings {
    /// The webhook secret for Linear's SDK, if there is one.
    pub(crate) fn linear_secret(&self) -> Result<Option<LinearSecret>, Failure> {
        let file = self.linear_secret_file.as_deref();
        file.map(|file| read_secret(file).map(LinearSecret))
            .transpose()
    }

    /// What may be wrong and is no error.
    fn doubts(&self) -> Vec<String> {
        let of_handlers = (self.handler.iter()).filter_map(|table| table.r#type.as_deref());
        (self.types.iter().flatten().map(String::as_str))
            .chain(of_handlers)
            .filter_map(types::doubt)
            .collect()
    }

    /// Validates all settings and adds the defaults.
    pub(crate) fn config(self, file: Option<PathBuf>) -> Result<Config, Failure> {
        let wrong = Failure::Configuration;
        let linear_secret = self.linear_secret()?;
        let doubts = self.doubts();
        let Some(relay) = self.relay else {
            return Err(wrong(no_relay(file.as_deref(), self.exec.as_deref())));
        };
        if relay.0.path().trim_end_matches('/') == LINEARS_PATH {
            return Err(wrong(format!(
                "`{}` is `WebhookUrl`, for Linear: the relay's address is `RelayUrl`",
                relay.0
            )));
        }
        let name = match self.name {
            Some(name) => name,
            None => host_name()?,
        };
        validate_subscription(
            self.types.as_deref(),
            self.teams.as_deref(),
            self.group.as_deref(),
        )
        .map_err(wrong)?;
        let concurrency = self.concurrency.unwrap_or(4);
        if !(1..=64).contains(&concurrency) {
            return Err(wrong("`concurrency` has to be 1 to 64".to_owned()));
        }
        let insecure = self.insecure == Some(true);
        let rules = rules(self.handler, self.to, self.exec, self.time_limit, insecure)?;
        let ack = self.ack == Some(true);
        if ack && !rules.is_empty() {
            return Err(wrong(
                "`ack` is for events on stdout, and there is a handler".to_owned(),
            ));
        }
        Ok(Config {
            file,
            doubts,
            relay: relay.0,
            name,
            replace: self.replace,
            project: self.project,
            project_has_data: self.project_has_data,
            trust_project: self.trust_project,
            types: self.types,
            group: self.group,
            filter: (self.mine == Some(true) || self.teams.is_some()).then(|| Filter {
                mine: self.mine == Some(true),
                teams: self.teams,
            }),
            route: match (self.public_url, self.tunnel) {
                (Some(url), _) => Route::PublicUrl(url.0),
                (None, None | Some(TunnelChoice::None)) => Route::Pull,
                (None, Some(tunnel)) => Route::Tunnel(tunnel),
            },
            poll: self.poll.unwrap_or(Poll::DEFAULT),
            listen: self.listen.map(|listen| listen.0),
            inspect: self.inspect,
            rules,
            ack,
            concurrency,
            linear_secret,
            linear_token_file: self.linear_token_file,
            keep: self.keep.map_or(Duration::from_secs(7 * 86_400), |t| t.0),
            keep_size: self.keep_size.map_or(1_000_000_000, |size| size.0),
        })
    }
}

impl HandlerTable {
    fn rule(self, time_limit: Duration, insecure: bool) -> Result<Rule, String> {
        let pattern = self.r#type.unwrap_or_else(|| "*".to_owned());
        if !protocol::capability::is_pattern(&pattern) {
            return Err(format!(
                "`{pattern}` is no pattern: use {}",
                protocol::capability::EXAMPLES
            ));
        }
        if self.stop == OnStop::Terminate && self.exec.is_none() {
            return Err("`stop = \"terminate\"` is for `exec`".to_owned());
        }
        let action = match (self.to, self.exec) {
            (Some(target), None) => Action::Http(target),
            (None, Some(command)) if command.first().is_some_and(|c| !c.is_empty()) => {
                Action::Exec(command)
            }
            (None, Some(_)) => return Err("`exec` names no program".to_owned()),
            _ => return Err("it takes either `to` or `exec`".to_owned()),
        };
        let is_http = matches!(action, Action::Http(_));
        if let (Action::Http(target), true) = (&action, insecure)
            && !target.is_on_this_machine()
        {
            return Err("`insecure` is for a target on this machine".to_owned());
        }
        let has_headers = !self.header.is_empty() || self.headers_file.is_some();
        if !is_http && (has_headers || self.linear_secret_file.is_some()) {
            return Err(
                "`header`, `headers-file` and `linear-secret-file` are for `to`".to_owned(),
            );
        }
        if self.retries.is_some_and(|retries| retries > MAX_RETRIES) {
            return Err(format!("`retries` has to be 0 to {MAX_RETRIES}"));
        }
        let linear_secret = (self.linear_secret_file.as_deref())
            .map(read_secret)
            .transpose()
            .map_err(|error| error.to_string())?;
        Ok(Rule {
            pattern,
            action,
            time_limit: self.time_limit.map_or(time_limit, |t| t.0),
            stop: self.stop,
            pause: self.pause.map_or(Duration::ZERO, |t| t.0),
            retries: self.retries,
            headers: headers::read(&self.header, self.headers_file.as_deref())?,
            linear_secret: linear_secret.map(LinearSecret),
            insecure,
        })
    }
}

/// Validates what the worker asks for, as the relay does.
fn validate_subscription(
    types: Option<&[String]>,
    teams: Option<&[String]>,
    group: Option<&str>,
) -> Result<(), String> {
    if let Some(types) = types {
        protocol::capability::validate(types).map_err(|error| error.message("type"))?;
    }
    if teams.is_some_and(<[String]>::is_empty) {
        return Err(
            "`team` takes at least one key; leave it out to get the events of all teams".to_owned(),
        );
    }
    if group.is_some_and(|group| !is_identifier(group)) {
        return Err("`group` has to be 1 to 64 of A-Z a-z 0-9 _ -".to_owned());
    }
    Ok(())
}

/// Where the relay's address is to be written.
fn no_relay(file: Option<&Path>, exec: Option<&[String]>) -> String {
    let swallowed = exec.is_some_and(|exec| exec.iter().any(|word| word.starts_with("--relay")));
    let what = match file {
        _ if swallowed => {
            return "the relay's address is missing: `--exec` takes the rest of the line, and `--relay` with it: write it before \
                    `--exec`"
                .to_owned();
        }
        Some(file) => format!("`relay` in `{}`", file.display()),
        None => format!("`relay` in `{FILE}` (`edge-agent init` writes one)"),
    };
    format!("the relay's address is missing: use `--relay`, `EDGE_AGENT_RELAY`, or {what}")
}

/// The rules of the `[[handler]]`s, or of `to` or `exec` alone.
fn rules(
    handlers: Vec<HandlerTable>,
    to: Option<Target>,
    exec: Option<Vec<String>>,
    time_limit: Option<Span>,
    insecure: bool,
) -> Result<Vec<Rule>, Failure> {
    let time_limit = time_limit.map_or(Duration::from_secs(300), |t| t.0);
    let has_single = to.is_some() || exec.is_some();
    let tables = match (handlers.is_empty(), has_single) {
        (false, true) => {
            return Err(Failure::Configuration(
                "`to` and `exec` stand beside `[[handler]]`: make them the last `[[handler]]`"
                    .to_owned(),
            ));
        }
        (false, false) => handlers,
        (true, false) => Vec::new(),
        (true, true) => vec![HandlerTable {
            to,
            exec,
            ..HandlerTable::default()
        }],
    };
    (tables.into_iter().enumerate())
        .map(|(at, table)| {
            (table.rule(time_limit, insecure))
                .map_err(|text| Failure::Configuration(format!("handler {}: {text}", at + 1)))
        })
        .collect()
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

    use bytesize::ByteSize;

    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        std::fs::write(&file, text).unwrap();
        file::read(&file)
            .and_then(|settings| settings.config(Some(file.clone())))
            .map_err(|error| error.to_string().replace(&file.display().to_string(), FILE))
    }

    const RELAY: &str = "relay = 'https://relay.test'\nname = 'x'\n";

    #[test]
    fn a_file_can_have_all_settings_that_flags_have() {
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

    /// A file, with `;` for the ends of its lines, and a part of the error.
    const INVALID: &str = r#"
relai = 'x' => `edge-agent.toml`: line 1: there is no `relai`: did you mean `relay`?
name = 'x';;tunel = 'x' => `edge-agent.toml`: line 3: there is no `tunel`: did you mean `tunnel`?
[[handler]];timelimit = '1s' => `edge-agent.toml`: line 2: there is no `timelimit`: did you mean `time-limit`?
keep = '7' => line 1: a length of time is written like `3s`, `10m`, `1h` or `7d`
relay = 'http://example.com' => has to begin with `https://`
to = 'x' => this is no target
to = '3000';exec = ['x'] => exclude each other
pull = true;tunnel = 'auto' => exclude each other
name = 'x' => the relay's address is missing
RELAY;concurrency = 0 => `concurrency` has to be 1 to 64
RELAY;type = ['no pattern'] => `type[0]` is not a pattern
RELAY;[[handler]];type = 'Issue' => handler 1: it takes either `to` or `exec`
RELAY;[[handler]];type = '?';to = '1' => handler 1: `?` is no pattern
RELAY;[[handler]];exec = [] => handler 1: `exec` names no program
RELAY;[[handler]];to = '1';stop = 'terminate' => handler 1: `stop = "terminate"` is for `exec`
RELAY;[[handler]];exec = ['x'];stop = 'kill' => unknown variant `kill`, expected `pass` or `terminate`
RELAY;exec = './run x' => no shell is used: write the program and its arguments as a list
RELAY;[[handler]];exec = 7 => a command is written like `['./run', '--fast']`
RELAY;type = 7 => a list of texts is written like `['Issue', 'Comment.create']`
RELAY;[handler];to = '1' => a handler begins with `[[handler]]`
RELAY;poll = '8s..2s' => the first has to be the shorter one
RELAY;inspect = '0.0.0.0:4748' => the address of the inspector is `off`, or one of this machine alone
RELAY;listen = 'here' => is written like `4747` or `127.0.0.1:4747`
RELAY;poll = 3 => a length of time is written like `3s`
RELAY;to = '1';[[handler]];to = '2' => make them the last `[[handler]]`
RELAY;linear-secret-file = 'nowhere' => nowhere
"#;

    #[test]
    fn what_can_mean_one_thing_alone_is_accepted() {
        let accepted = config(&format!(
            "{RELAY}type = 'Issue'\nto = 3000\nlisten = 4747\n"
        ))
        .unwrap();
        assert_eq!(accepted.listen, Some("127.0.0.1:4747".parse().unwrap()));
        assert_eq!(accepted.types.unwrap(), ["Issue"]);
        let Action::Http(target) = &accepted.rules[0].action else {
            panic!("a port is a target");
        };
        assert_eq!(target.url().port(), Some(3000));
        let exec = config(&format!("{RELAY}exec = './run'\n")).unwrap();
        assert_eq!(exec.rules[0].action, Action::Exec(vec!["./run".to_owned()]));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (text, expected) in INVALID.lines().filter_map(|line| line.split_once(" => ")) {
            let text = text.replace("RELAY;", RELAY).replace(';', "\n");
            let error = config(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn every_setting_is_a_variable_too() {
        let read = |pairs: &[(&str, &str)]| {
            variables::parse(
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
                "TUNEL",
                "auto",
                "there is no `tunel`: did you mean `tunnel`?",
            ),
            ("POLL", "3", "a length of time is written like"),
            ("PULL", "yes", "use `true` or `false`"),
            ("CONCURRENCY", "many", "use a number"),
            ("EXEC", "x", "a command cannot be a variable"),
        ] {
            let name = format!("EDGE_AGENT_{name}");
            let error = read(&[(&name, value)]).unwrap_err();
            assert!(error.contains(&format!("`{name}`: {expected}")), "{error}");
        }
        let both = [("EDGE_AGENT_TUNNEL", "auto"), ("EDGE_AGENT_PULL", "true")];
        assert!(read(&both).unwrap_err().contains("exclude each other"));
    }

    #[test]
    fn a_flag_replaces_the_same_setting_of_the_file() {
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
        assert_eq!(both.poll, Some("9s".parse().unwrap()));
    }
}
