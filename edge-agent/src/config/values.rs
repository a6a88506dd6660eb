//! The types of settings: how each is written, and what is wrong with a value.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::failure::Failure;

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

/// Whether an address is one of this machine's loopback interface.
pub(crate) fn is_on_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(v4)) => v4.is_loopback(),
        Some(url::Host::Ipv6(v6)) => v6.is_loopback(),
        None => false,
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

/// Parses an optional setting from its text.
pub(super) fn parsed<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: std::fmt::Display>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// The secret of Linear's webhook as text. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct LinearSecret(pub(crate) String);

impl std::fmt::Debug for LinearSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinearSecret(..)")
    }
}

/// Reads a file that holds a secret and nothing else.
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
