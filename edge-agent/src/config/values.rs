//! The types of settings: how each is written, and what is wrong with a value.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::failure::Failure;
use crate::target::is_on_loopback;

/// An address that secrets and events may be sent to: by https, or on this machine.
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

/// Where to listen: an address and a port, or a port of this machine alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.strip_prefix(':').unwrap_or(text);
        (port
            .parse()
            .map(|port: u16| (Ipv4Addr::LOCALHOST, port).into()))
        .or_else(|_| text.replace("localhost:", "127.0.0.1:").parse())
        .map(Self)
        .map_err(|_| {
            "an address to listen at is written like `4747` or `127.0.0.1:4747`".to_owned()
        })
    }
}

/// Where the inspector listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inspect {
    Off,
    /// An address of loopback.
    At(SocketAddr),
}

impl FromStr for Inspect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        match text.parse() {
            Ok(Listen(address)) if address.ip().is_loopback() => Ok(Self::At(address)),
            _ => Err(
                "the address of the inspector is `off`, or one of this machine alone, like `4748` or `127.0.0.1:4748`"
                    .to_owned(),
            ),
        }
    }
}

/// A duration, written with its unit.
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

/// How often a pull worker asks: the shortest and the longest wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Poll {
    pub(crate) shortest: Duration,
    pub(crate) longest: Duration,
}

impl Poll {
    /// Fast enough for Linear, which gives an agent ten seconds for its first sign of life in a session. An agent that is not
    /// used costs the relay a quarter of one that is.
    pub(crate) const DEFAULT: Self = Self {
        shortest: Duration::from_secs(2),
        longest: Duration::from_secs(8),
    };

    /// The wait when nothing has happened for so long: the shortest for ten minutes, then twice that for ten more, and so on.
    pub(crate) fn wait(self, idle: Duration) -> Duration {
        let doublings = u32::try_from(idle.as_secs() / 600)
            .unwrap_or(u32::MAX)
            .min(16);
        (self.shortest.saturating_mul(1 << doublings)).min(self.longest)
    }
}

impl FromStr for Poll {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (shortest, longest) = text.split_once("..").unwrap_or((text, text));
        let poll = Self {
            shortest: shortest.parse::<Span>()?.0,
            longest: longest.parse::<Span>()?.0,
        };
        if poll.shortest > poll.longest {
            return Err("the first has to be the shorter one, as in `2s..8s`".to_owned());
        }
        Ok(poll)
    }
}

impl std::fmt::Display for Poll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [shortest, longest] = [self.shortest, self.longest].map(humantime::format_duration);
        if self.shortest == self.longest {
            write!(f, "{shortest}")
        } else {
            write!(f, "{shortest} to {longest}")
        }
    }
}

/// How the relay reaches this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TunnelChoice {
    /// The first of cloudflared, ngrok and tailscale that is installed; if none is, the agent pulls
    Auto,
    /// A Cloudflare quick tunnel
    Cloudflared,
    /// ngrok, with its configured account
    Ngrok,
    /// Tailscale Funnel
    Tailscale,
    /// No tunnel: the agent pulls
    None,
}

/// Parses an optional setting from its text. A number is taken as its text: `to = 3000` is a port as good as any.
pub(super) fn parsed<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: std::fmt::Display>,
    D: Deserializer<'de>,
{
    deserializer
        .deserialize_any(Text)
        .and_then(|text| text.parse().map(Some).map_err(serde::de::Error::custom))
}

/// A list of texts. One text alone is one of them, where that can mean nothing else.
pub(super) fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a list of texts is written like `['Issue', 'Comment.create']`"
    )]
    enum Texts {
        One(String),
        All(Vec<String>),
    }
    Ok(Some(match Texts::deserialize(deserializer)? {
        Texts::One(text) => vec![text],
        Texts::All(all) => all,
    }))
}

/// A program and its arguments. One text is no list of them: no shell takes it apart.
pub(super) fn command<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a command is written like `['./run', '--fast']`"
    )]
    enum Command {
        Line(String),
        Words(Vec<String>),
    }
    match Command::deserialize(deserializer)? {
        Command::Words(words) => Ok(Some(words)),
        Command::Line(line) if line.contains(char::is_whitespace) => Err(serde::de::Error::custom(
            "no shell is used: write the program and its arguments as a list, like `['./run', '--fast']`, or \
                 `['sh', '-c', '…']`",
        )),
        Command::Line(program) => Ok(Some(vec![program])),
    }
}

/// A setting that is read from its text: a number is as good as its text.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "for the schema alone")]
pub(super) enum TextOrNumber {
    Text(String),
    Number(u16),
}

/// A list of texts, or one text in the place of a list of one.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "for the schema alone")]
pub(super) enum OneOrMore {
    One(String),
    All(Vec<String>),
}

struct Text;

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text in quotes")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

/// The secret of Linear's webhook as text. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct LinearSecret(pub(crate) String);

impl std::fmt::Debug for LinearSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinearSecret(..)")
    }
}

/// Reads a file that holds a secret and nothing else. One that others can read is refused: they may have read it.
pub(crate) fn read_secret(file: &Path) -> Result<String, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::Configuration(format!("cannot read `{}`: {error}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(cannot)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(file)
            .map_err(cannot)?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            let file = file.display();
            return Err(Failure::Configuration(format!(
                "`{file}` can be read by other users of this machine: `chmod 600 {file}`, and have what is in it replaced if they \
                 may have read it"
            )));
        }
    }
    // Some editors begin a file with a byte order mark.
    match text.trim_start_matches('\u{feff}').trim() {
        "" => Err(Failure::Configuration(format!(
            "`{}` is empty",
            file.display()
        ))),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_asks_less_often_the_longer_nothing_happens() {
        let at = |poll: &str, minutes: u64| {
            let poll: Poll = poll.parse().unwrap();
            poll.wait(Duration::from_secs(minutes * 60)).as_secs()
        };
        assert_eq!(
            [0, 9, 10, 19, 20, 600].map(|minutes| at("2s..8s", minutes)),
            [2, 2, 4, 4, 8, 8]
        );
        assert_eq!([0, 600_000].map(|minutes| at("3s", minutes)), [3, 3]);
        assert_eq!(at("1h", 600_000), 3600);
        assert_eq!(at("1s..9000000000000000000s", 600_000), 65_536);
        for wrong in ["", "..", "2s..", "8s..2s", "0", "2..8"] {
            assert!(wrong.parse::<Poll>().is_err(), "{wrong}");
        }
    }
}
