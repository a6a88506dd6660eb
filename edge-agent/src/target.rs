//! A TARGET: where the user's code listens on this machine, written as short as it can be.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use url::Url;

/// An HTTP handler's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target(Url);

impl Target {
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }

    /// Host and port, for a connection that only looks whether somebody is there.
    pub(crate) fn authority(&self) -> (String, u16) {
        let host = self.0.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (
            host.to_owned(),
            self.0.port_or_known_default().unwrap_or(80),
        )
    }
}

impl FromStr for Target {
    type Err = String;

    /// `3000`, `:3000/path`, or a whole address.
    fn from_str(text: &str) -> Result<Self, String> {
        // Not quoted: it may hold a key.
        let wrong = || {
            "this is no target: use a port (`3000`), `:3000/path`, or `http://host:port/path`"
                .to_owned()
        };
        let local = text.strip_prefix(':').unwrap_or(text);
        let is_local = local.starts_with(|c: char| c.is_ascii_digit())
            && !local.split('/').next().unwrap_or_default().contains('.');
        // By name, so that a server that listens on `::1` alone is found, too.
        let url = if is_local {
            Url::parse(&format!("http://localhost:{local}"))
        } else {
            Url::parse(text)
        }
        .map_err(|_| wrong())?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.host().is_some();
        if is_http && url.port() != Some(0) {
            Ok(Self(url))
        } else {
            Err(wrong())
        }
    }
}

/// Without its query, which may hold a key.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{host}", self.0.scheme())?;
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_port_a_port_with_a_path_or_an_address() {
        for (text, expected) in [
            ("3000", "http://localhost:3000/"),
            (":3000/hook?a=b", "http://localhost:3000/hook?a=b"),
            ("3000/hook", "http://localhost:3000/hook"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("https://dev.test/x", "https://dev.test/x"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().url().as_str(), expected);
        }
        for wrong in [
            "",
            ":",
            "70000",
            "0",
            "ftp://x",
            "/path",
            "host",
            "127.0.0.1",
            "3000 x",
        ] {
            let error = wrong.parse::<Target>().unwrap_err();
            assert!(error.contains("is no target"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_query_is_not_shown() {
        let target: Target = "http://user:hush@localhost:3000/hook?key=hush"
            .parse()
            .unwrap();
        assert_eq!(target.to_string(), "http://localhost:3000/hook");
    }
}
