//! A TARGET: the address of the user's code on this machine, in a short notation.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use tokio::net::TcpStream;
use url::Url;

/// The addresses of `localhost` (RFC 6761, section 6.3), whatever the hosts file has. A server may listen on either.
pub(crate) const LOCALHOST: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// Whether a host is this one: `localhost` and every name under it (RFC 6761, section 6.3).
pub(crate) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// An HTTP handler's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target(Url);

impl Target {
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }

    /// Connects, to find out whether the address is in use.
    pub(crate) async fn connect(&self) -> Result<(), String> {
        let host = self.0.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.0.port_or_known_default().unwrap_or(80);
        let addresses: Vec<_> = if is_localhost(host) {
            LOCALHOST.map(|a| SocketAddr::new(a.ip(), port)).to_vec()
        } else {
            let found = tokio::net::lookup_host((host, port)).await;
            let found = found.map_err(|_| format!("the host `{host}` is not known"))?;
            found.collect()
        };
        match TcpStream::connect(&addresses[..]).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                Err("nothing listens there (connection refused)".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
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
