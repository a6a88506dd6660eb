//! A TARGET: the address of the user's code on this machine, in a short notation.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use tokio::net::TcpStream;
use url::Url;

/// The addresses of `localhost` (RFC 6761, section 6.3), whatever the hosts file has. A server may listen on either.
pub(crate) const LOCALHOST: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// An HTTP handler's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    url: Url,
    /// The Unix socket that is connected to in the place of the URL's host.
    socket: Option<PathBuf>,
}

/// Whether a host is this one: `localhost` and every name under it (RFC 6761, section 6.3).
pub(crate) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
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

impl Target {
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Whether it is reached without a network.
    pub(crate) fn is_on_this_machine(&self) -> bool {
        self.socket.is_some()
            || self.url.host_str().is_some_and(is_localhost)
            || is_on_loopback(&self.url)
    }

    pub(crate) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }

    /// Connects, to find out whether the address is in use.
    pub(crate) async fn connect(&self) -> Result<(), String> {
        let connected = match &self.socket {
            Some(socket) => tokio::net::UnixStream::connect(socket).await.map(drop),
            None => {
                let addresses = self.addresses().await?;
                TcpStream::connect(&addresses[..]).await.map(drop)
            }
        };
        connected.map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => "nothing listens there (connection refused)".to_owned(),
            ErrorKind::NotFound => "there is no such socket".to_owned(),
            _ => error.to_string(),
        })
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let host = self.url.host_str().unwrap_or_default();
        if is_localhost(host) {
            return Ok(LOCALHOST
                .map(|a| SocketAddr::new(a.ip(), self.port()))
                .to_vec());
        }
        let name = host.trim_start_matches('[').trim_end_matches(']');
        match tokio::net::lookup_host((name, self.port())).await {
            Ok(found) => Ok(found.collect()),
            Err(_) => Err(format!("the host `{host}` is not known")),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    /// `3000`, `:3000/path`, `host:port/path`, a whole address, or `unix:/path`.
    fn from_str(text: &str) -> Result<Self, String> {
        // Not quoted: it may hold a key.
        let wrong = || {
            "this is no target: use a port (`3000`), `:3000/path`, `http://host:port/path`, or `unix:/path/of/socket`"
                .to_owned()
        };
        if let Some(socket) = text.strip_prefix("unix:") {
            return Self::of_socket(socket).ok_or_else(wrong);
        }
        let local = text.strip_prefix(':').unwrap_or(text);
        let is_local = local.starts_with(|c: char| c.is_ascii_digit())
            && !local.split('/').next().unwrap_or_default().contains('.');
        let url = if is_local {
            Url::parse(&format!("http://localhost:{local}"))
        } else if text.contains("://") {
            Url::parse(text)
        } else {
            // `localhost:3000/path`; without a port it would be read as a name that was mistyped.
            let host = text.split('/').next().unwrap_or_default();
            let with_port = host.rsplit_once(':').ok_or_else(wrong)?;
            with_port.1.parse::<u16>().map_err(|_| wrong())?;
            Url::parse(&format!("http://{text}"))
        }
        .map_err(|_| wrong())?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.host().is_some();
        if is_http && url.port() != Some(0) {
            Ok(Self { url, socket: None })
        } else {
            Err(wrong())
        }
    }
}

impl Target {
    /// `/path/of/socket`, or `/path/of/socket:/path/of/url` as nginx writes it.
    fn of_socket(text: &str) -> Option<Self> {
        let (socket, path) = text.split_once(':').unwrap_or((text, "/"));
        if !socket.starts_with('/') || !path.starts_with('/') {
            return None;
        }
        Some(Self {
            url: Url::parse("http://localhost").ok()?.join(path).ok()?,
            socket: Some(PathBuf::from(socket)),
        })
    }
}

/// Without its query, which may hold a key.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(socket) = &self.socket {
            write!(f, "unix:{}", socket.display())?;
            return match self.url.path() {
                "/" => Ok(()),
                path => write!(f, ":{path}"),
            };
        }
        let host = self.url.host_str().unwrap_or_default();
        write!(f, "{}://{host}", self.url.scheme())?;
        if let Some(port) = self.url.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.url.path())
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
    fn a_target_is_a_port_a_port_with_a_path_an_address_or_a_socket() {
        for (text, expected) in [
            ("3000", "http://localhost:3000/"),
            (":3000/hook?a=b", "http://localhost:3000/hook?a=b"),
            ("3000/hook", "http://localhost:3000/hook"),
            ("localhost:3000", "http://localhost:3000/"),
            ("app.localhost:3000/x", "http://app.localhost:3000/x"),
            ("127.0.0.1:3000", "http://127.0.0.1:3000/"),
            ("[::1]:3000/x", "http://[::1]:3000/x"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("https://dev.test/x", "https://dev.test/x"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().url().as_str(), expected);
        }
        for (text, path) in [("unix:/run/a.sock", "/"), ("unix:/run/a.sock:/x?y", "/x")] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.socket(), Some(Path::new("/run/a.sock")));
            assert_eq!(target.url().path(), path);
            assert!(text.starts_with(&target.to_string()), "{target}");
        }
        for wrong in [
            "",
            ":",
            "70000",
            "0",
            "ftp://x",
            "/path",
            "host",
            "host:http",
            "127.0.0.1",
            "3000 x",
            "unix:",
            "unix:relative",
            "unix:/a:b",
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
